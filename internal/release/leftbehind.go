package release

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"ebs-release/internal/manifest"

	"golang.org/x/sys/unix"
)

// What a file of SOURCE has that a release does not carry. Each is told once for a publish: an
// application that misses it fails on members only.
const (
	capabilities = "file capabilities"
	acls         = "ACLs"
	attributes   = "extended attributes"
	hardLinks    = "hard links, which become files of their own"
	holes        = "holes, which are filled"
)

// kinds are in the order in which they are told, and by which known writes them down.
var kinds = [...]string{capabilities, acls, attributes, hardLinks, holes}

// leftBehind is what a release does not carry of an open file.
func leftBehind(file *os.File, st *unix.Stat_t) ([]string, error) {
	what, err := attributesLeftBehind(int(file.Fd()))
	if err != nil {
		return nil, &os.PathError{Op: "read", Path: file.Name(), Err: err}
	}
	// stat(2) counts blocks of 512 bytes. Fewer than the size needs is a hint only: a file may be
	// compressed.
	if st.Blocks*512 < st.Size {
		if hole, err := unix.Seek(int(file.Fd()), 0, unix.SEEK_HOLE); err == nil && hole < st.Size {
			what = append(what, holes)
		}
	}
	return what, nil
}

// attributesLeftBehind is what a release does not carry of the extended attributes of an open file
// or directory.
func attributesLeftBehind(fd int) (what []string, err error) {
	names, err := attributesOf(fd)
	if err != nil {
		return nil, fmt.Errorf("its extended attributes: %w", err)
	}
	for _, name := range names {
		kind := ""
		switch {
		case name == "security.capability":
			kind = capabilities
		case strings.HasPrefix(name, "system.posix_acl_"):
			kind = acls
		case strings.HasPrefix(name, "user."):
			kind = attributes
		}
		// security.selinux and the like are given by each machine's own policy.
		if kind != "" && !slices.Contains(what, kind) {
			what = append(what, kind)
		}
	}
	return what, nil
}

// mostNames is how many bytes of names flistxattr(2) gives at most: XATTR_LIST_MAX.
const mostNames = 64 << 10

// attributesOf lists the names of extended attributes; none where the file system has none.
func attributesOf(fd int) ([]string, error) {
	var few [256]byte
	names := few[:]
	n, err := unix.Flistxattr(fd, names)
	if errors.Is(err, unix.ERANGE) {
		names = make([]byte, mostNames)
		n, err = unix.Flistxattr(fd, names)
	}
	switch {
	case errors.Is(err, unix.ENOTSUP): // of the system call itself
		return nil, nil
	case err != nil:
		return nil, err
	case n == 0:
		return nil, nil
	}
	return strings.Split(strings.TrimRight(string(names[:n]), "\x00"), "\x00"), nil
}

// tellLeftBehind has one line for each kind, with the first path that has it and how many more do.
// root is what SOURCE's own directory has.
func tellLeftBehind(root []string, seen []*scanned) (lines []string) {
	type inode struct{ device, number uint64 }
	first, count := map[string]string{}, map[string]int{}
	note := func(kind, path string) {
		if count[kind]++; count[kind] == 1 {
			first[kind] = path
		}
	}
	for _, kind := range root {
		note(kind, "SOURCE itself")
	}
	links := map[inode]bool{}
	for _, s := range seen {
		for _, kind := range s.leftBehind {
			note(kind, manifest.Quote(s.Path))
		}
		if s.Type != 'f' || s.links < 2 {
			continue
		}
		at := inode{s.device, s.inode}
		if links[at] {
			note(hardLinks, manifest.Quote(s.Path))
		}
		links[at] = true
	}
	for _, kind := range kinds {
		switch n := count[kind]; {
		case n == 1:
			lines = append(lines, fmt.Sprintf("a release does not carry %s: %s has them", kind, first[kind]))
		case n > 1:
			lines = append(lines, fmt.Sprintf("a release does not carry %s: %s and %d more have them", kind, first[kind], n-1))
		}
	}
	return lines
}
