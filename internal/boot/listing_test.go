package boot_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/boot"
)

// A listing of EC2 may be older than the volume that is mounted. `up` asks again before it says
// that this is none of ours, and in no case touches what is served.
func TestAnOldListingDoesNotHideWhatIsMounted(t *testing.T) {
	for name, tc := range map[string]struct {
		old  int // listings
		ebs  bool
		says bool // the disk, whose it is
		took time.Duration
		err  string
	}{
		"of an EBS volume": {3, true, true, 3 * time.Second, ""},
		"for good":         {1000, true, false, 10 * time.Second, "which is no release volume of this instance"},
		"for good, and the disk says whose it is": {1000, true, true, 10 * time.Second, ""},
		"of something else":                       {3, false, false, 0, "which is no release volume of this instance"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(7)
			w.have(boot.Volume{ID: "vol-1", SnapshotID: "snap-7", Attached: true, Protected: true}, 7)
			w.mounted = "vol-1"
			listings, mine, look := 0, w.volumes.mine, w.mounts.look
			w.volumes.mine = func() ([]boot.Volume, error) {
				if listings++; listings <= tc.old {
					return nil, nil
				}
				return mine()
			}
			w.disks.brought = func(boot.Wanted) ([]boot.Found, error) {
				if !tc.says {
					return nil, nil
				}
				return []boot.Found{{Volume: boot.Volume{ID: "vol-1", Attached: true, Protected: true, Brought: true}, Made: true}}, nil
			}
			w.mounts.look = func(listed []boot.Volume) (*boot.Mounted, error) {
				m, err := look(listed)
				m.OfEBS = tc.ebs
				if !slices.ContainsFunc(listed, func(v boot.Volume) bool { return v.ID == m.VolumeID }) {
					m.VolumeID = ""
				}
				return m, err
			}
			f, took, err := w.boot(t)
			if took != tc.took || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%+v after %v: %v", f, took, err)
			}
			if w.mounted != "vol-1" || slices.ContainsFunc(w.effects, func(e string) bool { return strings.HasPrefix(e, "remove") || strings.HasPrefix(e, "create") }) {
				t.Errorf("mounted %q: %v", w.mounted, w.effects)
			}
		})
	}
}
