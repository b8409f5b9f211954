package manifest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
)

// mostMoves is for how many files without a counterpart at their path the rest of the base is
// searched: 50,000 sums and paths are 10 MB. A change that makes more files is sent with all of
// their contents.
const mostMoves = 50_000

// Comparison is what differs between two encoded manifests. It reads them line by line, as often as
// it is asked, and keeps only what is needed to find files that were moved.
type Comparison struct {
	base, next io.ReadSeeker
	moved      map[content]string // files of the base, by content, that New files may come from

	Changes int   // how many there are
	Bytes   int64 // contents that are not in the base
}

// content is what a file has to have in common with another to be made of it; mode anyMode: the
// bytes alone.
type content struct {
	sum      [sha256.Size]byte
	mode     uint32
	modified int64
}

const anyMode = ^uint32(0)

// Compare goes through two encoded manifests, which must be sorted, as all are that were parsed
// once.
func Compare(ctx context.Context, base, next io.ReadSeeker) (*Comparison, error) {
	c := &Comparison{base: base, next: next}
	sums := map[[sha256.Size]byte]int64{} // of files without a counterpart, and the bytes of all that have it
	for change, err := range c.All(ctx) {
		if err != nil {
			return nil, err
		}
		c.Changes++
		if change.HasContent() {
			c.Bytes += change.Entry.Size
			if len(sums) <= mostMoves {
				sums[change.Entry.SHA256] += change.Entry.Size
			}
		}
	}
	if len(sums) == 0 || len(sums) > mostMoves {
		return c, nil
	}
	if err := c.findMoved(ctx, sums); err != nil {
		return nil, err
	}
	for sum, bytes := range sums {
		if _, ok := c.moved[content{sum: sum, mode: anyMode}]; ok {
			c.Bytes -= bytes
		}
	}
	return c, nil
}

// findMoved looks for some contents in the base.
func (c *Comparison) findMoved(ctx context.Context, sums map[[sha256.Size]byte]int64) error {
	c.moved = map[content]string{}
	lines, err := newLines(c.base)
	if err != nil {
		return err
	}
	for n := 0; lines.next(); n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if lines.text[0] != 'f' {
			continue
		}
		if _, wanted := sums[sumIn(lines.text)]; !wanted {
			continue
		}
		e, err := lines.entry()
		if err != nil {
			return err
		}
		c.moved[content{e.SHA256, e.Mode, e.Modified}] = e.Path
		c.moved[content{sum: e.SHA256, mode: anyMode}] = e.Path
	}
	return lines.err
}

// sumIn is the sum in the line of a file, without a look at the rest; zero when there is none.
func sumIn(line []byte) (sum [sha256.Size]byte) {
	const before = len("f 0644 ") // here begins the size of a file, then a space and its sum
	if len(line) < before {
		return sum
	}
	if _, rest, ok := bytes.Cut(line[before:], []byte{' '}); ok && len(rest) >= hex.EncodedLen(len(sum)) {
		_, _ = hex.Decode(sum[:], rest[:hex.EncodedLen(len(sum))])
	}
	return sum
}

// All yields the changes in the order of their paths, and ends with the first error.
func (c *Comparison) All(ctx context.Context) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		if err := c.each(ctx, func(change Change) bool { return yield(change, nil) }); err != nil {
			yield(Change{}, err)
		}
	}
}

func (c *Comparison) each(ctx context.Context, do func(Change) bool) error {
	was, err := newLines(c.base)
	if err != nil {
		return err
	}
	is, err := newLines(c.next)
	if err != nil {
		return err
	}
	was.next()
	is.next()
	for n := 0; was.more() || is.more(); n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if bytes.Equal(was.text, is.text) {
			was.next()
			is.next()
			continue
		}
		old, err1 := was.entry()
		e, err2 := is.entry()
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		var change Change
		switch {
		case !is.more() || was.more() && old.Path < e.Path:
			change = Change{How: Gone, Entry: Entry{Path: old.Path}}
			was.next()
		case !was.more() || e.Path < old.Path:
			change = c.made(e)
			is.next()
		case old.Type == 'f' && e.Type == 'f' && old.SHA256 == e.SHA256:
			change = Change{How: Copy, From: old.Path, Entry: e}
			was.next()
			is.next()
		default:
			change = c.made(e)
			was.next()
			is.next()
		}
		if !do(change) {
			return nil
		}
	}
	return errors.Join(was.err, is.err)
}

// made is how an entry comes to be that the base does not have at its path.
func (c *Comparison) made(e Entry) Change {
	if e.Type == 'f' {
		if from, ok := c.moved[content{e.SHA256, e.Mode, e.Modified}]; ok {
			return Change{How: Link, From: from, Entry: e}
		}
		if from, ok := c.moved[content{sum: e.SHA256, mode: anyMode}]; ok {
			return Change{How: Copy, From: from, Entry: e}
		}
	}
	return Change{How: New, Entry: e}
}

// Merge writes the manifest that changes make out of a base to w. It copies lines and does not
// parse them: whether the outcome is a manifest, its digest has to say. A change that does not fit
// the base is an error all the same, as it names what is wrong.
func Merge(ctx context.Context, w io.Writer, base io.ReadSeeker, changes iter.Seq2[Change, error]) error {
	lines, err := newLines(base)
	if err != nil {
		return err
	}
	to := bufio.NewWriterSize(w, 64<<10)
	lines.next()
	var text []byte
	for c, err := range changes {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = lines.copyBefore(to, c.Entry.Path)
		}
		if err != nil {
			return err
		}
		was := lines.more() && lines.compare(c.Entry.Path) == 0
		if was {
			lines.next()
		}
		if c.How == Gone && !was {
			return fmt.Errorf("%s is to go, and the base does not have it", Quote(c.Entry.Path))
		}
		if c.How != Gone {
			text = AppendEntry(text[:0], &c.Entry)
			_, _ = to.Write(text) // the error stays in it, for Flush
		}
	}
	if err := lines.copyBefore(to, ""); err != nil {
		return err
	}
	return to.Flush()
}

// lines reads an encoded manifest. The text of a line is good until the next one.
type lines struct {
	from   *bufio.Reader
	text   []byte // the line, without its newline; empty: there is none left
	number int
	err    error

	parsed Entry
	of     int // the number of the line that parsed is of
}

func newLines(r io.ReadSeeker) (*lines, error) {
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return &lines{from: bufio.NewReaderSize(r, 2*MaxLine)}, nil
}

func (l *lines) more() bool { return len(l.text) > 0 }

// next goes to the next line, and says whether there is one.
func (l *lines) next() bool {
	l.number++
	text, err := l.from.ReadSlice('\n')
	switch {
	case errors.Is(err, io.EOF) && len(text) == 0:
	case errors.Is(err, io.EOF):
		l.err = fmt.Errorf("line %d of a manifest is cut off", l.number)
	case errors.Is(err, bufio.ErrBufferFull) || len(text) > MaxLine:
		l.err = fmt.Errorf("line %d of a manifest is longer than %d bytes", l.number, MaxLine)
	case len(text) == 1:
		l.err = fmt.Errorf("line %d of a manifest is empty", l.number)
	case err != nil:
		l.err = err
	default:
		l.text = text[:len(text)-1]
		return true
	}
	l.text = nil
	return false
}

// entry parses the line; the zero Entry when there is none.
func (l *lines) entry() (Entry, error) {
	if l.err != nil || len(l.text) == 0 {
		return Entry{}, l.err
	}
	if l.of == l.number {
		return l.parsed, nil
	}
	e, err := ParseEntry(string(l.text))
	if err == nil {
		err = e.Check()
	}
	if err != nil {
		return e, fmt.Errorf("line %d of a manifest: %w", l.number, err)
	}
	l.parsed, l.of = e, l.number
	return e, nil
}

// compare compares the path of the line with another one, without a look at its other fields. One
// that cannot be read is before all others.
func (l *lines) compare(path string) int {
	escaped := l.text[bytes.LastIndexByte(l.text, ' ')+1:]
	if bytes.IndexByte(escaped, '\\') >= 0 {
		unescaped, err := Unescape(string(escaped))
		if err != nil {
			return -1
		}
		return strings.Compare(unescaped, path)
	}
	switch { // the compiler makes no string for these
	case string(escaped) < path:
		return -1
	case string(escaped) == path:
		return 0
	}
	return 1
}

// copyBefore writes the lines before a path; "": all that are left.
func (l *lines) copyBefore(to *bufio.Writer, path string) error {
	for l.more() {
		if path != "" && l.compare(path) >= 0 {
			break
		}
		_, _ = to.Write(l.text) // the error stays in it, for Flush
		_ = to.WriteByte('\n')
		l.next()
	}
	return l.err
}
