package e2e

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/cloud"
)

// TestReleaseServerIsReplaced follows the manual (docs/operations.md, "The release server died")
// word by word, where the pointer store is lost: with the volume that the old one left, and with
// nothing but the snapshots of the store.
func TestReleaseServerIsReplaced(t *testing.T) {
	for _, tc := range []struct {
		name string
		flag func(r *rig, volume, store string) []string
	}{
		{"by its volume", func(_ *rig, volume, _ string) []string { return []string{"--volume", volume} }},
		{"by a snapshot", func(r *rig, _, store string) []string {
			refused(r.T, r.publisher("init", "--join"), 3, "is empty", "init --join --store ID", "of store "+store+" generation 2")
			return []string{"--join", "--store", store}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := published(t, nil)
			hosts := r.scale(2)
			before := r.publishAs("two")
			volume, err := r.lab.ServerVolume()
			must(t, err)
			key, store := r.sh("cat "+signingKey), r.sh("cat /release/.ebs-release/store")
			must(t, r.lab.Account.TerminateInstance(r.server.ID))
			must(t, r.lab.Account.Wait(within(t, 20*time.Second), func() bool {
				return slices.ContainsFunc(r.lab.Account.Instances(), func(i cloud.Instance) bool { return i.ID == r.server.ID && i.State == "terminated" })
			}))
			r.newServer(key) // at the address of the old one, as its name in DNS would be

			if said, want := r.ok("status"), "2 members report generation 2, release "+before.Release; !strings.Contains(said, want) {
				t.Errorf("status says %q, want %q", said, want)
			}
			flags := append([]string{"init"}, tc.flag(r, volume, store)...)
			r.ok(flags...)
			r.ok(flags...) // once more is nothing
			var after publication
			must(t, json.Unmarshal([]byte(r.ok("publish", "/release/releases/"+before.Release, "--output", "json")), &after))
			if after.Generation != 3 || after.Release != before.Release || after.OnIt != 2 || after.Total != 2 || after.Fetched.Packs != 0 {
				t.Errorf("%+v, want generation 3 of %s, with no pack fetched", after, before.Release)
			}
			for _, h := range append(hosts, r.scale(3)...) {
				if got := r.version(h); got != "two" {
					t.Errorf("%s says %q", h.ID, got)
				}
			}
			r.sh("mkdir /srv/source && echo three > /srv/source/version")
			r.ok("publish", "/srv/source")
			if s := r.status(); s.Generation != 4 {
				t.Errorf("the next publish: %+v", s)
			}
		})
	}
}

// TestReleaseServerJoinsItsStore: a copy of the store is all that is left of the old one, which
// never had a snapshot of its last release.
func TestReleaseServerJoinsItsStore(t *testing.T) {
	r := published(t, nil)
	hosts := r.scale(1)
	before := r.publishAs("two", "--no-snapshot")
	key := r.sh("cat " + signingKey)
	packed := r.sh("tar -C " + lab.PointerStore + " -cf - . | base64 -w0")
	must(t, r.lab.Account.TerminateInstance(r.server.ID))
	must(t, r.lab.Account.Wait(within(t, 20*time.Second), func() bool {
		return slices.ContainsFunc(r.lab.Account.Instances(), func(i cloud.Instance) bool { return i.ID == r.server.ID && i.State == "terminated" })
	}))
	r.newServer(key)
	r.sh("echo " + packed + " | base64 -d | tar -C " + lab.PointerStore + " -xf -")

	r.sh("mv " + signingKey + " /root/kept.key")
	refused(t, r.publisher("init"), 3, "a blank volume would begin with nothing", "init --join")
	out := r.publisher("init", "--join")
	if out.Code != 0 || !strings.Contains(out.Stderr, "caught up from release ") || !strings.Contains(out.Stderr, "still to be done: the key ") {
		t.Errorf("init --join: exit %d, %s", out.Code, out.Stderr)
	}
	if got := r.sh("cat /release/current/version"); got != "two" {
		t.Errorf("the release volume is at %q", got)
	}
	r.ok("converge")
	r.sh("mkdir /srv/source && echo three > /srv/source/version")
	refused(t, r.publisher("publish", "/srv/source"), 3, "check signing key", signingKey)
	r.sh("mv /root/kept.key " + signingKey)
	r.ok("init", "--join") // once more: there is nothing to do
	if o := r.publishAs("three"); o.Generation != before.Generation+1 || o.OnIt != 1 {
		t.Errorf("the next publish: %+v", o)
	}
	r.ok("rollback")
	if got := r.version(hosts[0]); got != "two" {
		t.Errorf("after a rollback the member has %q", got)
	}
	if out := r.publisher("doctor"); out.Code != 0 {
		t.Errorf("doctor: %s", out.Stdout)
	}
}

// signingKey is what an operator keeps a copy of.
const signingKey = lab.SigningKey

// newServer launches another release server, which the rig works with from then on, and which has
// the signing key of the old one.
func (r *rig) newServer(key string) {
	r.Helper()
	id, err := r.lab.Account.RunInstance(r.Context(), cloud.RunSpec{ImageID: lab.ServerImage, Role: "ebs-release-publisher"})
	must(r, err)
	r.server, err = r.lab.Booted(within(r, 30*time.Second), id)
	must(r, err)
	must(r, r.server.WriteFile(within(r, 10*time.Second), signingKey, []byte(key), 0o600))
}
