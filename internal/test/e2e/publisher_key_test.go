package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"ebs-release/internal/lab"
	"ebs-release/internal/pointer"
)

// TestPublishSignsAndFailsClosed: what a publish wrote is signed by the key that every snapshot
// carries. Without that key, or from a pointer that somebody else wrote, nothing is published.
func TestPublishSignsAndFailsClosed(t *testing.T) {
	r := published(t, nil)
	h := r.scale(1)[0]
	var shown struct {
		Keys []struct{ ID, Public string }
	}
	must(t, json.Unmarshal([]byte(r.ok("key", "show", "--output", "json")), &shown))
	if len(shown.Keys) != 1 {
		t.Fatalf("key show: %+v", shown)
	}
	document := func() string { t.Helper(); return r.sh("cat " + lab.PointerStore + "/release.json") }
	signed := func() error {
		key, err := pointer.ParsePublicKey(shown.Keys[0].Public)
		must(t, err)
		return pointer.CheckSignature([]byte(document()), []pointer.PublicKey{key})
	}
	if err := signed(); err != nil {
		t.Error(err)
	}
	if got := r.on(h, "cat /release/.ebs-release/keys"); got != shown.Keys[0].Public {
		t.Errorf("the member has the keys %q, want %q", got, shown.Keys[0].Public)
	}
	r.sh("echo two > /srv/source/version")
	unchanged := func(what string, want ...string) {
		t.Helper()
		before := r.account() + document()
		refused(t, r.publisher("publish", "/srv/source"), 3, want...)
		if r.account()+document() != before {
			t.Errorf("%s: something was changed", what)
		}
	}

	t.Run("somebody else wrote the pointer", func(t *testing.T) {
		r := r.in(t)
		good := document()
		planted := r.pointerNow()
		planted.Message = "planted"
		r.pointer(string(planted.Render()))
		unchanged("a pointer that is not signed", "not signed by a trusted key", "ebs-release key sign")
		r.pointer(strings.Replace(good, `\"generation\":1,`, `\"generation\":7,`, 1))
		unchanged("a pointer that was changed", "it was changed after it was signed")
		r.pointer(good)
	})
	t.Run("the key is gone", func(t *testing.T) {
		r := r.in(t)
		r.sh("mv " + signingKey + " /root/kept.key")
		unchanged("no key", "check signing key", shown.Keys[0].ID, signingKey, "Try: put the key file")
		refused(t, r.publisher("init"), 3, shown.Keys[0].ID, "key init --lost")
		if got := r.ok("status"); !strings.Contains(got, "warning: nothing can be published") || !strings.Contains(got, "1/1 members on it") {
			t.Errorf("status: %s", got)
		}
		r.ok("converge")
		r.sh("chmod 0644 /root/kept.key && mv /root/kept.key " + signingKey)
		unchanged("a key that others read", "others have rights on it", "chmod 0600")
		r.sh("chmod 0600 " + signingKey)
		if o := r.publishAs("two"); o.Generation != 2 || o.OnIt != 1 {
			t.Errorf("with its key again: %+v", o)
		}
		if err := signed(); err != nil {
			t.Error(err)
		}
	})
	t.Run("the key is lost", func(t *testing.T) {
		r := r.in(t)
		r.sh("rm " + signingKey)
		r.ok("key", "init", "--lost")
		refused(t, r.publisher("publish", "/srv/source"), 3, "not signed by a trusted key", "ebs-release key sign")
		r.ok("key", "sign", "--yes")
		if o := r.publishAs("three"); o.Generation != 3 {
			t.Errorf("with another key: %+v", o)
		}
		if signed() == nil {
			t.Error("it is signed by the lost key")
		}
		if found := r.publisher("doctor"); found.Code != 0 {
			t.Errorf("doctor: %s", found.Stdout)
		}
	})
}
