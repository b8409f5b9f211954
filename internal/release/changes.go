package release

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"os"

	"ebs-release/internal/advice"
	"ebs-release/internal/manifest"
)

// Changes is what leads from one release of a volume to another one: All and Open are what
// pack.Write needs. It keeps files open until Close, and is not for two goroutines.
type Changes struct {
	Step        // with the digests of the manifests that are compared
	Bytes int64 // contents that the first release does not have

	base *os.File // nil: from nothing
	next *os.File
	diff *manifest.Comparison
	tree *os.File
	dirs dirs            // below tree
	last *manifest.Entry // of the change that All yielded last
}

// Changes compares two releases that the volume holds. From "": from nothing, so all of the other
// one is new.
func (v *Volume) Changes(ctx context.Context, from, to string) (*Changes, error) {
	c := &Changes{Step: Step{From: from, To: to}}
	if err := c.open(ctx, v); err != nil {
		return nil, errors.Join(fmt.Errorf("compare releases %q and %q on %s: %w", from, to, v.path, err), c.Close())
	}
	return c, nil
}

func (c *Changes) open(ctx context.Context, v *Volume) (err error) {
	var base io.ReadSeeker = bytes.NewReader(nil)
	if c.From != "" {
		if c.base, err = v.openManifest(c.From); err != nil {
			return err
		}
		if c.FromDigest, err = digestOf(c.base); err != nil {
			return err
		}
		base = c.base
	}
	if c.next, err = v.openManifest(c.To); err != nil {
		return err
	}
	if c.ToDigest, err = digestOf(c.next); err != nil {
		return err
	}
	if c.tree, err = v.openDirectory(releasesDir + "/" + c.To); err != nil {
		return err
	}
	c.dirs.root = c.tree
	if c.diff, err = manifest.Compare(ctx, base, c.next); err != nil {
		return err
	}
	c.Bytes = c.diff.Bytes
	return nil
}

func digestOf(text io.Reader) (string, error) {
	h := sha256.New()
	_, err := io.Copy(h, text)
	return hexSum(h), err
}

// All yields the changes in the order of their paths, as often as it is asked, and ends with the
// first error.
func (c *Changes) All(ctx context.Context) iter.Seq2[manifest.Change, error] {
	return func(yield func(manifest.Change, error) bool) {
		for change, err := range c.diff.All(ctx) {
			c.last = &change.Entry
			if !yield(change, err) {
				return
			}
		}
	}
}

// Open opens the file of the change that All yielded last, and no other; path is that of the
// change. It follows no symlink. Who reads all of it gets an error in place of its last bytes where
// somebody edited it since it was published.
func (c *Changes) Open(path string) (io.ReadCloser, error) {
	if c.last == nil || c.last.Path != path || c.last.Type != 'f' {
		return nil, fmt.Errorf("%s is not the file whose turn it is", manifest.Quote(path))
	}
	file, err := c.dirs.openFile(path)
	if otherShape(err) {
		return nil, c.edited(err)
	}
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() != c.last.Size) {
		err = c.edited(fmt.Errorf("it has %d bytes (%s), its manifest says a file of %d", info.Size(), info.Mode(), c.last.Size))
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &hashed{File: file, of: c, want: c.last.SHA256, left: c.last.Size, sum: sha256.New()}, nil
}

func (c *Changes) edited(err error) error {
	return advice.Try(fmt.Errorf("release %s was edited in place: %w", c.To, err), "publish its source again")
}

// Close lets go of the volume.
func (c *Changes) Close() error {
	c.dirs.close()
	var err error
	for _, file := range []*os.File{c.base, c.next, c.tree} {
		if file != nil {
			err = errors.Join(err, file.Close())
		}
	}
	return err
}

// hashed compares a file with its sha256 while it is read.
type hashed struct {
	*os.File

	of   *Changes
	want [sha256.Size]byte
	left int64
	sum  hash.Hash
}

func (h *hashed) Read(into []byte) (int, error) {
	n, err := h.File.Read(into)
	_, _ = h.sum.Write(into[:n])
	if h.left -= int64(n); h.left > 0 || n == 0 {
		return n, err
	}
	if h.left < 0 || [sha256.Size]byte(h.sum.Sum(nil)) != h.want {
		return 0, h.of.edited(errors.New("its content has another sha256")) // io.CopyN forgets an error that comes with bytes
	}
	return n, err
}
