package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// version is the one version of the language that has policy variables (elements_version).
const version = "2012-10-17"

// sidForm: letters and digits of ASCII (elements_sid).
var sidForm = regexp.MustCompile(`^[A-Za-z0-9]+$`)

// actionForm is a service's prefix and a name, in which wildcards may stand (elements_action).
var actionForm = regexp.MustCompile(`^[a-z0-9-]+:[A-Za-z0-9*?]+$`)

// words is a string or a list of strings (policies_grammar).
type words []string

func (w *words) UnmarshalJSON(data []byte) error {
	var one string
	if err := json.Unmarshal(data, &one); err == nil {
		*w = words{one}
		return nil
	}
	var many []string
	if err := json.Unmarshal(data, &many); err != nil {
		return fmt.Errorf("want a string or a list of strings: %s", data)
	}
	if len(many) == 0 {
		return errors.New("want at least one value in the list")
	}
	*w = many
	return nil
}

type rawDocument struct {
	Version   string
	ID        string `json:"Id"`
	Statement []rawStatement
}

type rawStatement struct {
	Sid       string
	Effect    string
	Principal json.RawMessage
	Action    words
	Resource  words
	Condition map[string]map[string]words
}

// Parse reads the policy of a role. It is stricter than IAM: every statement has a Sid of its own,
// and what this package would not evaluate (NotAction, Principal, other operators, other keys of
// the document) is an error, as is a key given twice.
func Parse(data []byte) (Document, error) { return parse(data, rawStatement.forRole) }

// ParseBucket reads the policy of a bucket. It knows those that take rights away from everybody.
func ParseBucket(data []byte) (Document, error) { return parse(data, rawStatement.forBucket) }

func (rs rawStatement) forRole() error {
	if rs.Principal != nil { // elements_principal: "You cannot use the Principal element in an identity-based policy"
		return errors.New("the policy of a role has no Principal")
	}
	return nil
}

// forBucket: the statement must name a principal; "*" is everyone, also those without a name
// (elements_principal). Whom an Allow there lets in depends on the accounts of both sides
// (policies_evaluation-logic): the lab does not go into that.
func (rs rawStatement) forBucket() error {
	switch {
	case string(rs.Principal) != `"*"`:
		return fmt.Errorf(`the Principal is %s, and the lab knows "*" only`, rs.Principal)
	case rs.Effect != "Deny":
		return fmt.Errorf("the Effect is %q, and the lab knows Deny only for a bucket", rs.Effect)
	}
	return nil
}

func parse(data []byte, fits func(rawStatement) error) (Document, error) {
	if err := refuseDuplicates(json.NewDecoder(bytes.NewReader(data)), "the document"); err != nil {
		return Document{}, fmt.Errorf("read policy: %w", err)
	}
	var raw rawDocument
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&raw); err != nil {
		return Document{}, fmt.Errorf("read policy: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return Document{}, errors.New("read policy: there is something behind the document")
	}
	if raw.Version != version {
		return Document{}, fmt.Errorf("read policy: Version is %q, want %q: others have no policy variables", raw.Version, version)
	}
	if len(raw.Statement) == 0 {
		return Document{}, errors.New("read policy: there is no statement")
	}
	var doc Document
	seen := map[string]bool{}
	for i, rs := range raw.Statement {
		s, err := rs.parse()
		if err == nil {
			err = fits(rs)
		}
		if err != nil {
			return Document{}, fmt.Errorf("read policy: statement %d (%s): %w", i+1, rs.Sid, err)
		}
		if seen[s.sid] {
			return Document{}, fmt.Errorf("read policy: two statements have the Sid %s", s.sid)
		}
		seen[s.sid] = true
		doc.statements = append(doc.statements, s)
	}
	return doc, nil
}

func (rs rawStatement) parse() (statement, error) {
	s := statement{sid: rs.Sid, deny: rs.Effect == "Deny"}
	switch {
	case !sidForm.MatchString(rs.Sid):
		return s, errors.New("want a Sid of letters and digits")
	case rs.Effect != "Allow" && rs.Effect != "Deny":
		return s, fmt.Errorf("the Effect is %q, want Allow or Deny", rs.Effect)
	case len(rs.Action) == 0:
		return s, errors.New("there is no Action")
	case len(rs.Resource) == 0:
		return s, errors.New("there is no Resource")
	}
	for _, a := range rs.Action {
		if a != "*" && !actionForm.MatchString(a) {
			return s, fmt.Errorf("the Action %q is not SERVICE:NAME", a)
		}
		s.actions = append(s.actions, strings.ToLower(a))
	}
	for _, r := range rs.Resource {
		p, err := parseARN(r)
		if err != nil {
			return s, err
		}
		s.resources = append(s.resources, p)
	}
	for op, keys := range rs.Condition {
		for key, values := range keys {
			c, err := parseCondition(op, key, values)
			if err != nil {
				return s, err
			}
			s.when = append(s.when, c)
		}
	}
	return s, nil
}

// refuseDuplicates walks one JSON value. encoding/json lets the last of two equal keys win: a
// second "StringEquals" would lose the first one's conditions.
func refuseDuplicates(dec *json.Decoder, where string) error {
	token, err := dec.Token()
	if err != nil {
		return err
	}
	opened, ok := token.(json.Delim)
	if !ok {
		return nil
	}
	seen := map[string]bool{}
	for i := 0; dec.More(); i++ {
		inner := fmt.Sprintf("%s[%d]", where, i)
		if opened == '{' {
			token, err := dec.Token()
			if err != nil {
				return err
			}
			key, _ := token.(string) // an object's keys are strings, or Token fails
			if seen[strings.ToLower(key)] {
				return fmt.Errorf("%s has the key %s twice", where, key)
			}
			seen[strings.ToLower(key)] = true
			inner = where + "." + key
		}
		if err := refuseDuplicates(dec, inner); err != nil {
			return err
		}
	}
	_, err = dec.Token() // the closing bracket
	return err
}
