package cloud

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// filter is one Filter of a Describe call: values are alternatives, several filters must all match,
// * and ? are wildcards (EC2 User Guide, "List and filter using the CLI and API").
type filter struct {
	name   string
	values []string
}

// fields says for each filter name of one kind of resource which values it has. tag:KEY, tag-key
// and tag-value come on top.
type fields[T any] map[string]func(T) []string

func one(v string) []string { return []string{v} }

// filters reads Filter.N.Name, Filter.N.Value.M; for Auto Scaling, prefix is Filters.member and
// value Values.member.
func (p params) filters(prefix, value string) []filter {
	var out []filter
	values := 0
	for _, f := range p.each(prefix) {
		next := filter{f.need("Name"), f.list(value)}
		values += len(next.values)
		out = append(out, next)
	}
	// "The maximum number of filter values specified on a single call" is 200 (error code
	// FilterLimitExceeded): of all its filters together (row 36).
	if values > 200 {
		p.wrong(fail("FilterLimitExceeded", "The maximum number of filter values specified on a single call is 200"))
	}
	return out
}

// check refuses filter names that the resource does not have.
func check[T any](filters []filter, known fields[T]) error {
	for _, f := range filters {
		if _, ok := known[f.name]; !ok && !strings.HasPrefix(f.name, "tag:") && f.name != "tag-key" && f.name != "tag-value" {
			return fail("InvalidParameterValue", "The filter '%s' is invalid", f.name)
		}
	}
	return nil
}

func matches[T any](filters []filter, known fields[T], v T, tags map[string]string) bool {
	for _, f := range filters {
		var have []string
		switch key, isTag := strings.CutPrefix(f.name, "tag:"); {
		case isTag:
			if value, ok := tags[key]; ok {
				have = one(value)
			}
		case f.name == "tag-key":
			for key := range tags {
				have = append(have, key)
			}
		case f.name == "tag-value":
			for _, value := range tags {
				have = append(have, value)
			}
		default:
			have = known[f.name](v)
		}
		if !anyMatch(f.values, have) {
			return false
		}
	}
	return true
}

func anyMatch(patterns, values []string) bool {
	for _, p := range patterns {
		for _, v := range values {
			if wildcard(p, v) {
				return true
			}
		}
	}
	return false
}

// wildcard matches * (any number of characters), ? (one) and \ (the next one literally).
func wildcard(pattern, s string) bool {
	for pattern != "" {
		switch pattern[0] {
		case '*':
			for i := 0; i <= len(s); i++ {
				if wildcard(pattern[1:], s[i:]) {
					return true
				}
			}
			return false
		case '?':
			if s == "" {
				return false
			}
		case '\\':
			if len(pattern) > 1 {
				pattern = pattern[1:]
			}
			fallthrough
		default:
			if s == "" || s[0] != pattern[0] {
				return false
			}
		}
		pattern, s = pattern[1:], s[1:]
	}
	return s == ""
}

// page cuts one page out of a list. The token says after which resource to go on, so resources that
// come or go between two pages do not shift the rest. Pages are cut before filters are looked at: a
// page may be short, even empty, and still have a NextToken (aws-cli #3928).
func page[T any](list []entry[T], max int32, token string) (out []entry[T], next string, err error) {
	after := 0
	if token != "" {
		raw, err := base64.RawURLEncoding.DecodeString(token)
		if err == nil {
			after, err = strconv.Atoi(strings.TrimPrefix(string(raw), "after "))
		}
		if err != nil {
			return nil, "", fail("InvalidParameterValue", "Invalid value '%s' for NextToken", token)
		}
	}
	for _, e := range list {
		if e.sequence <= after {
			continue
		}
		if max > 0 && int32(len(out)) == max {
			return out, base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "after %d", out[len(out)-1].sequence)), nil
		}
		out = append(out, e)
	}
	return out, "", nil
}

// wireTime is the form of times in EC2's answers.
func wireTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }
