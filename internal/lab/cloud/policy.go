package cloud

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Principal is who makes a call.
type Principal struct {
	Account    string
	ARN        string // of the user, or of the assumed role session
	UserID     string // aws:userid: "AROA…:i-…" for an instance
	InstanceID string // "" for the account's owner
	Role       string // "" for the account's owner
}

// Name is the principal in lists of calls: the instance's id, or "admin".
func (p Principal) Name() string {
	if p.InstanceID != "" {
		return p.InstanceID
	}
	return "admin"
}

// Check is one question to the policy: may the principal do this to that resource? A call asks as
// many as EC2 evaluates: CreateVolume from a snapshot with tags asks for the volume, the snapshot
// and ec2:CreateTags (Service Authorization Reference, "Actions, resources, and condition keys for
// Amazon EC2").
type Check struct {
	Principal Principal
	Action    string // ec2:CreateVolume
	Resource  string // an ARN, or "*"
	// Conditions are the condition keys that hold for this action and resource, with their values:
	// aws:RequestTag/KEY, aws:TagKeys, aws:ResourceTag/KEY, ec2:ResourceTag/KEY, ec2:CreateAction,
	// ec2:SourceInstanceARN and so on.
	Conditions map[string][]string
}

// Policy decides; nil allows everything.
type Policy func(ctx context.Context, check Check) bool

// target is what a call is about: the resource and its own condition keys.
type target struct {
	arn        string
	conditions map[string][]string
}

// authorize asks the policy about each target, then ends a dry run: "DryRunOperation if you have
// the required permissions, otherwise UnauthorizedOperation" (DryRun, in every action of the EC2
// API reference). It comes after the parameters are read and before any state is looked at.
func (c *call) authorize(targets ...target) error {
	for _, t := range targets {
		if err := c.ask(c.service+":"+c.action, t); err != nil {
			return err
		}
	}
	if c.dryRun {
		return &apiError{"DryRunOperation", "Request would have succeeded, but DryRun flag is set.", http.StatusPreconditionFailed}
	}
	return nil
}

// mayRead is all that a call has to pass which reads something of the account's own.
func (c *call) mayRead() error {
	if err := c.params.end(); err != nil {
		return err
	}
	return c.authorize(target{arn: "*"})
}

// ask asks about one action and one target.
func (c *call) ask(action string, t target) error {
	if slices.Contains([]string{"ec2:CreateVolume", "ec2:CreateSnapshot"}, action) && strings.HasSuffix(t.arn, "/*") {
		for _, key := range c.account.opts.RequiredTags {
			if t.conditions["aws:RequestTag/"+key] == nil {
				return denied(c.principal.ARN, action, t.arn)
			}
		}
	}
	if c.account.opts.Policy == nil {
		return nil
	}
	conditions := map[string][]string{
		"aws:RequestedRegion":  {c.account.opts.Region},
		"aws:PrincipalArn":     {c.principal.ARN},
		"aws:PrincipalAccount": {c.principal.Account},
		"aws:userid":           {c.principal.UserID},
	}
	if c.service == "ec2" {
		conditions["ec2:Region"] = []string{c.account.opts.Region}
	}
	if c.principal.InstanceID != "" {
		conditions["ec2:SourceInstanceARN"] = []string{c.account.arn("instance", c.principal.InstanceID)}
	}
	maps.Copy(conditions, t.conditions)
	if c.account.opts.Policy(c.ctx, Check{c.principal, action, t.arn, conditions}) {
		return nil
	}
	return unauthorized(c.service, c.principal.ARN, action, t.arn)
}

// unauthorized is UnauthorizedOperation for EC2 ("Error codes for the Amazon EC2 API"),
// AccessDenied for the others ("Common errors").
func unauthorized(service, who, action, resource string) *apiError {
	message := fmt.Sprintf("User: %s is not authorized to perform: %s on resource: %s because no identity-based policy allows the %s action",
		who, action, resource, action)
	if service == "ec2" {
		return &apiError{"UnauthorizedOperation", "You are not authorized to perform this operation. " + message, http.StatusForbidden}
	}
	return &apiError{"AccessDenied", message, http.StatusForbidden}
}

// denied is the refusal by a policy of the organization, with the reason encoded
// ("DecodeAuthorizationMessage", STS API reference).
func denied(who, action, resource string) *apiError {
	message := fmt.Sprintf("You are not authorized to perform this operation. "+
		"User: %s is not authorized to perform: %s on resource: %s with an explicit deny in a "+
		"service control policy. Encoded authorization failure message: %s", who, action, resource, strings.Repeat("q3cvVhbd0K8s", 40))
	return &apiError{"UnauthorizedOperation", message, http.StatusForbidden}
}

// arn returns the ARN of an EC2 resource; kind is volume, snapshot, instance or image.
func (a *Account) arn(kind, id string) string {
	owner := a.opts.AccountID
	if kind == "snapshot" || kind == "image" { // their ARNs have no account: arn:aws:ec2:REGION::snapshot/ID
		owner = ""
	}
	return fmt.Sprintf("arn:aws:ec2:%s:%s:%s/%s", a.opts.Region, owner, kind, id)
}

// resourceTarget is an existing resource with its tags; one that does not exist has none.
func (c *call) resourceTarget(kind, id string) target {
	a := c.account
	a.mu.Lock()
	tags := a.tagsOf(kind, id)
	a.mu.Unlock()
	conditions := map[string][]string{}
	for key, value := range tags {
		conditions["aws:ResourceTag/"+key] = []string{value}
		conditions["ec2:ResourceTag/"+key] = []string{value}
	}
	if kind == "instance" { // a key of that resource type (Service Authorization Reference, "Condition keys for Amazon EC2")
		conditions["ec2:InstanceID"] = []string{id}
	}
	return target{a.arn(kind, id), conditions}
}

// newTarget is a resource that the call makes, with the tags that the request gives it.
func (c *call) newTarget(kind string, tags map[string]string, conditions map[string][]string) target {
	conditions = maps.Clone(conditions)
	if conditions == nil {
		conditions = map[string][]string{}
	}
	maps.Copy(conditions, requestTags(tags))
	return target{c.account.arn(kind, "*"), conditions}
}

func requestTags(tags map[string]string) map[string][]string {
	out := map[string][]string{}
	if len(tags) > 0 {
		out["aws:TagKeys"] = sortedKeys(tags)
	}
	for key, value := range tags {
		out["aws:RequestTag/"+key] = []string{value}
	}
	return out
}

// authorizeTagging asks for ec2:CreateTags on what a create call makes ("Grant permission to tag
// Amazon EC2 resources during creation"). It comes before authorize, which ends a dry run.
func (c *call) authorizeTagging(kind string, tags map[string]string) error {
	if len(tags) == 0 {
		return nil
	}
	return c.ask("ec2:CreateTags", c.newTarget(kind, tags, map[string][]string{"ec2:CreateAction": {c.action}}))
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func truth(b bool) []string { return []string{strconv.FormatBool(b)} }

func digits(n int32) []string { return []string{strconv.Itoa(int(n))} }
