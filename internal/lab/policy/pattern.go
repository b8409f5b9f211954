package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// facts are the condition keys of a request, by their names in lower case: "Key names are
// case-insensitive" (reference_policies_variables), and in aws:ResourceTag/KEY the tag's key is not
// case-sensitive either (reference_policies_condition-keys, aws:ResourceTag). Of two tags whose
// keys differ only in case IAM compares one, "but not both", and does not say which: here it is the
// one that a program of ours would not have set.
type facts map[string][]string

func newFacts(context map[string][]string) facts {
	f := facts{}
	for _, key := range slices.Backward(slices.Sorted(maps.Keys(context))) { // capital letters come first, so they win
		f[strings.ToLower(key)] = context[key]
	}
	return f
}

// piece is a part of a pattern: text that stands for itself, or a wildcard.
type piece struct {
	text string // when wild is 0
	wild byte   // '*' for any number of characters, '?' for exactly one
}

type pattern []piece

// wildcards reads a pattern without policy variables.
func wildcards(s string) pattern {
	var p pattern
	for {
		i := strings.IndexAny(s, "*?")
		if i < 0 {
			return append(p, piece{text: s})
		}
		p = append(p, piece{text: s[:i]}, piece{wild: s[i]})
		s = s[i+1:]
	}
}

func (p pattern) match(s string) bool {
	for i, part := range p {
		switch {
		case part.wild == '*':
			for n := range len(s) + 1 {
				if p[i+1:].match(s[n:]) {
					return true
				}
			}
			return false
		case part.wild == '?':
			if s == "" {
				return false
			}
			s = s[1:] // what IAM compares here is ASCII
		default:
			rest, ok := strings.CutPrefix(s, part.text)
			if !ok {
				return false
			}
			s = rest
		}
	}
	return s == ""
}

// expand reads a value with policy variables (reference_policies_variables): ${key}, ${key,
// 'default'}, and ${*}, ${?}, ${$} for those characters. What a variable stands for is text: a * in
// it is no wildcard (the reference is silent there; this is the reading that grants less).
// Wildcards outside of variables are wildcards when wild is set. A variable without a value has "no
// equal or like value": ok is false. A multivalued key cannot be a variable.
func expand(s string, facts facts, wild bool) (p pattern, ok bool) {
	for s != "" {
		before, rest, found := strings.Cut(s, "${")
		if wild {
			p = append(p, wildcards(before)...)
		} else {
			p = append(p, piece{text: before})
		}
		if !found {
			break
		}
		var name string
		name, s, _ = strings.Cut(rest, "}") // checkVariables has seen the brace
		text, ok := variable(name, facts)
		if !ok {
			return nil, false
		}
		p = append(p, piece{text: text})
	}
	return p, true
}

func variable(name string, facts facts) (string, bool) {
	switch name {
	case "*", "?", "$":
		return name, true
	}
	key, fallback, hasFallback := strings.Cut(name, ",")
	switch values := facts[strings.ToLower(strings.TrimSpace(key))]; {
	case len(values) == 1:
		return values[0], true
	case len(values) == 0 && hasFallback:
		return strings.Trim(strings.TrimSpace(fallback), "'"), true
	}
	return "", false
}

// checkVariables refuses a variable that does not end, or has no key.
func checkVariables(s string) error {
	for {
		_, rest, found := strings.Cut(s, "${")
		if !found {
			return nil
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed || name == "" || strings.Contains(name, "${") {
			return fmt.Errorf("%q has a policy variable without its closing brace or its name", s)
		}
		s = after
	}
}

// arn is a pattern over ARNs, compared segment by segment: each of the six components between
// colons is checked on its own and may hold wildcards (elements_condition_operators, ARN). In the
// Resource element IAM lets a * at the end of a segment go on beyond the colon (elements_resource);
// comparing segments there, too, grants less, and is the same for ARNs of EC2.
type arn struct {
	any      bool // "*"
	segments [6]string
}

func parseARN(s string) (arn, error) {
	if s == "*" {
		return arn{any: true}, nil
	}
	if err := checkVariables(s); err != nil {
		return arn{}, err
	}
	parts := strings.SplitN(s, ":", 6)
	if len(parts) != 6 || parts[0] != "arn" {
		return arn{}, fmt.Errorf("%q is neither an ARN nor *", s)
	}
	for _, p := range parts[:5] {
		// "You can't use a variable to replace parts of the ARN before the fifth colon"
		// (reference_policies_variables).
		if strings.Contains(p, "$") {
			return arn{}, fmt.Errorf("%q has a policy variable before the resource", s)
		}
	}
	if strings.ContainsAny(parts[2], "*?") { // elements_resource: "You can't use a wildcard in the service segment"
		return arn{}, fmt.Errorf("%q has a wildcard as its service", s)
	}
	return arn{segments: [6]string(parts)}, nil
}

func (a arn) match(s string, facts facts) bool {
	if a.any {
		return true
	}
	parts := strings.SplitN(s, ":", 6)
	if len(parts) != 6 {
		return false
	}
	for i, segment := range a.segments {
		p, ok := expand(segment, facts, true)
		if !ok || !p.match(parts[i]) {
			return false
		}
	}
	return true
}
