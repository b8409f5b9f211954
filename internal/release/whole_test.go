package release

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestHoldsListsWhatCanBeABase: a release whose manifest cannot be read cannot.
func TestHoldsListsWhatCanBeABase(t *testing.T) {
	_, far, all, _ := fleetOf(t)
	var want []Held
	for _, in := range all {
		want = append(want, Held{in.ID, in.Digest})
	}
	if held, err := far.Holds(); err != nil || !slices.Equal(held, want) {
		t.Errorf("%+v, %v; want %+v", held, err, want)
	}
	remove(t, far.Root(), stateDir+"/"+all[1].ID+manifestExt)
	if held, err := far.Holds(); err != nil || !slices.Equal(held, slices.Delete(want, 1, 2)) {
		t.Errorf("without a manifest: %+v, %v", held, err)
	}
	if held, err := volume(t).Holds(); err != nil || len(held) > 0 {
		t.Errorf("of none: %+v, %v", held, err)
	}
}

// TestWholeLeavesAloneWhatNobodyEdited: nothing changes, whatever it says.
func TestWholeLeavesAloneWhatNobodyEdited(t *testing.T) {
	_, far, held, next := fleetOf(t)
	secretly(t, far.Path(held[2].ID)+"/sub/deep/file")
	ours := listing(t, far)
	for name, try := range map[string]struct {
		id, digest string
		whole      bool
		want       string
	}{
		"one that is whole":          {held[0].ID, held[0].Digest, true, ""},
		"one that is not there":      {next.ID, next.Digest, false, ""},
		"one of another digest":      {held[0].ID, held[1].Digest, false, "has digest"},
		"what is served, and edited": {held[2].ID, held[2].Digest, true, ""},
		"what is served, as another": {held[2].ID, held[1].Digest, false, "has digest"},
		"a path":                     {"../x", held[0].Digest, false, "is not a release id"},
	} {
		whole, err := far.Whole(t.Context(), try.id, try.digest)
		if whole != try.whole || (err == nil) != (try.want == "") || err != nil && !strings.Contains(err.Error(), try.want) {
			t.Errorf("%s: %v, %v", name, whole, err)
		}
		if now := listing(t, far); now != ours {
			t.Fatalf("%s: the volume was changed:\n%s\nbefore:\n%s", name, now, ours)
		}
	}
}

// TestAReleaseThatIsPresentAndEditedIsMadeAnew: one that a member holds already, for a rollback.
func TestAReleaseThatIsPresentAndEditedIsMadeAnew(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, tree string){
		"edited":          func(t *testing.T, tree string) { secretly(t, tree+"/sub/deep/file") },
		"a file is gone":  func(t *testing.T, tree string) { remove(t, tree, "sub/deep/file") },
		"a file too many": func(t *testing.T, tree string) { put(t, tree, "etc/log", "a line\n") },
		"all is gone":     func(t *testing.T, tree string) { remove(t, tree, ""); put(t, tree, "x", "x") },
	} {
		t.Run(name, func(t *testing.T) {
			server, far, held, _ := fleetOf(t)
			old := held[1]
			spoil(t, far.Path(old.ID))
			if is, err := far.Whole(t.Context(), old.ID, old.Digest); is || err != nil {
				t.Fatal(is, err)
			}
			whole(t, far, "after it", held[0].ID, held[2].ID)
			deliver(t, server, far, held[2], old)
			whole(t, far, "anew", held[0].ID, old.ID, held[2].ID)
			same(t, server.Path(old.ID), far.Path(old.ID))
			if is, err := far.Whole(t.Context(), old.ID, old.Digest); !is || err != nil {
				t.Fatal(is, err)
			}
		})
	}
}

// TestAReleaseThatIsInUseIsNotMadeAnew: who is in it is told.
func TestAReleaseThatIsInUseIsNotMadeAnew(t *testing.T) {
	_, far, held, _ := fleetOf(t)
	secretly(t, far.Path(held[1].ID)+"/sub/deep/file")
	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	cmd.Dir = far.Path(held[1].ID) + "/etc"
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()
	ours := listing(t, far)
	is, err := far.Whole(t.Context(), held[1].ID, held[1].Digest)
	wantError(t, err, "sub/deep/file", "it cannot be made anew, as it is in use by process", "sleep")
	if is || listing(t, far) != ours {
		t.Error("the volume was changed")
	}
}

// endsAfter is a context that ends after it was asked some times.
type endsAfter struct {
	context.Context //nolint:containedctx // it is one
	asked, most     int
}

func (c *endsAfter) Err() error {
	if c.asked++; c.asked > c.most {
		return context.Canceled
	}
	return c.Context.Err()
}

// TestWholeTakesNoEndOfItsContextForAnEdit: nothing is removed for it, whenever it comes.
func TestWholeTakesNoEndOfItsContextForAnEdit(t *testing.T) {
	_, far, held, _ := fleetOf(t)
	ours := listing(t, far)
	for most := 0; ; most++ {
		is, err := far.Whole(&endsAfter{Context: t.Context(), most: most}, held[0].ID, held[0].Digest)
		if now := listing(t, far); now != ours {
			t.Fatalf("after %d: the volume was changed:\n%s\nbefore:\n%s", most, now, ours)
		}
		if err == nil && is {
			if most < 3 {
				t.Errorf("test bug: it was asked %d times", most)
			}
			return
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("after %d: %v, %v", most, is, err)
		}
	}
}

// TestWhatIsNoReleaseIsNotRemoved: nobody can tell what it was.
func TestWhatIsNoReleaseIsNotRemoved(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, far *Volume, id string){
		"no manifest": func(t *testing.T, far *Volume, id string) { remove(t, far.Root(), stateDir+"/"+id+manifestExt) },
		"a file": func(t *testing.T, far *Volume, id string) {
			remove(t, far.Path(id), "")
			put(t, far.Root(), releasesDir+"/"+id, "x")
		},
		"a symlink": func(t *testing.T, far *Volume, id string) {
			remove(t, far.Path(id), "")
			put(t, far.Root(), releasesDir+"/"+id+" -> /etc", "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			server, far, held, _ := fleetOf(t)
			spoil(t, far, held[1].ID)
			ours := listing(t, far)
			is, err := far.Whole(t.Context(), held[1].ID, held[1].Digest)
			if wantError(t, err, held[1].ID); is {
				t.Error("it is whole")
			}
			err = catchUpBeside(t.Context(), far, held[2], held[1], bytes.NewReader(packOf(t, server, held[2], held[1])), 0)
			if wantError(t, err, held[1].ID); errors.Is(err, fs.ErrExist) {
				t.Errorf("it can be activated, it says: %v", err)
			}
			if now := listing(t, far); now != ours {
				t.Fatalf("the volume was changed:\n%s\nbefore:\n%s", now, ours)
			}
		})
	}
}
