package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/policy"
	"ebs-release/packaging/iam"
)

// TestNoStatementOfThePoliciesIsDead: a life that uses all rights goes through under the shipped
// policies with nothing refused, and with any one statement taken out something is refused.
func TestNoStatementOfThePoliciesIsDead(t *testing.T) {
	t.Run("all statements", func(t *testing.T) {
		roles := shippedPolicies(t)
		t.Run("lives", func(t *testing.T) { // it ends when both have ended
			for store, inS3 := range map[string]bool{"a directory": false, "a bucket": true} {
				t.Run(store, func(t *testing.T) {
					if err := life(t, roles, inS3); err != nil {
						t.Error(err)
					}
				})
			}
		})
		for _, c := range roles.Denied() {
			t.Errorf("refused: %+v", c)
		}
		for _, role := range []string{"ebs-release-agent", "ebs-release-publisher"} {
			unused := slices.DeleteFunc(roles.Unused(role), roles.Document(role).Denies)
			if len(unused) > 0 {
				t.Errorf("%s: nothing used %v", role, unused)
			}
		}
	})
	for role, text := range map[string]string{"ebs-release-agent": iam.Agent, "ebs-release-publisher": iam.Publisher} {
		document, err := policy.Parse([]byte(text))
		must(t, err)
		for _, sid := range document.Sids() {
			if document.Denies(sid) { // packaging's test of the policies needs each
				continue
			}
			t.Run("without "+role+" "+sid, func(t *testing.T) {
				roles := shippedPolicies(t, role+"/"+sid)
				byTags := strings.HasPrefix(sid, "ReportOn")
				err := life(t, roles, !byTags)
				if len(roles.Denied()) == 0 {
					t.Errorf("nothing was refused; the life ended with %v", err)
				}
			})
		}
	}
}

// life is a release server and a member, from init to the end, with what goes wrong at times. It
// ends at the first step that fails.
func life(t *testing.T, roles *policy.Roles, inS3 bool) error {
	r := newRig(t, func(o *lab.Options) {
		o.Policy = roles.Allow
		o.S3 = inS3
		o.AgentSettings["deadline"] = "4s"
		o.PublisherSettings["converge-deadline"] = "4s"
	})
	publisher := func(args ...string) error {
		if out := r.publisher(args...); out.Code != 0 {
			return fmt.Errorf("ebs-release %v: exit %d: %s", args, out.Code, lastLine(out.Stderr))
		}
		return nil
	}
	r.sh("mkdir /srv/source; echo one > /srv/source/version")
	if err := publisher("init", "--size", "1"); err != nil {
		return err
	}
	if err := publisher("init"); err != nil { // finds what it made
		return err
	}
	if err := publisher("publish", "/srv/source"); err != nil {
		return err
	}
	must(t, r.lab.Account.SetDesired("web", 1))
	if _, err := r.lab.AllBooted(within(t, 20*time.Second), "web", 1); err != nil {
		return err
	}
	alone, err := r.member()
	if err != nil {
		return err
	}
	if !inS3 { // one with a volume that EC2 brought tags itself
		must(t, r.lab.Account.SetLaunch("web", bringing(r.lab.Member(), r.releaseSnapshot(1))))
		must(t, r.lab.Account.SetDesired("web", 2))
		if _, err := r.lab.AllBooted(within(t, 20*time.Second), "web", 2); err != nil {
			return err
		}
	}
	r.sh("echo two > /srv/source/version")
	if err := publisher("publish", "/srv/source"); err != nil { // reports for the members
		return err
	}
	if err := r.lab.Reboot(within(t, 20*time.Second), alone.ID); err != nil { // detaches and deletes its older volume
		return err
	}
	// A snapshot that fails is deleted, and the release is live without it.
	r.lab.Account.Fault(cloud.Fault{Action: "CreateSnapshot", Effect: cloud.Effect{Disk: cloud.DiskFault{Error: true}}})
	r.sh("echo three > /srv/source/version")
	if out := r.publisher("publish", "/srv/source"); out.Code != 7 || !strings.Contains(out.Stderr, "its snapshot is not there") {
		return fmt.Errorf("publish with a failing snapshot: exit %d: %s", out.Code, lastLine(out.Stderr))
	}
	for _, s := range r.lab.Account.Snapshots() {
		if s.State == "error" {
			return fmt.Errorf("%s is left in state %s", s.ID, s.State)
		}
	}
	r.orphan("i-0123456789abcdef0") // a member's that is gone
	if err := publisher("gc", "--grace", "0s"); err != nil {
		return err
	}
	if !inS3 { // the directory is on the server that is lost
		return nil
	}
	r.newServer(r.sh("cat " + signingKey)) // takes the place of the first
	return publisher("init", "--join")
}
