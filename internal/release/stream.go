package release

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"ebs-release/internal/manifest"
)

// StreamSize is how many bytes Send writes. Files travel one after the other, with nothing between
// them, in the order of their paths: both sides know that and their sizes from the manifests.
func StreamSize(files []manifest.Entry) (size int64) {
	for i := range files {
		size += files[i].Size
	}
	return size
}

// Files returns the entries of some files of a release, by paths as StageResult.More has them, in
// that order.
func (v *Volume) Files(id string, paths []string) ([]manifest.Entry, error) {
	m, err := v.Manifest(id)
	if err != nil {
		return nil, err
	}
	files := make([]manifest.Entry, 0, len(paths))
	for _, escaped := range paths {
		path, err := manifest.Unescape(escaped)
		i, found := slices.BinarySearchFunc(m, path, func(e manifest.Entry, path string) int { return strings.Compare(e.Path, path) })
		if err != nil || !found || m[i].Type != 'f' {
			return nil, fmt.Errorf("release %s has no file %s", id, manifest.Quote(escaped))
		}
		files = append(files, m[i])
	}
	return files, nil
}

// Send writes files of a release, for Receive. What is in them is not compared: that is for the one
// who gets them.
func (v *Volume) Send(ctx context.Context, w io.Writer, id string, files []manifest.Entry) error {
	if err := manifest.CheckID(id); err != nil {
		return err
	}
	tree, err := v.openDirectory(releasesDir + "/" + id)
	if err != nil {
		return fmt.Errorf("release %s: %w", id, err)
	}
	defer func() { _ = tree.Close() }()
	directories := &dirs{root: tree}
	defer directories.close()
	for i := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := send(w, directories, &files[i]); err != nil {
			return fmt.Errorf("send %s: %w", manifest.Quote(files[i].Path), err)
		}
	}
	return nil
}

func send(w io.Writer, directories *dirs, e *manifest.Entry) error {
	file, err := directories.openFile(e.Path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() != e.Size {
		return fmt.Errorf("it has %d bytes (%s), its manifest says a file of %d", info.Size(), info.Mode(), e.Size)
	}
	_, err = io.CopyN(w, file, e.Size)
	return err
}

func (s *Staging) receive(ctx context.Context, r io.Reader) error {
	directories := &dirs{root: s.partial}
	defer directories.close()
	from := bufio.NewReaderSize(r, 64<<10)
	h := newHasher()
	for _, i := range s.missing {
		if err := ctx.Err(); err != nil {
			return err
		}
		e := &s.next[i]
		if err := s.receiveFile(from, h, directories, e); err != nil {
			return pathError("write", e.Path, err)
		}
	}
	return nil
}

func (s *Staging) receiveFile(from io.Reader, h *hasher, directories *dirs, e *manifest.Entry) (err error) {
	dir, name, err := directories.parent(e.Path)
	if err != nil {
		return err
	}
	to, err := create(dir, name)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := to.Close(); err == nil {
			err = closeErr
		}
	}()
	sum, size, err := h.sum(io.LimitReader(from, e.Size), to)
	if err != nil {
		return err
	}
	if size != e.Size {
		return fmt.Errorf("the transfer broke off: %w", io.ErrUnexpectedEOF)
	}
	if sum != e.SHA256 {
		return errors.New("its content has another sha256")
	}
	return s.assembly.complete(to, e, s.assembly.began)
}
