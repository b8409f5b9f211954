package release

import (
	"fmt"
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

// leftBehind is what a release does not carry of an open file or directory.
func leftBehind(fd int, st *unix.Stat_t) (what []string) {
	for _, name := range attributesOf(fd) {
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
	// stat(2) counts blocks of 512 bytes. Fewer than the size needs is a hint only: a file may be
	// compressed.
	if st.Mode&unix.S_IFMT == unix.S_IFREG && st.Blocks*512 < st.Size {
		if hole, err := unix.Seek(fd, 0, unix.SEEK_HOLE); err == nil && hole < st.Size {
			what = append(what, holes)
		}
	}
	return what
}

// attributesOf lists the names of extended attributes; none where the file system has none.
func attributesOf(fd int) []string {
	size, err := unix.Flistxattr(fd, nil)
	if err != nil || size == 0 {
		return nil
	}
	names := make([]byte, size)
	if size, err = unix.Flistxattr(fd, names); err != nil {
		return nil
	}
	return strings.Split(strings.TrimRight(string(names[:size]), "\x00"), "\x00")
}

// leftBehindAt is leftBehind of a directory that is known by its parent and name.
func leftBehindAt(dir int, name, path string) ([]string, error) {
	file, err := openFileAt(dir, name, path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	return leftBehind(int(file.Fd()), &unix.Stat_t{Mode: unix.S_IFDIR}), nil
}

// tellLeftBehind has one line for each kind, with the first path that has it and how many more do.
func tellLeftBehind(seen []*scanned) (lines []string) {
	type inode struct{ device, number uint64 }
	first, count := map[string]string{}, map[string]int{}
	note := func(kind, path string) {
		if count[kind]++; count[kind] == 1 {
			first[kind] = path
		}
	}
	links := map[inode]bool{}
	for _, s := range seen {
		for _, kind := range s.leftBehind {
			note(kind, s.Path)
		}
		if s.Type != 'f' || s.links < 2 {
			continue
		}
		at := inode{s.device, s.inode}
		if links[at] {
			note(hardLinks, s.Path)
		}
		links[at] = true
	}
	for _, kind := range []string{capabilities, acls, attributes, hardLinks, holes} {
		switch n := count[kind]; {
		case n == 1:
			lines = append(lines, fmt.Sprintf("a release does not carry %s: %s has them", kind, manifest.Quote(first[kind])))
		case n > 1:
			lines = append(lines, fmt.Sprintf("a release does not carry %s: %s and %d more have them", kind, manifest.Quote(first[kind]), n-1))
		}
	}
	return lines
}
