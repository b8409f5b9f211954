package server

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/pointer"
)

// ids are what is in the two files and on the volume: secret, public, volume.
func (k Keys) ids(t *testing.T) (secret, public, volume string) {
	t.Helper()
	held, err := readKeys(k.Path)
	must(t, err)
	known, err := readPublicKeys(k.publicPath())
	must(t, err)
	lines, err := k.On.Keys()
	must(t, err)
	on, err := pointer.ParsePublicKeys(lines)
	must(t, err)
	return IDs(ringOf(held).Trusted), IDs(known), IDs(on)
}

func (k Keys) all(t *testing.T, want string) {
	t.Helper()
	if secret, public, volume := k.ids(t); secret != want || public != want || volume != want {
		t.Errorf("the secret file has %s, the public one %s, the volume %s, want %s", secret, public, volume, want)
	}
}

func silent(string, ...any) {}

// A rotation that was killed, wherever that was, goes on: it makes no third key, and drops none.
func TestRotationGoesOnWhereItWasKilled(t *testing.T) {
	_, i, v := inited(t)
	k := Keys{i.SigningKey, v}
	first, _, _ := k.ids(t)
	packs, err := v.PackKey()
	must(t, err)
	held, err := readKeys(k.Path)
	must(t, err)
	held[0].since = held[0].since.Add(-time.Hour)
	must(t, k.writeKeys(os.Rename, held...))
	began, err := k.Open()
	must(t, err)
	old := read(t, k.publicPath())

	must(t, k.Rotate(t.Context(), true, silent))
	both, _, _ := k.ids(t)
	k.all(t, both)
	if !strings.HasSuffix(both, ", "+first) || strings.Count(both, ",") != 1 {
		t.Fatalf("the keys are %s, before %s", both, first)
	}
	opens, err := v.PackKey()
	if err != nil || !strings.HasSuffix(opens, ","+packs) || strings.Count(opens, ",") != 1 {
		t.Errorf("the packs are not encrypted for both: %v", err)
	}
	ring, err := k.Open()
	must(t, err)
	if len(ring.Signing) != 2 || !ring.Since.Equal(began.Since) {
		t.Errorf("%+v: snapshots of before count as long as the old key signs", ring)
	}
	for name, kill := range map[string]func(){
		"nowhere":                     func() {},
		"before the volume":           func() { must(t, v.SetKeys(t.Context(), strings.Fields(old))) },
		"before the public file, too": func() { must(t, os.WriteFile(k.publicPath(), []byte(old), 0o644)) },
	} {
		kill()
		if ring, err := k.Open(); err != nil || IDs(ring.Trusted) != both {
			t.Errorf("killed %s: %+v, %v", name, ring, err)
		}
		must(t, k.Rotate(t.Context(), true, silent))
		k.all(t, both)
		if now, err := v.PackKey(); err != nil || now != opens {
			t.Errorf("killed %s: another key of the packs was made: %v", name, err)
		}
	}
	stale := read(t, k.publicPath())
	must(t, k.Finish(t.Context(), silent))
	last, _, _ := k.ids(t)
	k.all(t, last)
	if last+", "+first != both {
		t.Errorf("left is %s of %s", last, both)
	}
	newest, _, _ := strings.Cut(opens, ",")
	if now, err := v.PackKey(); err != nil || now != newest {
		t.Errorf("the old key of the packs is not dropped: %v", err)
	}
	must(t, v.SetPackKey(t.Context(), opens))
	must(t, v.SetKeys(t.Context(), strings.Fields(stale)))
	must(t, os.WriteFile(k.publicPath(), []byte(stale), 0o644))
	if ring, err := k.Open(); err != nil || IDs(ring.Trusted) != last {
		t.Errorf("killed half way: %+v, %v", ring, err)
	}
	must(t, k.Finish(t.Context(), silent))
	k.all(t, last)
	if now, err := v.PackKey(); err != nil || now != newest {
		t.Errorf("killed half way: %v", err)
	}
}

// Only a release from after the new key was made can be had by no pack from before.
func TestWhoMayLackTheNewPackKey(t *testing.T) {
	ring := Ring{Newest: time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)}
	for id, want := range map[string]bool{
		"20261127T115959Z-9f31c0de77aa": true, "20261127T120000Z-9f31c0de77aa": false, "20261127T120001Z-9f31c0de77aa": false, "": true, "other": true,
	} {
		if got := ring.PacksBehind(id); got != want {
			t.Errorf("%q: %v", id, got)
		}
	}
}

// Nothing of before is left: neither who signs, nor what opens packs, nor which snapshots count.
func TestCompromisedKeyIsGoneAtOnce(t *testing.T) {
	for name, rotating := range map[string]bool{"one key": false, "while it is rotated": true} {
		t.Run(name, func(t *testing.T) {
			_, i, v := inited(t)
			k := Keys{i.SigningKey, v}
			if rotating {
				must(t, k.Rotate(t.Context(), true, silent))
			}
			held, err := readKeys(k.Path)
			must(t, err)
			for n := range held {
				held[n].since = held[n].since.Add(-time.Hour)
			}
			must(t, k.writeKeys(os.Rename, held...))
			before, err := k.Open()
			must(t, err)
			packs, err := v.PackKey()
			must(t, err)
			old := read(t, k.publicPath())

			must(t, k.Compromised(t.Context(), true, silent))
			only, _, _ := k.ids(t)
			k.all(t, only)
			now, err := k.Open()
			must(t, err)
			if len(now.Trusted) != 1 || slices.Contains(before.Trusted, now.Trusted[0]) || !now.Since.After(before.Since) {
				t.Errorf("%+v, before %+v", now, before)
			}
			another, err := v.PackKey()
			if err != nil || another == packs {
				t.Errorf("the packs are encrypted for the old key: %v", err)
			}

			// Killed between the secret file and the rest: the same call goes on with that key.
			must(t, os.WriteFile(k.publicPath(), []byte(old), 0o644))
			must(t, v.SetKeys(t.Context(), strings.Fields(old)))
			if ring, err := k.Open(); err == nil {
				t.Errorf("half way %+v counts", ring)
			}
			must(t, k.Compromised(t.Context(), true, silent))
			k.all(t, only)
			if now, err := v.PackKey(); err != nil || now != another {
				t.Errorf("the key of the packs was made twice: %v", err)
			}
		})
	}
}
