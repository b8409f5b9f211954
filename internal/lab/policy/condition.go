package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// condition is one key of one operator, with its values, of which one must match: "AWS evaluates
// the condition using a logical OR operation" (elements_condition).
type condition struct {
	key      string // lower case
	compare  func(value, given string, facts facts) bool
	values   []string
	each     string // "", forAllValues or forAnyValue
	ifExists bool
	null     bool
}

const (
	forAllValues = "ForAllValues:"
	forAnyValue  = "ForAnyValue:"
	ifExists     = "IfExists"
)

// compares are the operators (elements_condition_operators): does the value in the request, given,
// match the value in the policy?
func compares() map[string]func(value, given string, facts facts) bool {
	text := func(wild bool) func(string, string, facts) bool {
		return func(value, given string, facts facts) bool {
			p, ok := expand(value, facts, wild)
			return ok && p.match(given)
		}
	}
	arns := func(value, given string, facts facts) bool {
		p, err := parseARN(value) // parseCondition has refused what is none
		return err == nil && p.match(given, facts)
	}
	numbers := func(value, given string, _ facts) bool { // parseCondition has refused a value that is no number
		limit, _ := strconv.ParseFloat(value, 64)
		n, err := strconv.ParseFloat(given, 64)
		return err == nil && n <= limit
	}
	return map[string]func(string, string, facts) bool{
		"NumericLessThanEquals": numbers,
		"StringEqualsIgnoreCase": func(value, given string, facts facts) bool {
			p, ok := expand(strings.ToLower(value), facts, false)
			return ok && p.match(strings.ToLower(given))
		},
		"StringEquals": text(false),
		"StringLike":   text(true),
		"ArnEquals":    arns, // the same as ArnLike
		"ArnLike":      arns,
		"Bool":         func(value, given string, _ facts) bool { return strings.EqualFold(value, given) },
	}
}

func parseCondition(operator, key string, values []string) (condition, error) {
	c := condition{key: strings.ToLower(key), values: values}
	name := operator
	for _, each := range []string{forAllValues, forAnyValue} {
		if rest, ok := strings.CutPrefix(name, each); ok {
			c.each, name = each, rest
		}
	}
	base, exists := strings.CutSuffix(name, ifExists)
	c.ifExists = exists
	if name == "Null" && c.each == "" {
		c.null = true
		return c, checkTruth(operator, key, values)
	}
	c.compare = compares()[base]
	if c.compare == nil {
		return c, fmt.Errorf("operator %s is not one that the lab knows", operator)
	}
	if !strings.Contains(key, ":") {
		return c, fmt.Errorf("condition key %q has no prefix, such as aws: or ec2: before the name", key)
	}
	if base == "Bool" {
		return c, checkTruth(operator, key, values)
	}
	for _, v := range values {
		if _, err := strconv.ParseFloat(v, 64); err != nil && strings.HasPrefix(base, "Numeric") {
			return c, fmt.Errorf("%s %s: %q is not a number", operator, key, v)
		}
		if strings.Contains(v, "${") && base == "StringEqualsIgnoreCase" {
			return c, fmt.Errorf("%s %s: the lab knows no variables there", operator, key)
		}
		if err := checkVariables(v); err != nil {
			return c, err
		}
		if strings.HasPrefix(base, "Arn") {
			if _, err := parseARN(v); err != nil {
				return c, fmt.Errorf("%s %s: %w", operator, key, err)
			}
		}
	}
	return c, nil
}

func checkTruth(operator, key string, values []string) error {
	for _, v := range values {
		if v != "true" && v != "false" {
			return fmt.Errorf("%s %s: %q is neither true nor false", operator, key, v)
		}
	}
	return nil
}

// holds evaluates the condition.
//
// A key that is not in the request: no match; with IfExists a match; with ForAllValues a match, too
// (true when there are no keys in the request: condition-single-vs-multi-valued-context-keys), with
// ForAnyValue none. Several values for a key without ForAllValues or ForAnyValue never match: IAM
// asks for one of the two there.
func (c condition) holds(facts facts) bool {
	given := facts[c.key]
	if c.null { // true asks that the key is missing, false that it is there
		missing := fmt.Sprint(len(given) == 0)
		return slices.Contains(c.values, missing)
	}
	if len(given) == 0 {
		return c.ifExists || c.each == forAllValues
	}
	matches := func(g string) bool {
		return slices.ContainsFunc(c.values, func(v string) bool { return c.compare(v, g, facts) })
	}
	switch c.each {
	case forAllValues:
		return !slices.ContainsFunc(given, func(g string) bool { return !matches(g) })
	case forAnyValue:
		return slices.ContainsFunc(given, matches)
	default:
		return len(given) == 1 && matches(given[0])
	}
}
