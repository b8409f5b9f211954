package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ebs-release/internal/pointer"
)

// ownsTheTree is a server whose tree belongs to another user than root, who writes a key of its own
// on the volume.
func ownsTheTree(t *testing.T) (k *keyed, foreign pointer.SecretKey) {
	t.Helper()
	k = newKeyed(t)
	k.ok("key", "init")
	k.ok("key", "sign", "--yes")
	must(t, k.volume.Init(1234, 1234))
	foreign, err := pointer.NewKey()
	must(t, err)
	k.plant(foreign.Public().String() + "\n")
	return k, foreign
}

// plant is what the owner of the tree can do to the keys on the volume.
func (k *keyed) plant(text string) {
	k.t.Helper()
	path := filepath.Join(k.volume.Root(), ".ebs-release/keys")
	must(k.t, os.WriteFile(path, []byte(text), 0o644))
	must(k.t, os.Chown(path, 1234, 1234))
}

func (k *keyed) say(document []byte) {
	k.t.Helper()
	must(k.t, os.WriteFile(filepath.Join(k.env["EBS_RELEASE_POINTER_STORE"], "release.json"), document, 0o644))
}

// TestTheOwnerOfTheTreeIsNotBelieved: what the deploy user of the release server writes on the
// volume makes nobody there believe a pointer, be it to publish, to converge or to sign.
func TestTheOwnerOfTheTreeIsNotBelieved(t *testing.T) {
	k, foreign := ownsTheTree(t)
	opened := &releaseVolume{point: k.volume.Root()}
	defer func() { _ = opened.close() }()
	path := k.env["EBS_RELEASE_SIGNING_KEY"]
	planted := k.pointer(2)
	signed, err := planted.Sign(foreign)
	must(t, err)
	for name, tc := range map[string]struct {
		document []byte
		keys     string // on the volume
	}{
		"signed by a key that it wrote there":        {signed, foreign.Public().String() + "\n"},
		"not signed, and no keys there":              {planted.Render(), ""},
		"signed by it, beside the key of the server": {signed, strings.Join(sign(k.store, opened, path).Public(), "\n") + "\n" + foreign.Public().String() + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			k.say(tc.document)
			if k.plant(tc.keys); tc.keys == "" {
				must(t, os.Remove(filepath.Join(k.volume.Root(), ".ebs-release/keys")))
			}
			signs := sign(k.store, opened, path)
			must(t, signs.Believes())
			if p, err := k.store.Read(t.Context()); err == nil {
				t.Errorf("it believes %+v", p)
			}
			if slices.Contains(signs.Public(), foreign.Public().String()) {
				t.Error("its key is handed on")
			}
			if stdout, _ := k.ok("key", "show"); strings.Contains(stdout, foreign.Public().String()) || !strings.Contains(strings.ToLower(stdout), "not signed") {
				t.Errorf("key show: %s", stdout)
			}
			// A server without the secret key reads by what it believed before.
			must(t, os.Rename(path, path+".away"))
			defer func() { must(t, os.Rename(path+".away", path)) }()
			if signs := sign(k.store, opened, path); len(signs.Trusted) != 1 || signs.Err == nil {
				t.Errorf("without its key: %+v", signs)
			}
			if p, err := k.store.Read(t.Context()); err == nil {
				t.Errorf("without its key it believes %+v", p)
			}
		})
	}
}

// TestTheOwnerOfTheTreeHandsOnNoKey: a publish writes the keys of the server on the volume, and a
// snapshot of others does not count: who boots from it would believe them.
func TestTheOwnerOfTheTreeHandsOnNoKey(t *testing.T) {
	k, _ := ownsTheTree(t)
	opened := &releaseVolume{point: k.volume.Root()}
	defer func() { _ = opened.close() }()
	signs := sign(k.store, opened, k.env["EBS_RELEASE_SIGNING_KEY"])
	must(t, k.volume.Activate(t.Context(), k.in.ID, k.in.Digest, 1))
	if err := opened.CheckActive(k.in.ID, 1); err == nil || !strings.Contains(err.Error(), "somebody wrote them") {
		t.Errorf("a snapshot with a planted key: %v", err)
	}
	var said []string
	must(t, signs.Settle(t.Context(), k.volume, func(format string, _ ...any) { said = append(said, format) }))
	if lines, err := k.volume.Keys(); err != nil || !slices.Equal(lines, signs.Public()) || len(said) != 1 {
		t.Errorf("the volume has %v, %v; it said %q", lines, err, said)
	}
	must(t, opened.CheckActive(k.in.ID, 1))
	for _, text := range []string{"", "nonsense\n", strings.Repeat("x", 10_000)} {
		k.plant(text)
		if err := opened.CheckActive(k.in.ID, 1); err == nil {
			t.Errorf("a snapshot with %.20q for keys", text)
		}
		must(t, signs.Settle(t.Context(), k.volume, func(string, ...any) {}))
		must(t, opened.CheckActive(k.in.ID, 1))
	}
}

// TestAServerThatKnowsNoKeyBelievesNothing: its files are gone, and the volume says who signs.
func TestAServerThatKnowsNoKeyBelievesNothing(t *testing.T) {
	k, _ := ownsTheTree(t)
	path := k.env["EBS_RELEASE_SIGNING_KEY"]
	must(t, os.Remove(path))
	must(t, os.Chown(path+".pub", 1234, 1234))
	for _, want := range []string{"belongs to user id 1234", "there is no key in " + path} {
		for _, verb := range []string{verbPublish, verbConverge, verbDoctor} {
			if err := k.signs(verb); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", verb, err, want)
			}
		}
		opened := &releaseVolume{point: k.volume.Root()}
		if err := sign(k.store, opened, path).Believes(); err == nil {
			t.Error("gc goes on")
		}
		must(t, opened.close())
		_ = os.Remove(path + ".pub")
	}
}
