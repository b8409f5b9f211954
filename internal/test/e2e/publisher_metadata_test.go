package e2e

import (
	"testing"
	"time"

	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/host"
)

// TestSlowMetadataStopsNoPublish: region and keys of the release server come from a metadata
// service that needs longer than the SDK's own 0.5 s, loses an answer, or has no keys for a moment.
func TestSlowMetadataStopsNoPublish(t *testing.T) {
	r := published(t, nil)
	r.scale(1)
	for _, tc := range []struct {
		name, action string
		times        int
		effect       cloud.Effect
	}{
		{"all is slow", "* /latest/*", 0, cloud.Effect{Delay: 800 * time.Millisecond}},
		{"a token is lost", "PUT /latest/api/token", 1, cloud.Effect{Fail: cloud.Hang}},
		{"the document is not there yet", "GET /latest/dynamic/*", 1, cloud.Effect{Fail: cloud.NotFound}},
		{"the keys are lost", "GET /latest/meta-data/iam/*", 1, cloud.Effect{Fail: cloud.Hang}},
		{"the keys are not there yet", "GET /latest/meta-data/iam/*", 1, cloud.Effect{Fail: cloud.NotFound}},
		{"the service is overloaded", "* /latest/*", 2, cloud.Effect{Fail: cloud.Throttle}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := r.in(t)
			defer r.lab.Account.Fault(cloud.Fault{Action: tc.action, Principal: r.server.ID, Times: tc.times, Effect: tc.effect})()
			r.ok("publish", "/srv/source")
		})
	}
	t.Run("it never answers", func(t *testing.T) {
		r := r.in(t)
		defer r.lab.Account.Fault(cloud.Fault{Action: "* /latest/*", Principal: r.server.ID, Effect: cloud.Effect{Fail: cloud.Hang}})()
		r.unchanged(func() host.Output { return r.publisher("publish", "/srv/source") }, 3, "no AWS region is known", "PUT for the token", "IMDS")
	})
	t.Run("there is no role", func(t *testing.T) {
		r := r.in(t)
		defer r.lab.Account.Fault(cloud.Fault{Action: "GET /latest/meta-data/iam/*", Principal: r.server.ID, Effect: cloud.Effect{Fail: cloud.NotFound}})()
		r.unchanged(func() host.Output { return r.publisher("publish", "/srv/source") }, 3, "there are no AWS credentials", "give this instance a role")
	})
}
