// Package iam has the policies of the two roles as they are shipped, for those who evaluate them:
// the lab.
package iam

import _ "embed"

// Agent is the policy of the members' role, Publisher that of the release server's.
var (
	//go:embed agent.json
	Agent string
	//go:embed publisher.json
	Publisher string
)
