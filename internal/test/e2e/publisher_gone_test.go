package e2e

import (
	"testing"
	"time"

	"ebs-release/internal/lab/cloud"
)

// TestMemberThatGoesBetweenActivationAndReport: its volume goes with it, and EC2 refuses to tag all
// volumes of that call: under the shipped policies, whose conditions are on a volume's tags, as
// UnauthorizedOperation. The others are reported all the same, and the member is gone, not failed.
func TestMemberThatGoesBetweenActivationAndReport(t *testing.T) {
	r := published(t, nil)
	r.scale(3)
	r.sh("echo two > /srv/source/version")
	ctx := within(t, 60*time.Second)
	left := func() (n int) {
		for _, v := range r.lab.Account.Volumes() {
			if v.Tags["ebs-release:role"] == "member" {
				n++
			}
		}
		return n
	}
	disarm := r.lab.Account.Fault(cloud.Fault{
		Action: "CreateTags", Principal: r.server.ID, Skip: 1, Times: 1, // after P0's DryRun
		Effect: cloud.Effect{Do: func(cloud.Call) {
			if err := r.lab.Account.SetDesired("web", 2); err != nil {
				t.Error(err)
			}
			if err := r.lab.Account.Wait(ctx, func() bool { return left() == 2 }); err != nil {
				t.Errorf("the volume of the member that went: %v", err)
			}
		}},
	})
	defer disarm()
	o := r.publishJSON("/srv/source")
	if o.Result != "converged" || o.OnIt != 2 || o.Total != 2 || o.Gone != 1 {
		t.Errorf("%+v", o)
	}
	refusals := 0
	for _, c := range r.lab.Account.CallsBy(r.server.ID) {
		if c.Action == "CreateTags" && c.Code == "UnauthorizedOperation" {
			refusals++
		}
	}
	if refusals != 1 {
		t.Errorf("%d calls of CreateTags were refused, want the one for all three volumes", refusals)
	}
	for _, m := range r.status().Members {
		if m.LifecycleState == "InService" && m.Generation != 2 {
			t.Errorf("%+v", m)
		}
	}
}
