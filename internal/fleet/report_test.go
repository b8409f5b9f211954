package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"ebs-release/internal/fleet"
)

func TestReportTagsInBatches(t *testing.T) {
	a := &account{}
	if err := fleet.Report(context.Background(), a, make([]string, 1500), 7, "r7", ""); err != nil {
		t.Fatal(err)
	}
	if len(a.tagged) != 2 || len(a.tagged[0]) != 1000 || len(a.tagged[1]) != 500 {
		t.Fatalf("%d calls", len(a.tagged))
	}
	if err := fleet.Report(context.Background(), a, nil, 7, "r7", ""); err != nil || len(a.tagged) != 2 {
		t.Fatal("no volumes must mean no call")
	}
}

func TestReportSaysWhatFailed(t *testing.T) {
	a := &account{fail: errors.New("RequestLimitExceeded")}
	if err := fleet.Report(context.Background(), a, []string{"vol-1"}, 7, "r7", ""); err == nil || !strings.Contains(err.Error(), "tag 1 members with generation 7: RequestLimitExceeded") {
		t.Fatalf("Report: %v", err)
	}
	if len(a.tagged) != 1 {
		t.Errorf("%d calls: no volume was refused", len(a.tagged))
	}
}

// have makes volumes vol-0, vol-1 and so on, and returns the ids of all of them: EC2 lists those,
// but some.
func (a *account) have(n int, but ...string) (ids []string) {
	for i := range n {
		id := fmt.Sprintf("vol-%d", i)
		ids = append(ids, id)
		if !slices.Contains(but, id) {
			a.volumes = append(a.volumes, vol(id, "i-1"))
		}
	}
	return ids
}

// Under a policy with conditions on tags, and without one.
var refusals = []string{"UnauthorizedOperation", "InvalidVolume.NotFound"}

func TestVolumesThatAreGoneKeepNoneFromItsTags(t *testing.T) {
	for _, code := range refusals {
		t.Run(code, func(t *testing.T) {
			a := &account{code: code, refused: []string{"vol-3", "vol-250"}}
			ids := a.have(300, a.refused...)
			if err := fleet.Report(context.Background(), a, ids, 7, "r7", ""); err != nil {
				t.Fatal(err)
			}
			if len(a.done) != 298 || len(a.tagged) != 2 {
				t.Errorf("%d have tags after %d calls, want 298 after 2", len(a.done), len(a.tagged))
			}
		})
	}
}

func TestAllVolumesAreGone(t *testing.T) {
	a := &account{code: refusals[0], refused: []string{"vol-0", "vol-1"}}
	if err := fleet.Report(context.Background(), a, a.have(2, a.refused...), 7, "r7", ""); err != nil || len(a.tagged) != 1 {
		t.Errorf("%v, calls %v", err, a.tagged)
	}
}

// The listing is old: EC2 refuses what it still lists. The next round sees it; until then the
// others have their tags, and the error names these.
func TestRefusedVolumesAreNamedAndKeepNoneFromItsTags(t *testing.T) {
	for _, code := range refusals {
		t.Run(code, func(t *testing.T) {
			a := &account{code: code, refused: []string{"vol-3", "vol-40"}}
			err := fleet.Report(context.Background(), a, a.have(50), 7, "r7", "")
			if err == nil || !strings.Contains(err.Error(), "vol-3: ") || !strings.Contains(err.Error(), "vol-40: ") || strings.Contains(err.Error(), "vol-4: ") {
				t.Errorf("%v", err)
			}
			if len(a.done) != 48 {
				t.Errorf("%d have tags", len(a.done))
			}
		})
	}
}

func TestAMissingRightIsFoundWithFewCalls(t *testing.T) {
	a := &account{code: refusals[0]}
	a.refused = a.have(1000)
	err := fleet.Report(context.Background(), a, a.refused, 7, "r7", "")
	if err == nil || !strings.Contains(err.Error(), "UnauthorizedOperation") || len(a.tagged) > 30 {
		t.Errorf("%v after %d calls", err, len(a.tagged))
	}
}
