package release

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAFileWithAllItsLinksIsCopied: ext4 gives a file 65,000 names.
func TestAFileWithAllItsLinksIsCopied(t *testing.T) {
	server, far, before, next := history(t)
	old, err := far.Releases()
	if err != nil {
		t.Fatal(err)
	}
	text := packOf(t, server, before, next)
	d := diskOf(t, 16<<20, "-b", "4096", "-N", "500", "-O", "^has_journal")
	d.attach(t)
	defer d.detach(t)
	copyTo(t, far, d.volume)
	file := d.volume.Path(before.ID) + "/moves"
	allLinks(t, d, file)
	was := inode(t, file)
	if err := catchUp(t.Context(), d.volume, before, next, bytes.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	whole(t, d.volume, "after it", old[0], next.ID)
	if inode(t, d.volume.Path(next.ID)+"/moved/to/here") == was {
		t.Error("test bug: it was linked")
	}
}

// TestAFileWithAllItsLinksIsCopiedBeside: ext4 gives a file 65,000 names, and a tree may well have
// more empty files than that.
func TestAFileWithAllItsLinksIsCopiedBeside(t *testing.T) {
	server, far, before, next := history(t)
	text := packOf(t, server, before, next)
	for name, ours := range map[string]bool{"one that nobody touched": true, "one that is hashed first": false} {
		t.Run(name, func(t *testing.T) {
			d := diskOf(t, 16<<20, "-b", "4096", "-N", "500", "-O", "^has_journal")
			d.attach(t)
			defer d.detach(t)
			copyTo(t, far, d.volume)
			began, err := justNow()
			if err != nil {
				t.Fatal(err)
			}
			file := d.volume.Path(before.ID) + "/same"
			allLinks(t, d, file)
			if ours {
				if err := d.volume.noteSpan(began); err != nil {
					t.Fatal(err)
				}
			}
			was := inode(t, file)
			if err := catchUpBeside(t.Context(), d.volume, before, next, bytes.NewReader(text), 0); err != nil {
				t.Fatal(err)
			}
			same(t, server.Path(next.ID), d.volume.Path(next.ID))
			if err := d.volume.Verify(t.Context(), before.ID); err != nil {
				t.Error(err)
			}
			if inode(t, d.volume.Path(next.ID)+"/same") == was {
				t.Error("test bug: it was linked")
			}
		})
	}
}

// allLinks gives a file on a disk all the names that it can have. Most of them its inode only says:
// to make them all takes seconds. The last ones are made, which changes the ctime.
func allLinks(t *testing.T, d *disk, file string) {
	t.Helper()
	d.detach(t)
	say := "set_inode_field " + strings.TrimPrefix(file, d.mount) + " links_count 64990"
	if out, err := exec.CommandContext(t.Context(), "debugfs", "-w", "-R", say, d.loop).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	d.attach(t)
	err := os.Mkdir(d.mount+"/names", 0o755)
	names := 0
	for ; err == nil; names++ {
		err = os.Link(file, fmt.Sprint(d.mount, "/names/", names))
	}
	if !errors.Is(err, unix.EMLINK) || names < 5 || names > 15 { // ext4 has 65,000 at most
		t.Fatalf("test bug: %d names, %v", names, err)
	}
}
