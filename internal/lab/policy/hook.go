package policy

import (
	"context"
	"maps"
	"slices"
	"sync"

	"ebs-release/internal/lab/cloud"
)

// Roles are the policies of an account: its roles by name, each with one document. It answers for
// cloud.Options.Policy, and remembers which statements decided. It is safe for use by many
// goroutines.
type Roles struct {
	documents map[string]Document
	bucket    Document // zero: the bucket has none

	mu     sync.Mutex
	used   map[string]map[string]int // role -> Sid -> how many decisions
	denied []cloud.Check
}

// NewRoles takes the documents by role name.
func NewRoles(documents map[string]Document) *Roles {
	return &Roles{documents: maps.Clone(documents), used: map[string]map[string]int{}}
}

// bucketName stands for the bucket among the roles.
const bucketName = "bucket"

// WithBucket sets the policy of the account's bucket.
func (r *Roles) WithBucket(document Document) *Roles {
	r.bucket = document
	return r
}

// Allow decides one check. The account's owner may do everything that the bucket's policy does not
// forbid; a role without a document nothing. "An explicit deny in any of these policies overrides
// the allow" (policies_evaluation-logic).
func (r *Roles) Allow(_ context.Context, check cloud.Check) bool {
	request := Request{check.Action, check.Resource, check.Conditions}
	role, decision := bucketName, r.bucket.Evaluate(request)
	if decision.Sid == "" && check.Principal.InstanceID == "" {
		return true
	}
	if decision.Sid == "" {
		role = check.Principal.Role
		decision = r.documents[role].Evaluate(request)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if decision.Sid != "" {
		if r.used[role] == nil {
			r.used[role] = map[string]int{}
		}
		r.used[role][decision.Sid]++
	}
	if !decision.Allowed {
		r.denied = append(r.denied, check)
	}
	return decision.Allowed
}

// Unused returns the Sids of a role's statements that have decided nothing so far, in the order of
// the document.
func (r *Roles) Unused(role string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(r.documents[role].Sids(), func(sid string) bool { return r.used[role][sid] > 0 })
}

// Document returns the policy of a role.
func (r *Roles) Document(role string) Document { return r.documents[role] }

// Denied returns the checks that were refused so far.
func (r *Roles) Denied() []cloud.Check {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.denied)
}
