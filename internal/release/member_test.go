package release

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"ebs-release/internal/gc"
	"ebs-release/internal/manifest"
	"ebs-release/internal/pack"
)

// What the tests of members share: their volumes, and what brings a release to one.

// member is a volume made from a snapshot of another one: the same files, the same owner.
func member(t *testing.T, of *Volume) *Volume {
	t.Helper()
	tree := volume(t)
	copyTo(t, of, tree)
	return tree
}

func copyTo(t *testing.T, of, to *Volume) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", of.Root()+"/.", to.Root()+"/").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
}

func manifestAt(t *testing.T, tree *Volume, id string) manifest.Manifest {
	t.Helper()
	m, err := tree.Manifest(id)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// pair is a server with two releases, and a member that holds the first one.
func pair(t *testing.T) (server, far *Volume, one, two Ingested) {
	t.Helper()
	server = volume(t)
	dir := source(t, first)
	one = publish(t, server, dir, 1)
	far = member(t, server)
	second2(t, dir)
	two = publish(t, server, dir, 2)
	return server, far, one, two
}

// fleetOf is a server and a member that hold the same three releases, the last one current, and a
// fourth one that only the server has.
func fleetOf(t *testing.T) (server, far *Volume, held []Ingested, next Ingested) {
	t.Helper()
	server = volume(t)
	dir := source(t, first)
	held = append(held, publish(t, server, dir, 1))
	put(t, dir, "etc/conf", "colour=green\n")
	put(t, dir, "sub/deep/file", "two")
	put(t, dir, "sub/link -> deep", "")
	put(t, dir, "0444 shut/file", "shut")
	if err := os.Chmod(dir+"/shut", 0o555); err != nil {
		t.Fatal(err)
	}
	held = append(held, publish(t, server, dir, 2))
	put(t, dir, "sub/deep/file", "three")
	held = append(held, publish(t, server, dir, 3))
	far = member(t, server)
	second2(t, dir)
	return server, far, held, publish(t, server, dir, 4)
}

func catchUpBeside(ctx context.Context, tree *Volume, from, to Ingested, text io.Reader, keep int) error {
	p, err := pack.NewReader(text)
	if err != nil {
		return err
	}
	return tree.CatchUpBeside(ctx, Step{From: from.ID, FromDigest: from.Digest, To: to.ID, ToDigest: to.Digest}, p, gc.Wanted{Keep: keep})
}

// meanwhile is a pack during which something else happens: when all but the contents is made, and
// none of them is.
type meanwhile struct {
	PackReader

	do   func()
	done bool
}

func (m *meanwhile) Content(e *manifest.Entry) (io.Reader, error) {
	if !m.done {
		m.done = true
		m.do()
	}
	return m.PackReader.Content(e)
}

// catchUpMeanwhile is catchUpBeside with something else on the way.
func catchUpMeanwhile(t *testing.T, tree *Volume, from, to Ingested, text []byte, do func()) error {
	t.Helper()
	p, err := pack.NewReader(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	during := &meanwhile{PackReader: p, do: do}
	err = tree.CatchUpBeside(t.Context(), Step{From: from.ID, FromDigest: from.Digest, To: to.ID, ToDigest: to.Digest}, during, gc.Wanted{})
	if !during.done {
		t.Fatalf("test bug: no content was asked for: %v", err)
	}
	return err
}

// deliver brings a release from the server to a member that holds base, by a new tree.
func deliver(t *testing.T, server, far *Volume, base, in Ingested) {
	t.Helper()
	if err := catchUpBeside(t.Context(), far, base, in, bytes.NewReader(packOf(t, server, base, in)), 0); err != nil {
		t.Fatal(err)
	}
}

// pushAs brings a release to a member and makes it current, as root, who sees everybody that may
// look into a tree. It returns the release that is gone since: its tree became the new one.
func pushAs(t *testing.T, server, far *Volume, base, in Ingested, generation int64) (recycled string) {
	t.Helper()
	return goneFrom(t, far, func() {
		c := call{ID: in.ID, Digest: in.Digest, Base: base.ID, BaseDigest: base.Digest, Keep: 3, Generation: generation}
		if err := c.catchUpBeside(t.Context(), far, bytes.NewReader(packOf(t, server, base, in))); err != nil {
			t.Fatal(err)
		}
	})
}

// pushAsOwner is pushAs by the owner of the tree, who is not root.
func pushAsOwner(t *testing.T, server, far *Volume, base, in Ingested, generation int64) (recycled string) {
	t.Helper()
	return goneFrom(t, far, func() {
		be(t, call{
			Op: "catch up beside", Root: far.Root(), ID: in.ID, Digest: in.Digest,
			Base: base.ID, BaseDigest: base.Digest, Keep: 3, Generation: generation,
		}, string(packOf(t, server, base, in)))
	})
}

// goneFrom says which releases a volume has not any more.
func goneFrom(t *testing.T, tree *Volume, do func()) string {
	t.Helper()
	before, err := tree.Releases()
	if err != nil {
		t.Fatal(err)
	}
	do()
	after, err := tree.Releases()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(slices.DeleteFunc(before, func(id string) bool { return slices.Contains(after, id) }), " ")
}
