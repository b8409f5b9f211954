// Package policy decides calls by IAM policy documents, so that every test in the lab runs under
// the policies that the project ships.
//
// It knows the policies of roles and that of a bucket, and of their language what those use: a
// document that needs more is refused, never half understood. The rules are those of the IAM User
// Guide, "IAM JSON policy reference"; each is cited by its page: "elements_condition_operators"
// stands for
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html
//
// Start reading with Evaluate; parse.go reads a document, condition.go the Condition element,
// pattern.go wildcards and policy variables, hook.go puts documents before the lab's account.
package policy

import (
	"slices"
	"strings"
)

// Document is one policy, of a role or of a bucket.
type Document struct {
	statements []statement
}

// statement allows, or denies, actions on resources under conditions.
type statement struct {
	sid       string
	deny      bool
	actions   []string // lower case, with wildcards
	resources []arn
	when      []condition
}

// Request is one question: this action on this one resource. A call that is about several resources
// asks once for each, and all must be allowed (Service Authorization Reference, "Actions,
// resources, and condition keys for Amazon EC2", required resource types).
type Request struct {
	Action   string              // ec2:AttachVolume
	Resource string              // an ARN; "*" for an action without resource types
	Context  map[string][]string // condition keys and their values: who asks (aws:userid, ec2:SourceInstanceARN) is told here, too
}

// Decision is the answer, with the statement that decided.
type Decision struct {
	Allowed bool
	Sid     string // of the statement that allowed or denied; "" when none matched, which denies ("implicit deny")
}

// Evaluate decides: denied by default, "an explicit allow overrides the default. An explicit deny
// overrides any allows" (EC2 User Guide, "Policy syntax"; IAM User Guide, "Policy evaluation
// logic"). The first statement that allows gives its Sid.
func (d Document) Evaluate(r Request) Decision {
	facts := newFacts(r.Context)
	var decision Decision
	for _, s := range d.statements {
		if !s.matches(r, facts) {
			continue
		}
		if s.deny {
			return Decision{Sid: s.sid}
		}
		if !decision.Allowed {
			decision = Decision{Allowed: true, Sid: s.sid}
		}
	}
	return decision
}

// matches says whether the statement is about the request: action, resource and every condition
// (elements_condition: "a logical AND operation").
func (s statement) matches(r Request, facts facts) bool {
	if !matchesAction(s.actions, r.Action) || !matchesResource(s.resources, r.Resource, facts) {
		return false
	}
	for _, c := range s.when {
		if !c.holds(facts) {
			return false
		}
	}
	return true
}

// matchesAction compares without regard to case: prefix and name of an action are case-insensitive
// (elements_action).
func matchesAction(patterns []string, action string) bool {
	for _, p := range patterns {
		if wildcards(p).match(strings.ToLower(action)) {
			return true
		}
	}
	return false
}

func matchesResource(patterns []arn, resource string, facts facts) bool {
	for _, p := range patterns {
		if p.match(resource, facts) {
			return true
		}
	}
	return false
}

// Sids returns the names of the statements, in the order of the document.
func (d Document) Sids() []string {
	var sids []string
	for _, s := range d.statements {
		sids = append(sids, s.sid)
	}
	return sids
}

// Denies says whether the statement is one that denies.
func (d Document) Denies(sid string) bool {
	return slices.ContainsFunc(d.statements, func(s statement) bool { return s.sid == sid && s.deny })
}

// Actions returns the actions of all statements, in lower case, in the order of the document,
// repetitions left out.
func (d Document) Actions() []string {
	var actions []string
	seen := map[string]bool{}
	for _, s := range d.statements {
		for _, a := range s.actions {
			if !seen[a] {
				seen[a] = true
				actions = append(actions, a)
			}
		}
	}
	return actions
}

// And is what a role with both has.
func (d Document) And(other Document) Document {
	return Document{slices.Concat(d.statements, other.statements)}
}

// Without returns the document less one statement: a test that takes each away in turn shows that
// none is dead.
func (d Document) Without(sid string) Document {
	var rest []statement
	for _, s := range d.statements {
		if s.sid != sid {
			rest = append(rest, s)
		}
	}
	return Document{rest}
}
