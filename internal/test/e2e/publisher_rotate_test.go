package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/host"
	"ebs-release/internal/pointer"
)

// ring is what a test sees of a rotation.
type ring struct{ *rig }

// keys are the secret ones of the server, the newest first.
func (r ring) keys() (keys []pointer.SecretKey) {
	r.Helper()
	for line := range strings.Lines(r.sh("cut -d' ' -f1 " + signingKey)) {
		key, err := pointer.ParseSecretKey(line)
		must(r, err)
		keys = append(keys, key)
	}
	return keys
}

// known is who a volume believes.
func (r ring) known(h *host.Host) string {
	r.Helper()
	return r.on(h, "cat /release/.ebs-release/keys")
}

func (r ring) signedBy(keys ...pointer.SecretKey) bool {
	r.Helper()
	for _, key := range keys {
		if pointer.CheckSignature([]byte(r.sh("cat "+lab.PointerStore+"/release.json")), []pointer.PublicKey{key.Public()}) != nil {
			return false
		}
	}
	return true
}

func publics(keys ...pointer.SecretKey) string {
	var lines []string
	for _, key := range keys {
		lines = append(lines, key.Public().String())
	}
	return strings.Join(lines, "\n")
}

func (r ring) publishes(text string, args ...string) {
	r.Helper()
	r.sh("echo " + text + " > /srv/source/version")
	r.ok(append([]string{"publish", "/srv/source"}, args...)...)
}

// TestKeyIsRotated: with members by ssh, and an instance that boots from a snapshot of before.
func TestKeyIsRotated(t *testing.T) {
	r := ring{published(t, nil)}
	first := r.scale(1)[0]
	old := r.keys()[0]
	r.ok("key", "rotate")
	refused(t, r.publisher("key", "rotate", "--finish"), 3, "nothing was published since the new key was made")
	r.ok("key", "rotate") // it was begun: no third key
	both := r.keys()
	if len(both) != 2 || both[1].Public() != old.Public() {
		t.Fatalf("the server has %d keys", len(both))
	}

	r.publishes("two", "--no-snapshot")
	if !r.signedBy(both...) {
		t.Error("one of the two keys did not sign")
	}
	refused(t, r.publisher("key", "rotate", "--finish"), 3, "0 members and 1 snapshot have only the old one", "snap-")
	for _, h := range r.scale(2) { // the second one from a volume that knows the old key alone
		if got := r.known(h); got != publics(both...) || r.version(h) != "two" {
			t.Errorf("%s is on %s, and believes %s", h.ID, r.version(h), got)
		}
	}
	if out := r.publisher("doctor"); out.Code != 0 || !strings.Contains(out.Stdout, "the key is being rotated") {
		t.Errorf("doctor: %s", out.Stdout)
	}
	r.publishes("three")
	r.ok("gc", "--keep", "1", "--grace", "0s")
	r.ok("key", "rotate", "--finish")
	if keys := r.keys(); len(keys) != 1 || keys[0].Public() != both[0].Public() {
		t.Fatalf("left are %d keys", len(keys))
	}
	r.publishes("four", "--no-snapshot")
	if r.signedBy(old) || !r.signedBy(both[0]) {
		t.Error("the old key still signs, or the new one does not")
	}
	for _, h := range r.scale(3) { // the third one from a volume that knows both
		if got := r.known(h); got != publics(both[0]) || r.version(h) != "four" {
			t.Errorf("%s is on %s, and believes %s", h.ID, r.version(h), got)
		}
	}

	// Somebody has that one, too.
	stolen := both[0]
	opens := r.sh("cat /release/.ebs-release/pack-key")
	r.ok("key", "rotate", "--compromised")
	refused(t, r.publisher("publish", "/srv/source"), 3, "not signed by a trusted key", "key sign")
	r.ok("key", "sign", "--yes")
	r.publishes("five")
	only := r.keys()[0]
	if got := r.sh("cat /release/.ebs-release/pack-key"); got == opens {
		t.Error("the packs are encrypted for the old key")
	}
	if got := r.known(first); got != publics(only) || r.on(first, "cat /release/.ebs-release/pack-key") == opens {
		t.Errorf("the member believes %s", got)
	}
	r.ok("gc")
	named := r.pointerNow()
	for _, s := range r.lab.Account.Snapshots() {
		if s.ID != named.Snapshots["us-east-1"] {
			t.Errorf("%s is from before, and still there", s.ID)
		}
	}
	fresh := r.scale(4)
	if got := r.known(fresh[len(fresh)-1]); got != publics(only) {
		t.Errorf("what launches believes %s", got)
	}
	planted := named
	planted.Generation++
	document, err := planted.Sign(stolen)
	must(t, err)
	good := r.sh("cat " + lab.PointerStore + "/release.json")
	r.pointer(string(document))
	out := agent(within(t, 60*time.Second), first)
	refused(t, out.Output, 1, "not signed by a trusted key", "No volume and no mount was touched")
	refused(t, r.publisher("publish", "/srv/source"), 3, "not signed by a trusted key")
	r.pointer(good)
	r.ok("key", "show")
}

// TestKeyIsRotatedWithFollowers: they take the new key from a pointer that the old one signed, too,
// and nothing from one that only the new one signed.
func TestKeyIsRotatedWithFollowers(t *testing.T) {
	rig, members := followed(t, false)
	r := ring{rig}
	old := r.keys()[0]
	r.ok("key", "rotate")
	r.publishes("two")
	both := r.keys()
	packs := r.sh("cat /release/.ebs-release/pack-key")
	for _, h := range members {
		if got := r.known(h); got != publics(both...) {
			t.Errorf("%s believes %s", h.ID, got)
		}
		if got := r.on(h, "cat /release/.ebs-release/pack-key"); got != packs || !strings.Contains(got, ",") {
			t.Errorf("%s did not get the new key of the packs", h.ID)
		}
	}
	r.ok("gc", "--keep", "1", "--grace", "0s")
	r.ok("key", "rotate", "--finish")
	if newest, _, _ := strings.Cut(packs, ","); r.sh("cat /release/.ebs-release/pack-key") != newest {
		t.Error("the packs are still encrypted for the old key")
	}
	r.publishes("three")
	for _, h := range members {
		if got := r.known(h); got != publics(both[0]) || r.version(h) != "three" {
			t.Errorf("%s is on %s, and believes %s", h.ID, r.version(h), got)
		}
	}
	if r.signedBy(old) {
		t.Error("the old key still signs")
	}

	r.ok("key", "rotate", "--compromised")
	r.ok("key", "sign", "--yes")
	r.sh("echo four > /srv/source/version")
	refused(t, r.publisher("publish", "/srv/source"), 5, "the pointer is not signed by a trusted key")
	var shown struct {
		Follow struct{ Trouble string }
	}
	must(t, json.Unmarshal([]byte(r.on(members[0], "ebs-release-agent status --output json")), &shown))
	if !strings.Contains(shown.Follow.Trouble, "not signed by a trusted key") || r.version(members[0]) != "three" {
		t.Errorf("a follower is on %s: %+v", r.version(members[0]), shown)
	}
	fresh := r.scale(3)
	for _, h := range fresh {
		if h.ID != members[0].ID && h.ID != members[1].ID && (r.version(h) != "four" || r.known(h) != publics(r.keys()...)) {
			t.Errorf("what launches is on %s, and believes %s", r.version(h), r.known(h))
		}
	}
}
