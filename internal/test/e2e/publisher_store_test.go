package e2e

import (
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/volume"
)

// TestOneVolumeOneStore: two pointer stores on one volume would ship each other's releases, and gc
// of one would delete the other's snapshots (row 57).
func TestOneVolumeOneStore(t *testing.T) {
	r := published(t, nil)
	store := r.sh("cat /release/.ebs-release/store")
	if own := r.sh("cat " + lab.PointerStore + "/.store"); len(store) != 16 || own != store {
		t.Fatalf("the volume says store %q, the pointer store %q", store, own)
	}
	if p := r.pointerNow(); p.Store != store {
		t.Errorf("the pointer says store %q", p.Store)
	}
	first := strings.TrimSpace(r.sh("cat " + lab.PointerStore + "/snap.txt"))
	for _, s := range r.lab.Account.Snapshots() {
		if s.ID == first && s.Tags["ebs-release:store"] != store {
			t.Errorf("%s has the tags %v", s.ID, s.Tags)
		}
	}
	r.scale(1)
	for _, v := range r.lab.Account.Volumes() {
		if v.Tags["ebs-release:role"] != "" && v.Tags["ebs-release:store"] != store {
			t.Errorf("%s has the tags %v", v.ID, v.Tags)
		}
	}
	r.sh("mkdir /srv/second /srv/other && echo other > /srv/other/version")
	second := []string{"--pointer-store", "/srv/second"}
	with := func(args ...string) []string { return append(args, second...) }

	t.Run("an empty store", func(t *testing.T) {
		r := r.in(t)
		refused(t, r.publisher(with("publish", "/srv/other")...), 3, "belongs to store "+store, "/srv/second", "Try: ")
		refused(t, r.publisher(with("gc", "--grace", "0s")...), 3, "belongs to store "+store)
		refused(t, r.publisher(with("init")...), 3, "belongs to store "+store, "init --store "+store)
		if got := r.sh("ls -A /srv/second/release.json 2>/dev/null || true; cat /release/current/version"); got != "one" {
			t.Errorf("something was changed: %q", got)
		}
	})
	t.Run("a store of its own", func(t *testing.T) {
		r := r.in(t)
		r.sh("echo 00112233aabbccdd > /srv/second/.store")
		refused(t, r.publisher(with("publish", "/srv/other")...), 3, "belongs to store "+store, "is store 00112233aabbccdd")
		refused(t, r.publisher(with("gc", "--grace", "0s")...), 3, "00112233aabbccdd")
		refused(t, r.publisher(with("init")...), 3, "00112233aabbccdd")
	})
	t.Run("while the volume is held", func(t *testing.T) {
		r := r.in(t)
		out, _ := r.server.Run(within(t, 30*time.Second), "sh", "-euc",
			"exec 9< /release/.ebs-release/publishing; flock -n 9; exec ebs-release publish /srv/other")
		refused(t, out, 4, "another publish to this volume is running", "nothing was changed")
	})
	t.Run("gc leaves the snapshot of another store", func(t *testing.T) {
		r := r.in(t)
		_, err := r.ec2.CreateTags(t.Context(), volume.TagInput(first, map[string]string{"ebs-release:store": "00112233aabbccdd"}))
		must(t, err)
		for _, version := range []string{"two", "three"} {
			r.publishAs(version)
		}
		r.ok("gc", "--grace", "0s", "--keep", "1")
		there := false
		for _, s := range r.lab.Account.Snapshots() {
			there = there || s.ID == first
		}
		if !there {
			t.Errorf("%s is gone", first)
		}
	})
}

// TestMemberRefusesAVolumeOfAnotherStore: a pointer of one store, and the snapshot of another.
func TestMemberRefusesAVolumeOfAnotherStore(t *testing.T) {
	r := published(t, nil)
	store := r.sh("cat /release/.ebs-release/store")
	other := r.pointerNow()
	other.Store = "00112233aabbccdd"
	r.pointer(string(other.Render()))
	r.sh("rm " + lab.PointerStore + "/.store")
	h, err := r.member()
	if err == nil {
		t.Fatalf("%s boots", h.ID)
	}
	refused(t, r.up(h), 1, "belongs to store "+store, "00112233aabbccdd")
	r.notServed(h)
}

// TestStoreFolderIsLost: the volume is there, and a new directory takes the place of the old one.
func TestStoreFolderIsLost(t *testing.T) {
	r := published(t, nil)
	store := r.sh("cat /release/.ebs-release/store")
	r.sh("rm -r " + lab.PointerStore + "/* " + lab.PointerStore + "/.[!.]*")
	refused(t, r.publisher("publish", "/srv/source"), 3, "init --store "+store)
	refused(t, r.publisher("init", "--store", "00112233aabbccdd"), 3, store)
	r.ok("init", "--store", store)
	r.publishAs("two")
	if own := r.sh("cat " + lab.PointerStore + "/.store"); own != store {
		t.Errorf("the pointer store says %q, want %q", own, store)
	}
}
