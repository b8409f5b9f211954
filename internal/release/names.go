package release

import (
	"bytes"
	"encoding/binary"
	"io"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// name is what a directory says of something in it, without a look at the thing itself.
type name struct {
	name  string
	inode uint64
	kind  byte // unix.DT_REG and so on; DT_UNKNOWN: the file system does not tell
}

// lister reads directories with one buffer.
type lister struct{ buffer []byte }

// list returns what is in a directory, sorted by name.
func (l *lister) list(dir int) (names []name, err error) {
	err = l.each(dir, func(some []name) error {
		names = append(names, some...)
		return nil
	})
	slices.SortFunc(names, func(a, b name) int { return strings.Compare(a.name, b.name) })
	return names, err
}

// each gives what is in a directory, as much as fits into the buffer at once. do may remove it.
func (l *lister) each(dir int, do func([]name) error) error {
	if _, err := unix.Seek(dir, 0, io.SeekStart); err != nil {
		return err
	}
	if l.buffer == nil {
		l.buffer = make([]byte, 64<<10)
	}
	for {
		n, err := unix.Getdents(dir, l.buffer)
		if err != nil || n == 0 {
			return err
		}
		// linux_dirent64: inode 8 bytes, offset 8, length of the record 2, type 1, name and NUL.
		text := string(l.buffer[:n])
		var names []name
		for raw := l.buffer[:n]; len(raw) > 19; {
			length := int(binary.NativeEndian.Uint16(raw[16:]))
			end := 19 + bytes.IndexByte(raw[19:length], 0)
			at := len(text) - len(raw)
			if is := text[at+19 : at+end]; is != "." && is != ".." {
				names = append(names, name{is, binary.NativeEndian.Uint64(raw), raw[18]})
			}
			raw = raw[length:]
		}
		if err := do(names); err != nil {
			return err
		}
	}
}
