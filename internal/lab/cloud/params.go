package cloud

import (
	"encoding/base64"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// params reads the parameters of a Query request (EC2 developer guide, "Query parameters": lists
// are Name.1, Name.2, …; Auto Scaling's are Name.member.1, …). It remembers the first thing wrong
// and which parameters were read: one that nobody read is refused, never ignored.
type params struct {
	form   url.Values
	prefix string // of a structure within the request
	state  *paramState
}

type paramState struct {
	used map[string]bool
	err  error
}

func newParams(form url.Values) params {
	p := params{form: form, state: &paramState{used: map[string]bool{}}}
	for _, name := range []string{"Action", "Version", "DryRun"} {
		p.state.used[name] = true
	}
	return p
}

// end returns the first error, or UnknownParameter for one that nobody read ("Error codes for the
// Amazon EC2 API").
func (p params) end() error {
	if p.state.err != nil {
		return p.state.err
	}
	var left []string
	for name := range p.form {
		if !p.state.used[name] {
			left = append(left, name)
		}
	}
	if len(left) > 0 {
		return fail("UnknownParameter", "The parameter %s is not recognized", slices.Min(left))
	}
	return nil
}

func (p params) wrong(err error) {
	if p.state.err == nil {
		p.state.err = err
	}
}

func (p params) has(name string) bool { return p.form.Has(p.prefix + name) }

func (p params) str(name string) string {
	p.state.used[p.prefix+name] = true
	return p.form.Get(p.prefix + name)
}

func (p params) need(name string) string {
	v := p.str(name)
	if v == "" {
		p.wrong(fail("MissingParameter", "The request must contain the parameter %s", p.prefix+name))
	}
	return v
}

// id reads a resource id and checks its form; "" stays "".
func (p params) id(name, kind string) string {
	v := p.str(name)
	if v != "" {
		if err := malformed(kind, v); err != nil {
			p.wrong(err)
		}
	}
	return v
}

func (p params) needID(name, kind string) string {
	p.need(name)
	return p.id(name, kind)
}

func (p params) ids(name, kind string) []string {
	list := p.list(name)
	for _, v := range list {
		if err := malformed(kind, v); err != nil {
			p.wrong(err)
		}
	}
	return list
}

// number reads an integer between low and high, or returns other when there is none.
func (p params) number(name string, other, low, high int32) int32 {
	v := p.str(name)
	if v == "" {
		return other
	}
	n, err := strconv.ParseInt(v, 10, 32)
	if err != nil || n < int64(low) || n > int64(high) {
		p.wrong(fail("InvalidParameterValue",
			"Value ( %s ) for parameter %s is invalid. Expecting a value between %d and %d.", v, p.prefix+name, low, high))
		return other
	}
	return int32(n)
}

func (p params) boolean(name string, other bool) bool {
	switch v := p.str(name); strings.ToLower(v) {
	case "":
		return other
	case "true":
		return true
	case "false":
		return false
	default:
		p.wrong(fail("InvalidParameterValue", "Value (%s) for parameter %s is invalid. Invalid boolean value", v, p.prefix+name))
		return other
	}
}

func (p params) base64(name string) []byte {
	v, err := base64.StdEncoding.DecodeString(p.str(name))
	if err != nil {
		p.wrong(fail("InvalidParameterValue", "Invalid BASE64 encoding of %s", p.prefix+name))
	}
	return v
}

// list reads name.1, name.2, …
func (p params) list(name string) []string {
	var out []string
	for i := 1; p.has(name + "." + strconv.Itoa(i)); i++ {
		out = append(out, p.str(name+"."+strconv.Itoa(i)))
	}
	return out
}

// each returns the structures name.1, name.2, …
func (p params) each(name string) []params {
	var out []params
	for i := 1; ; i++ {
		prefix := p.prefix + name + "." + strconv.Itoa(i) + "."
		if !slices.ContainsFunc(keysOf(p.form), func(k string) bool { return strings.HasPrefix(k, prefix) }) {
			return out
		}
		out = append(out, params{p.form, prefix, p.state})
	}
}

func keysOf(form url.Values) []string {
	out := make([]string, 0, len(form))
	for k := range form {
		out = append(out, k)
	}
	return out
}
