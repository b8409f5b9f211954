// Package release holds trees and their manifests: reading a source, taking it in on the release server's volume, staging and activating
// it on a member's. Nothing here knows EC2 or ssh.
package release

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bounds on what is believed of a manifest or delta that came from elsewhere.
const (
	// MaxPath is the longest path in bytes. The kernel takes 4095, and the way to the release goes before it.
	MaxPath = 3840

	maxName     = 255           // of one component, in bytes: ext4, xfs
	maxTarget   = 4095          // of a symlink, in bytes: PATH_MAX
	maxLine     = 40 << 10      // every byte of the longest path and target escaped
	maxEntries  = 4_000_000     // 20 times the largest tree that is tested
	maxManifest = 1 << 30       // bytes of a file with a manifest in it
	maxFence    = 4096          // bytes of the file `generation`
	maxMode     = uint32(07777) // permission, set-id and sticky bits
)

// Entry is a file, directory or symlink of a release.
type Entry struct {
	Path   string // below the release, as the file system has it: any bytes but NUL
	Type   byte   // 'd', 'f', 'l'
	Mode   uint32 // 07777; 0 for a symlink, which has none
	Size   int64  // of a file, in bytes
	SHA256 [sha256.Size]byte
	Target string // of a symlink, as it is
}

// Manifest lists a tree, sorted by the bytes of Path. Every parent is a directory listed before; the root itself is not in it.
type Manifest []Entry

var idFormat = regexp.MustCompile(`^[0-9]{8}T[0-9]{6}Z-[0-9a-f]{12}$`)

const idTime = "20060102T150405Z"

// NewID names a release: UTC time and the first 12 hex digits of its digest.
func NewID(now time.Time, digest string) string {
	return now.UTC().Format(idTime) + "-" + digest[:12]
}

// nextID names a release so that it sorts after those that are there: two of one second, or of a clock that was put back a little, are a second apart by name.
func nextID(releases []string, now time.Time, digest string) string {
	const little = time.Minute
	for _, id := range releases {
		stamp, _, _ := strings.Cut(id, "-")
		made, err := time.Parse(idTime, stamp)
		if err == nil && made.Before(now.Add(little)) && !made.Before(now.Truncate(time.Second)) {
			now = made.Add(time.Second)
		}
	}
	return NewID(now, digest)
}

// ValidID says whether id has the form that NewID gives. Only such an id may become part of a path or a command.
func ValidID(id string) bool { return idFormat.MatchString(id) }

// ValidDigest says whether digest is a sha256 in lower-case hex. It looks at each line of a manifest: no regular expression.
func ValidDigest(digest string) bool {
	for i := range len(digest) {
		if strings.IndexByte(hexDigits, digest[i]) < 0 {
			return false
		}
	}
	return len(digest) == 2*sha256.Size
}

func checkID(id string) error {
	if !ValidID(id) {
		return fmt.Errorf("%q is not a release id", id)
	}
	return nil
}

func appendEntry(to []byte, e *Entry) []byte {
	to = append(to, e.Type, ' ')
	switch e.Type {
	case 'f':
		to = fmt.Appendf(to, "%04o %d ", e.Mode, e.Size)
		to = hex.AppendEncode(to, e.SHA256[:])
	case 'd':
		to = fmt.Appendf(to, "%04o", e.Mode)
	case 'l':
		to = appendEscaped(to, e.Target)
	}
	to = append(to, ' ')
	to = appendEscaped(to, e.Path)
	return append(to, '\n')
}

// Encode writes the manifest, a line per entry:
//
//	f 0644 1234 <sha256> <path>
//	d 0755 <path>
//	l <target> <path>
//
// with \xNN in path and target for a space, a backslash and all bytes outside of printable ASCII.
func (m Manifest) Encode(w io.Writer) error {
	buffered := bufio.NewWriterSize(w, 64<<10)
	var line []byte
	for i := range m {
		line = appendEntry(line[:0], &m[i])
		if _, err := buffered.Write(line); err != nil {
			return err
		}
	}
	return buffered.Flush()
}

// Digest is the sha256 of the encoded manifest: the identity of the content of a release.
func (m Manifest) Digest() string {
	h := sha256.New()
	_ = m.Encode(h) // a hash takes everything
	return hexSum(h)
}

func hexSum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

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

// ParseManifest reads what Encode wrote, and nothing else: no path that leaves the tree or passes through a file or symlink, no second
// entry for a path, no other order or spelling.
func ParseManifest(r io.Reader) (Manifest, error) {
	var m Manifest
	err := eachLine(r, func(number int, line []byte) error {
		e, err := parseEntry(string(line))
		if err != nil {
			return fmt.Errorf("manifest line %d: %w", number, err)
		}
		m = append(m, e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := m.validate(); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return m, nil
}

// eachLine gives each line without its newline, bounded in length and number. The slice is good only until do returns.
func eachLine(r io.Reader, do func(number int, line []byte) error) error {
	lines := bufio.NewReaderSize(r, maxLine)
	for number := 1; ; number++ {
		line, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF) && len(line) == 0:
			return nil
		case errors.Is(err, io.EOF):
			return fmt.Errorf("line %d is cut off", number)
		case errors.Is(err, bufio.ErrBufferFull):
			return fmt.Errorf("line %d is longer than %d bytes", number, maxLine)
		case err != nil:
			return err
		case number > maxEntries:
			return fmt.Errorf("more than %d lines", maxEntries)
		}
		if err := do(number, line[:len(line)-1]); err != nil {
			return err
		}
	}
}

func parseEntry(line string) (Entry, error) {
	fields := strings.Split(line, " ")
	var e Entry
	var err error
	switch {
	case fields[0] == "f" && len(fields) == 5:
		e.Type = 'f'
		if e.Mode, err = parseMode(fields[1]); err != nil {
			return e, err
		}
		if e.Size, err = strconv.ParseInt(fields[2], 10, 64); err != nil || strconv.FormatInt(e.Size, 10) != fields[2] || e.Size < 0 {
			return e, fmt.Errorf("%q is not a size", fields[2])
		}
		if !ValidDigest(fields[3]) {
			return e, fmt.Errorf("%q is not a sha256", fields[3])
		}
		if _, err = hex.Decode(e.SHA256[:], []byte(fields[3])); err != nil {
			return e, err
		}
	case fields[0] == "d" && len(fields) == 3:
		e.Type = 'd'
		if e.Mode, err = parseMode(fields[1]); err != nil {
			return e, err
		}
	case fields[0] == "l" && len(fields) == 3:
		e.Type = 'l'
		if e.Target, err = unescape(fields[1]); err != nil {
			return e, fmt.Errorf("target: %w", err)
		}
	default:
		return e, fmt.Errorf("%q… is not an entry", line[:min(len(line), 20)])
	}
	if e.Path, err = unescape(fields[len(fields)-1]); err != nil {
		return e, fmt.Errorf("path: %w", err)
	}
	return e, nil
}

func parseMode(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || len(s) != 4 {
		return 0, fmt.Errorf("%q is not a mode of four octal digits", s)
	}
	return uint32(n), nil
}

func (m Manifest) validate() error {
	folders := map[string]bool{"": true}
	for i := range m {
		e := &m[i]
		if err := e.check(); err != nil {
			return err
		}
		if i > 0 && m[i-1].Path >= e.Path {
			return fmt.Errorf("%s comes after %s: not sorted, or twice the same", quote(e.Path), quote(m[i-1].Path))
		}
		if parent, _ := split(e.Path); !folders[parent] {
			return fmt.Errorf("%s: its parent is not a directory of this release", quote(e.Path))
		}
		if e.Type == 'd' {
			folders[e.Path] = true
		}
	}
	return nil
}

// check says whether an entry can be shipped, and shipped right.
func (e *Entry) check() error {
	if err := checkPath(e.Path); err != nil {
		return err
	}
	switch {
	case e.Mode > maxMode:
		return fmt.Errorf("%s: mode %o", quote(e.Path), e.Mode)
	// The tree belongs to an ordinary user on the members, who has to read it to verify it.
	case e.Type == 'f' && e.Mode&0o400 == 0:
		return fmt.Errorf("%s: a file of mode %04o can't be read by its owner", quote(e.Path), e.Mode)
	case e.Type == 'd' && e.Mode&0o500 != 0o500:
		return fmt.Errorf("%s: a directory of mode %04o can't be read and entered by its owner", quote(e.Path), e.Mode)
	case e.Type == 'l' && (e.Target == "" || len(e.Target) > maxTarget || strings.IndexByte(e.Target, 0) >= 0):
		return fmt.Errorf("%s: the target of this symlink has %d bytes or a NUL", quote(e.Path), len(e.Target))
	}
	return nil
}

func checkPath(path string) error {
	if path == "" || len(path) > MaxPath {
		return fmt.Errorf("%s…: a path of %d bytes, want 1 to %d", quote(path[:min(len(path), 60)]), len(path), MaxPath)
	}
	if strings.IndexByte(path, 0) >= 0 {
		return fmt.Errorf("%s: a NUL in a path", quote(path))
	}
	for name := range strings.SplitSeq(path, "/") {
		if name == "" || name == "." || name == ".." || len(name) > maxName {
			return fmt.Errorf("%s: the path leaves the release, or is not in its plain form", quote(path))
		}
	}
	return nil
}

// split cuts a path into the path of its parent, "" for the root, and its last name.
func split(path string) (parent, name string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}

func (m Manifest) sort() {
	slices.SortFunc(m, func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
}

func (e *Entry) sameContent(sum []byte, size int64) bool {
	return e.Size == size && bytes.Equal(e.SHA256[:], sum)
}
