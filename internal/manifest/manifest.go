// Package manifest is what a release is, as text: a line for each file, directory and symlink, and
// what differs between two of them. It knows no volume, and no file system.
//
//	f 0644 1234 <sha256> 1795651200 <path>
//	d 0755 <path>
//	l <target> <path>
//
// The sha256 of the text is the digest of the release, its identity. So there is one spelling of
// everything: lines sorted by the bytes of their paths, one form of each number and mode, and
// \xNN in path and target for a space, a backslash and all bytes outside of printable ASCII.
package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"ebs-release/internal/words"
)

// Bounds on what is believed of a manifest or delta that came from elsewhere.
const (
	// MaxPath is the longest path in bytes. The kernel takes 4095, and the way to the release goes
	// before it.
	MaxPath = 3840

	// MaxTarget is the longest target of a symlink in bytes: PATH_MAX.
	MaxTarget = 4095
	// MaxLine is the longest line in bytes: every byte of the longest path and target escaped.
	MaxLine = 40 << 10
	// MaxEntries is 20 times the largest tree that is tested.
	MaxEntries = 4_000_000
	// MaxSize is of a whole manifest, in bytes: 128 for each entry. Parse keeps all of it in memory.
	MaxSize = 512 << 20
	// MaxMode has the permission, set-id and sticky bits.
	MaxMode = uint32(07777)
	// MaxModified is what an inode of ext4 can hold, in seconds since 1970: the year 2514.
	MaxModified = 1<<34 - 1

	maxName = 255 // of one component, in bytes: ext4, xfs
)

// Entry is a file, directory or symlink of a release.
type Entry struct {
	Path   string // below the release, as the file system has it: any bytes but NUL
	Type   byte   // 'd', 'f', 'l'
	Mode   uint32 // 07777; 0 for a symlink, which has none
	Size   int64  // of a file, in bytes
	SHA256 [sha256.Size]byte
	// Modified is when a file was last modified, in whole seconds since 1970. 0: not stated, any
	// time will do.
	Modified int64
	Target   string // of a symlink, as it is
}

// Manifest lists a tree, sorted by the bytes of Path. Every parent is a directory listed before;
// the root itself is not in it.
type Manifest []Entry

// Encode writes the manifest as text.
func (m Manifest) Encode(w io.Writer) error {
	_, err := w.Write(m.Text())
	return err
}

// Text is the manifest as text.
func (m Manifest) Text() []byte {
	text := make([]byte, 0, 128*len(m)) // more than most lines have
	for i := range m {
		text = AppendEntry(text, &m[i])
	}
	return text
}

// Digest is the sha256 of the encoded manifest: the identity of the content of a release.
func (m Manifest) Digest() string { return DigestOf(m.Text()) }

// DigestOf is the digest of a manifest as text.
func DigestOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// Size counts the files and their bytes.
func (m Manifest) Size() (files int, bytes int64) {
	for i := range m {
		if m[i].Type == 'f' {
			files++
			bytes += m[i].Size
		}
	}
	return files, bytes
}

// Parse reads what Encode wrote, and nothing else: no path that leaves the tree or passes through
// a file or symlink, no second entry for a path, no other order or spelling.
func Parse(r io.Reader) (Manifest, error) {
	var text strings.Builder
	if sized, ok := r.(interface{ Stat() (fs.FileInfo, error) }); ok {
		if info, err := sized.Stat(); err == nil && info.Size() < MaxSize {
			text.Grow(int(info.Size()))
		}
	}
	if n, err := io.Copy(&text, io.LimitReader(r, MaxSize+1)); err != nil {
		return nil, err
	} else if n > MaxSize {
		return nil, fmt.Errorf("manifest of more than %d bytes", MaxSize)
	}
	m, err := parseManifest(text.String())
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return m, nil
}

// CheckSize says whether a manifest of that many entries and bytes will be taken.
func CheckSize(entries, bytes int) error {
	if entries > MaxEntries || bytes > MaxSize {
		return fmt.Errorf("it has %d files, directories and symlinks, and a manifest of %s: a release has at most %d, and %s",
			entries, words.Bytes(int64(bytes)), MaxEntries, words.Bytes(MaxSize))
	}
	return nil
}

// parseManifest keeps text: the strings of its entries are parts of it.
func parseManifest(text string) (Manifest, error) {
	m := make(Manifest, 0, min(strings.Count(text, "\n"), MaxEntries))
	for number := 1; text != ""; number++ {
		line, rest, whole := strings.Cut(text, "\n")
		switch {
		case len(line) > MaxLine:
			return nil, fmt.Errorf("line %d is longer than %d bytes", number, MaxLine)
		case !whole:
			return nil, fmt.Errorf("line %d is cut off", number)
		case number > MaxEntries:
			return nil, fmt.Errorf("more than %d lines", MaxEntries)
		}
		e, err := ParseEntry(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		m = append(m, e)
		text = rest
	}
	return m, m.Validate()
}

// Validate says whether the entries are those of a release: sorted, each path once, each parent a
// directory.
func (m Manifest) Validate() error {
	directories := map[string]bool{"": true}
	before := "" // parent of the entry before: mostly of this one, too
	for i := range m {
		e := &m[i]
		if err := e.Check(); err != nil {
			return err
		}
		if i > 0 && m[i-1].Path >= e.Path {
			return fmt.Errorf("%s comes after %s: not sorted, or twice the same", Quote(e.Path), Quote(m[i-1].Path))
		}
		if parent, _ := Split(e.Path); parent != before {
			if !directories[parent] {
				return fmt.Errorf("%s: its parent is not a directory of this release", Quote(e.Path))
			}
			before = parent
		}
		if e.Type == 'd' {
			directories[e.Path] = true
		}
	}
	return nil
}

// Check says whether an entry can be shipped, and shipped right.
func (e *Entry) Check() error {
	if err := CheckPath(e.Path); err != nil {
		return err
	}
	switch {
	case e.Mode > MaxMode:
		return fmt.Errorf("%s: mode %o", Quote(e.Path), e.Mode)
	// The tree belongs to an ordinary user on the members, who has to read it to verify it.
	case e.Type == 'f' && e.Mode&0o400 == 0:
		return fmt.Errorf("%s: a file of mode %04o cannot be read by its owner", Quote(e.Path), e.Mode)
	case e.Type == 'd' && e.Mode&0o500 != 0o500:
		return fmt.Errorf("%s: a directory of mode %04o cannot be read and entered by its owner", Quote(e.Path), e.Mode)
	case e.Type == 'l' && (e.Target == "" || len(e.Target) > MaxTarget || strings.IndexByte(e.Target, 0) >= 0):
		return fmt.Errorf("%s: the target of this symlink has %d bytes or a NUL", Quote(e.Path), len(e.Target))
	}
	return nil
}

// Sort puts the entries into the order of a manifest.
func (m Manifest) Sort() {
	slices.SortFunc(m, func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
}
