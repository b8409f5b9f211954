// Package iam has the policies of the two roles, and of a bucket that is a store, as they are
// shipped, for those who evaluate them: the lab.
package iam

import (
	_ "embed"
	"strings"
)

// Agent is the policy of the members' role, Publisher that of the release server's.
var (
	//go:embed agent.json
	Agent string
	//go:embed publisher.json
	Publisher string
	//go:embed bucket.json
	bucket string
	//go:embed launch-hook.json
	launchHook string
	//go:embed launch-template.json
	launchTemplate string
)

// Bucket is the policy of a bucket whose store is below a prefix, "" for none.
func Bucket(name, prefix string) string {
	place := name
	if prefix != "" {
		place += "/" + prefix
	}
	return strings.ReplaceAll(strings.ReplaceAll(bucket, "BUCKET/PREFIX", place), "BUCKET", name)
}

// LaunchTemplate is what the release server's role needs besides, for launch templates that follow
// the release: by an id.
func LaunchTemplate(id string) string { return strings.ReplaceAll(launchTemplate, "TEMPLATE", id) }

// LaunchHook is what a member's role needs besides, to complete the launch hook of its group.
func LaunchHook(group string) string { return strings.ReplaceAll(launchHook, "GROUP", group) }
