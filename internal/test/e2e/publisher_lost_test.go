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
// word by word: with the volume that the old one left, and with nothing but the snapshot of the
// release that the members are on.
func TestReleaseServerIsReplaced(t *testing.T) {
	for _, tc := range []struct {
		name string
		flag func(r *rig, volume, release string) []string
	}{
		{"by its volume", func(_ *rig, volume, _ string) []string { return []string{"--volume", volume} }},
		{"by a snapshot", func(r *rig, _, release string) []string { return []string{"--snapshot", r.releaseSnapshot(release)} }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := published(t, nil)
			hosts := r.scale(2)
			before := r.publishAs("two")
			volume, err := r.lab.ServerVolume()
			must(t, err)
			key := r.sh("cat " + signingKey)
			must(t, r.lab.Account.TerminateInstance(r.server.ID))
			must(t, r.lab.Account.Wait(within(t, 20*time.Second), func() bool {
				return slices.ContainsFunc(r.lab.Account.Instances(), func(i cloud.Instance) bool { return i.ID == r.server.ID && i.State == "terminated" })
			}))
			r.newServer(key) // at the address of the old one, as its name in DNS would be

			if said, want := r.ok("status"), "2 members report generation 2, release "+before.Release; !strings.Contains(said, want) {
				t.Errorf("status says %q, want %q", said, want)
			}
			r.ok(append([]string{"init"}, tc.flag(r, volume, before.Release)...)...)
			r.ok(append([]string{"init"}, tc.flag(r, volume, before.Release)...)...) // once more is nothing
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

// releaseSnapshot is the snapshot of a release.
func (r *rig) releaseSnapshot(release string) string {
	r.Helper()
	for _, s := range r.lab.Account.Snapshots() {
		if s.Tags["ebs-release:release"] == release {
			return s.ID
		}
	}
	r.Fatalf("there is no snapshot of %s", release)
	return ""
}
