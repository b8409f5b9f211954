// Package release holds trees and their manifests: reading a source, taking it in on the release
// server's volume, staging and activating it on a member's. Nothing here knows EC2 or ssh.
package release

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"ebs-release/internal/words"
)

// Bounds on what is believed of a manifest or delta that came from elsewhere.
const (
	// MaxPath is the longest path in bytes. The kernel takes 4095, and the way to the release goes
	// before it.
	MaxPath = 3840

	maxName     = 255           // of one component, in bytes: ext4, xfs
	maxTarget   = 4095          // of a symlink, in bytes: PATH_MAX
	maxLine     = 40 << 10      // every byte of the longest path and target escaped
	maxEntries  = 4_000_000     // 20 times the largest tree that is tested
	maxManifest = 512 << 20     // bytes of a file with a manifest in it: 128 for each of them. All of it is kept in memory
	maxFence    = 4096          // bytes of the file `generation`
	maxMode     = uint32(07777) // permission, set-id and sticky bits
	maxModified = 1<<34 - 1     // seconds since 1970: what an inode of ext4 can hold, in the year 2514
)

// Entry is a file, directory or symlink of a release.
type Entry struct {
	Path   string // below the release, as the file system has it: any bytes but NUL
	Type   byte   // 'd', 'f', 'l'
	Mode   uint32 // 07777; 0 for a symlink, which has none
	Size   int64  // of a file, in bytes
	SHA256 [sha256.Size]byte
	// Modified is when a file was last modified, in whole seconds since 1970: see times.go. 0: not
	// stated, any time will do.
	Modified int64
	Target   string // of a symlink, as it is
}

// Manifest lists a tree, sorted by the bytes of Path. Every parent is a directory listed before;
// the root itself is not in it.
type Manifest []Entry

var idFormat = regexp.MustCompile(`^[0-9]{8}T[0-9]{6}Z-[0-9a-f]{12}$`)

const idTime = "20060102T150405Z"

// NewID names a release: UTC time and the first 12 hex digits of its digest.
func NewID(now time.Time, digest string) string {
	return now.UTC().Format(idTime) + "-" + digest[:12]
}

// nextID names a release so that it sorts after those that are there: two of one second, or of a
// clock that was put back a little, are a second apart by name.
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

// ValidID says whether id has the form that NewID gives. Only such an id may become part of a path
// or a command.
func ValidID(id string) bool { return idFormat.MatchString(id) }

// ValidDigest says whether digest is a sha256 in lower-case hex.
func ValidDigest(digest string) bool {
	_, ok := parseSum(digest)
	return ok
}

// parseSum is done for each line of a manifest: no branch for each digit.
func parseSum(s string) (sum [sha256.Size]byte, ok bool) {
	if len(s) != 2*sha256.Size {
		return sum, false
	}
	const small = 0x20 // a bit that digits and small letters have, and capital letters do not
	bits := byte(small)
	for i := range len(s) {
		bits &= s[i]
	}
	_, err := hex.Decode(sum[:], []byte(s))
	return sum, err == nil && bits == small
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
		to = append(appendMode(to, e.Mode), ' ')
		to = append(strconv.AppendInt(to, e.Size, 10), ' ')
		to = hex.AppendEncode(to, e.SHA256[:])
		if e.Modified != 0 {
			to = strconv.AppendInt(append(to, ' '), e.Modified, 10)
		}
	case 'd':
		to = appendMode(to, e.Mode)
	case 'l':
		to = appendEscaped(to, e.Target)
	}
	to = append(to, ' ')
	to = appendEscaped(to, e.Path)
	return append(to, '\n')
}

// appendMode writes four octal digits; a mode has no more.
func appendMode(to []byte, mode uint32) []byte {
	for shift := 9; shift >= 0; shift -= 3 {
		to = append(to, '0'+byte(mode>>shift&7))
	}
	return to
}

// Encode writes the manifest, a line per entry:
//
//	f 0644 1234 <sha256> 1795651200 <path>
//	d 0755 <path>
//	l <target> <path>
//
// with \xNN in path and target for a space, a backslash and all bytes outside of printable ASCII.
func (m Manifest) Encode(w io.Writer) error {
	_, err := w.Write(m.text())
	return err
}

func (m Manifest) text() []byte {
	text := make([]byte, 0, 128*len(m)) // more than most lines have
	for i := range m {
		text = appendEntry(text, &m[i])
	}
	return text
}

// Digest is the sha256 of the encoded manifest: the identity of the content of a release.
func (m Manifest) Digest() string { return digestOf(m.text()) }

func digestOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
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

// ParseManifest reads what Encode wrote, and nothing else: no path that leaves the tree or passes
// through a file or symlink, no second entry for a path, no other order or spelling.
func ParseManifest(r io.Reader) (Manifest, error) {
	var text strings.Builder
	if sized, ok := r.(interface{ Stat() (fs.FileInfo, error) }); ok {
		if info, err := sized.Stat(); err == nil && info.Size() < maxManifest {
			text.Grow(int(info.Size()))
		}
	}
	if n, err := io.Copy(&text, io.LimitReader(r, maxManifest+1)); err != nil {
		return nil, err
	} else if n > maxManifest {
		return nil, fmt.Errorf("manifest of more than %d bytes", maxManifest)
	}
	m, err := parseManifest(text.String())
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return m, nil
}

// checkSize says whether a manifest of that many entries and bytes will be taken.
func checkSize(entries, bytes int) error {
	if entries > maxEntries || bytes > maxManifest {
		return fmt.Errorf("it has %d files, directories and symlinks, and a manifest of %s: a release has at most %d, and %s",
			entries, words.Bytes(int64(bytes)), maxEntries, words.Bytes(maxManifest))
	}
	return nil
}

// parseManifest keeps text: the strings of its entries are parts of it.
func parseManifest(text string) (Manifest, error) {
	m := make(Manifest, 0, min(strings.Count(text, "\n"), maxEntries))
	for number := 1; text != ""; number++ {
		line, rest, whole := strings.Cut(text, "\n")
		switch {
		case len(line) > maxLine:
			return nil, fmt.Errorf("line %d is longer than %d bytes", number, maxLine)
		case !whole:
			return nil, fmt.Errorf("line %d is cut off", number)
		case number > maxEntries:
			return nil, fmt.Errorf("more than %d lines", maxEntries)
		}
		e, err := parseEntry(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		m = append(m, e)
		text = rest
	}
	return m, m.validate()
}

// eachLine gives each line without its newline, bounded in length and number. The slice is good
// only until do returns.
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

func parseEntry(line string) (e Entry, err error) {
	malformed := func() (Entry, error) {
		return e, fmt.Errorf("%q… is not an entry", line[:min(len(line), 20)])
	}
	if len(line) < 2 || line[1] != ' ' {
		return malformed()
	}
	e.Type = line[0]
	field, rest, more := strings.Cut(line[2:], " ")
	if !more {
		return malformed()
	}
	switch e.Type {
	case 'f':
		if e.Mode, err = parseMode(field); err != nil {
			return e, err
		}
		if field, rest, more = strings.Cut(rest, " "); !more {
			return malformed()
		}
		if e.Size, err = parseSize(field); err != nil {
			return e, err
		}
		if field, rest, more = strings.Cut(rest, " "); !more {
			return malformed()
		}
		var ok bool
		if e.SHA256, ok = parseSum(field); !ok {
			return e, fmt.Errorf("%q is not a sha256", field)
		}
		if time, path, ok := strings.Cut(rest, " "); ok {
			if e.Modified, err = parseSize(time); err != nil || e.Modified == 0 || e.Modified > maxModified {
				return e, fmt.Errorf("%q is not a time of modification", time)
			}
			rest = path
		}
	case 'd':
		if e.Mode, err = parseMode(field); err != nil {
			return e, err
		}
	case 'l':
		if e.Target, err = unescape(field); err != nil {
			return e, fmt.Errorf("target: %w", err)
		}
	default:
		return malformed()
	}
	if strings.IndexByte(rest, ' ') >= 0 {
		return malformed()
	}
	if e.Path, err = unescape(rest); err != nil {
		return e, fmt.Errorf("path: %w", err)
	}
	return e, nil
}

// parseSize takes the one spelling of a number that Encode writes.
func parseSize(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || s[0] < '0' || s[0] > '9' || s[0] == '0' && len(s) > 1 {
		return 0, fmt.Errorf("%q is not a size", s)
	}
	return n, nil
}

func parseMode(s string) (mode uint32, err error) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '7' || len(s) != 4 {
			mode = maxMode + 1
			break
		}
		mode = mode<<3 | uint32(s[i]-'0')
	}
	if len(s) != 4 || mode > maxMode {
		return 0, fmt.Errorf("%q is not a mode of four octal digits", s)
	}
	return mode, nil
}

func (m Manifest) validate() error {
	directories := map[string]bool{"": true}
	before := "" // parent of the entry before: mostly of this one, too
	for i := range m {
		e := &m[i]
		if err := e.check(); err != nil {
			return err
		}
		if i > 0 && m[i-1].Path >= e.Path {
			return fmt.Errorf("%s comes after %s: not sorted, or twice the same", quote(e.Path), quote(m[i-1].Path))
		}
		if parent, _ := split(e.Path); parent != before {
			if !directories[parent] {
				return fmt.Errorf("%s: its parent is not a directory of this release", quote(e.Path))
			}
			before = parent
		}
		if e.Type == 'd' {
			directories[e.Path] = true
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
		return fmt.Errorf("%s: a file of mode %04o cannot be read by its owner", quote(e.Path), e.Mode)
	case e.Type == 'd' && e.Mode&0o500 != 0o500:
		return fmt.Errorf("%s: a directory of mode %04o cannot be read and entered by its owner", quote(e.Path), e.Mode)
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
	for rest, more := path, true; more; {
		var name string
		name, rest, more = strings.Cut(rest, "/")
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
