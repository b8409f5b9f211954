package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ebs-release/internal/lab/host"
)

// edit makes release two on the release server: a copy of release one, edited in every way that a
// release can differ.
func edit(ctx context.Context, server *host.Host) error {
	if _, err := server.Run(ctx, "cp", "-a", sourceOne, sourceTwo); err != nil {
		return err
	}
	return editTree(server.Path(sourceTwo))
}

func editTree(root string) error {
	files, err := someFiles(root, 130)
	if err != nil {
		return err
	}
	for _, path := range files[:100] { // changed
		if err := appendTo(path, "\n// release two\n"); err != nil {
			return err
		}
	}
	for _, path := range files[100:120] { // removed
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	for i, path := range files[120:128] { // added, next to others and in a directory of their own
		added := fmt.Sprintf("%s/release-two/%d/file with a blank.txt", root, i)
		err := errors.Join(os.MkdirAll(filepath.Dir(added), 0o755),
			os.WriteFile(added, []byte("added\n"), 0o644), os.WriteFile(path+".added", nil, 0o600))
		if err != nil {
			return err
		}
	}
	return errors.Join(
		sameSizeAndTime(files[128]),
		os.Chmod(files[129], 0o755),
		os.Symlink("release-two/0", filepath.Join(root, "link-to-directory")),
	)
}

// sameSizeAndTime turns one byte of a file around and keeps size and mtime: what rsync alone would
// miss.
func sameSizeAndTime(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	data[len(data)/2] ^= 1
	return errors.Join(os.WriteFile(path, data, info.Mode()), os.Chtimes(path, info.ModTime(), info.ModTime()))
}

func appendTo(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// someFiles are n files of the tree that are not empty, spread over it.
func someFiles(root string, n int) ([]string, error) {
	var all []string
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		if info, err := e.Info(); err != nil || info.Size() == 0 {
			return err
		}
		all = append(all, path)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(all) < n {
		return nil, fmt.Errorf("%s has %d files, the demo wants %d at least", root, len(all), n)
	}
	some := make([]string, n)
	for i := range some {
		some[i] = all[i*len(all)/n]
	}
	return some, nil
}

// compare walks the source on the server and /release/current on the member. It looks from outside,
// through the kernel's view of each host's mounts: no program of ours takes part.
func compare(ctx context.Context, server *host.Host, source string, member *host.Host) (entries int, differences []string, err error) {
	target, err := os.Readlink(member.Path("/release/current"))
	if err != nil {
		return 0, nil, err
	}
	return compareTrees(ctx, server.Path(source), member.Path("/release/"+target))
}

// compareTrees names every entry that differs in type, mode, content or link target.
func compareTrees(ctx context.Context, source, copied string) (entries int, differences []string, err error) {
	want, err := list(source)
	if err != nil {
		return 0, nil, err
	}
	got, err := list(copied)
	if err != nil {
		return 0, nil, err
	}
	entries = len(want)
	for path, w := range want {
		if err := ctx.Err(); err != nil {
			return 0, nil, context.Cause(ctx)
		}
		g, ok := got[path]
		if !ok {
			differences = append(differences, path+" is missing")
			continue
		}
		delete(got, path)
		what, err := w.differs(g)
		if err != nil {
			return 0, nil, err
		}
		if what != "" {
			differences = append(differences, path+" has another "+what)
		}
	}
	for path := range got {
		differences = append(differences, path+" is too many")
	}
	slices.Sort(differences)
	return entries, differences, nil
}

// entry is one file, directory or link of a tree.
type entry struct {
	path string
	mode fs.FileMode
	link string
}

// list returns the entries of a tree by their path in it; the root itself is left out.
func list(root string) (map[string]entry, error) {
	all := map[string]entry{}
	root = strings.TrimSuffix(root, "/")
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		it := entry{path: path, mode: info.Mode()}
		if e.Type() == fs.ModeSymlink {
			if it.link, err = os.Readlink(path); err != nil {
				return err
			}
		}
		all[strings.TrimPrefix(path, root+"/")] = it
		return nil
	})
	return all, err
}

// differs names what is different, "" for nothing.
func (e entry) differs(other entry) (string, error) {
	switch {
	case e.mode.Type() != other.mode.Type():
		return "type", nil
	case e.link != other.link:
		return "link target", nil
	case e.mode.Type() != fs.ModeSymlink && e.mode != other.mode:
		return fmt.Sprintf("mode (%v, want %v)", other.mode, e.mode), nil
	case !e.mode.IsRegular():
		return "", nil
	}
	same, err := sameContent(e.path, other.path)
	if err != nil || same {
		return "", err
	}
	return "content", nil
}

func sameContent(one, two string) (bool, error) {
	a, err := os.Open(one)
	if err != nil {
		return false, err
	}
	defer a.Close()
	b, err := os.Open(two)
	if err != nil {
		return false, err
	}
	defer b.Close()
	bufA, bufB := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, errA := io.ReadFull(a, bufA)
		m, errB := io.ReadFull(b, bufB)
		if !bytes.Equal(bufA[:n], bufB[:m]) {
			return false, nil
		}
		end := errors.Is(errA, io.EOF) || errors.Is(errA, io.ErrUnexpectedEOF)
		switch {
		case end && (errors.Is(errB, io.EOF) || errors.Is(errB, io.ErrUnexpectedEOF)):
			return true, nil
		case errA != nil && !end:
			return false, errA
		case errB != nil:
			return false, errB
		}
	}
}
