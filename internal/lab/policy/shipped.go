package policy

import (
	"fmt"
	"strings"

	"ebs-release/internal/lab/bucket"
	"ebs-release/packaging/iam"
)

// LaunchedRole is the agent's with the rights to complete a launch hook.
const LaunchedRole = "ebs-release-agent-launched"

// TemplatesRole is the publisher's with the rights on all launch templates.
const TemplatesRole = "ebs-release-publisher-templates"

// Shipped are the two roles, LaunchedRole, TemplatesRole and the lab's bucket with the policies
// that the packages come with; without takes statements of the roles out, each as role/Sid.
func Shipped(without ...string) (*Roles, error) {
	documents := map[string]Document{}
	for role, text := range map[string]string{"ebs-release-agent": iam.Agent, "ebs-release-publisher": iam.Publisher} {
		document, err := Parse([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("policy of %s: %w", role, err)
		}
		for _, statement := range without {
			if of, sid, _ := strings.Cut(statement, "/"); of == role {
				document = document.Without(sid)
			}
		}
		documents[role] = document
	}
	hook, err := Parse([]byte(iam.LaunchHook("*")))
	if err != nil {
		return nil, fmt.Errorf("policy of the launch hook: %w", err)
	}
	documents[LaunchedRole] = documents["ebs-release-agent"].And(hook)
	templates, err := Parse([]byte(iam.LaunchTemplate("*")))
	if err != nil {
		return nil, fmt.Errorf("policy of launch templates: %w", err)
	}
	documents[TemplatesRole] = documents["ebs-release-publisher"].And(templates)
	of, err := ParseBucket([]byte(iam.Bucket(bucket.Name, bucket.Prefix)))
	if err != nil {
		return nil, fmt.Errorf("policy of the bucket: %w", err)
	}
	return NewRoles(documents).WithBucket(of), nil
}
