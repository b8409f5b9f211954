// Package pack is what travels from one release to another: the changes of the manifest, and the
// content of every file that the first release does not have. A pack never changes; whoever has it
// and the first release can make the second one, without asking anybody.
//
// Its text is
//
//	ebs-release pack 1
//	from <digest of the first release's manifest, or - for nothing>
//	to <digest> <release id> [<keys that open the next packs, in an encrypted one>]
//	<changes, a line each, in the order of their paths: see manifest.Change>
//	contents <how many files> <how many bytes>
//	<the bytes of each file that a change calls New, in that order, one after the other>
//	end
//
// compressed with zstd, and encrypted with age where the store is read by more than the members
// (Seal). A reader checks the sha256 of the whole, which the signed pointer has, before it opens
// anything; it is bounded all the same, as a publisher's key may be stolen.
//
// Both sides work on a stream: a pack is never in memory as a whole.
package pack

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"

	"ebs-release/internal/manifest"
)

const (
	firstLine = "ebs-release pack 1"
	lastLine  = "end"
	nothing   = "-"

	mostChanges = 8_000_000 // each path of one release gone, and each of another one new
	maxLine     = 80 << 10  // two of the longest paths, every byte escaped
	maxKeys     = 4 << 10
	maxContents = 16 << 40 // bytes: what an EBS volume can hold
)

// Head says between which releases a pack leads.
type Head struct {
	From    string // digest of a manifest; empty: from nothing, a full pack
	To      string // digest of the manifest that comes out
	Release string // the id of that release
	Keys    string // that open the next packs; empty: those that do until now. Secret
}

func (h Head) check() error {
	switch {
	case h.From != "" && !manifest.ValidDigest(h.From):
		return errors.New("the pack does not say which release it is from")
	case !manifest.ValidDigest(h.To) || !manifest.ValidID(h.Release):
		return errors.New("the pack does not say which release it makes")
	case len(h.Keys) > maxKeys || strings.ContainsAny(h.Keys, " \n"):
		return errors.New("the keys in the pack are none")
	}
	return nil
}

// Write writes the text of a pack. It goes through changes twice: first for their lines, then for
// the contents of those that are New files, which open opens by their path. A content of another
// size than its entry says is an error; its sha256 is for the reader to compare.
func Write(
	ctx context.Context, w io.Writer, h Head,
	changes iter.Seq2[manifest.Change, error], open func(path string) (io.ReadCloser, error),
) error {
	if err := h.check(); err != nil {
		return err
	}
	to := bufio.NewWriterSize(w, 64<<10)
	from := h.From
	if from == "" {
		from = nothing
	}
	makes := h.Release
	if h.Keys != "" {
		makes += " " + h.Keys
	}
	fmt.Fprintf(to, "%s\nfrom %s\nto %s %s\n", firstLine, from, h.To, makes) // errors stay in to, for Flush
	var line []byte
	files, bytes := 0, int64(0)
	for c, err := range changes {
		if err != nil {
			return err
		}
		if c.HasContent() {
			files, bytes = files+1, bytes+c.Entry.Size
		}
		line = c.AppendLine(line[:0])
		if _, err := to.Write(line); err != nil {
			return err
		}
	}
	fmt.Fprintf(to, "contents %d %d\n", files, bytes)
	for c, err := range changes {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil && c.HasContent() {
			err = writeContent(ctx, to, &c.Entry, open)
		}
		if err != nil {
			return err
		}
	}
	_, _ = to.WriteString(lastLine + "\n")
	return to.Flush()
}

func writeContent(ctx context.Context, w io.Writer, e *manifest.Entry, open func(path string) (io.ReadCloser, error)) error {
	from, err := open(e.Path)
	if err != nil {
		return fmt.Errorf("pack %s: %w", manifest.Quote(e.Path), err)
	}
	n, err := io.CopyN(w, reader(func(into []byte) (int, error) { // a large file must not outlast ctx
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return from.Read(into)
	}), e.Size)
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("it has %d bytes, its manifest says %d", n, e.Size)
	}
	if err = errors.Join(err, from.Close()); err != nil {
		return fmt.Errorf("pack %s: %w", manifest.Quote(e.Path), err)
	}
	return nil
}

type reader func([]byte) (int, error)

func (r reader) Read(into []byte) (int, error) { return r(into) }

// Reader reads the text of a pack: Changes to their end, then the Content of each New file in
// their order, then End.
type Reader struct {
	Head

	from  *bufio.Reader
	files int   // contents that are still to come
	bytes int64 // in them
	stage string
}

// NewReader reads the head.
func NewReader(r io.Reader) (*Reader, error) {
	p := &Reader{from: bufio.NewReaderSize(r, maxLine), stage: "changes"}
	first, err := p.line()
	if err != nil {
		return nil, err
	}
	if first != firstLine {
		return nil, fmt.Errorf("it begins with %.40q, want %q: this is no pack, or one for a later version of ebs-release", first, firstLine)
	}
	from, err1 := p.field("from ")
	to, err2 := p.field("to ")
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	if from != nothing {
		p.From = from
	}
	p.To, p.Release, _ = strings.Cut(to, " ")
	p.Release, p.Keys, _ = strings.Cut(p.Release, " ")
	if from == "" {
		return nil, errors.New("the pack does not say which release it is from")
	}
	return p, p.check()
}

func (r *Reader) line() (string, error) {
	text, err := r.from.ReadSlice('\n')
	switch {
	case errors.Is(err, io.EOF):
		return "", errCut
	case errors.Is(err, bufio.ErrBufferFull):
		return "", fmt.Errorf("a line is longer than %d bytes", maxLine)
	case err != nil:
		return "", err
	}
	return string(text[:len(text)-1]), nil
}

var errCut = errors.New("the pack is cut off")

func (r *Reader) field(name string) (string, error) {
	line, err := r.line()
	if err != nil {
		return "", err
	}
	rest, ok := strings.CutPrefix(line, name)
	if !ok {
		return "", fmt.Errorf("%.40q where %q should be", line, name)
	}
	return rest, nil
}

// Changes yields them in the order of their paths, each fit for a release, and ends with the first
// error. It can be gone through once.
func (r *Reader) Changes() iter.Seq2[manifest.Change, error] {
	return func(yield func(manifest.Change, error) bool) {
		last, files, bytes := "", 0, int64(0)
		for n := 0; ; n++ {
			line, err := r.line()
			if contents, ok := strings.CutPrefix(line, "contents "); err == nil && ok {
				if err := r.contents(contents, files, bytes); err != nil {
					yield(manifest.Change{}, err)
				}
				return
			}
			var c manifest.Change
			if err == nil {
				c, err = manifest.ParseChange(line)
			}
			switch {
			case err != nil:
			case n >= mostChanges:
				err = fmt.Errorf("more than %d changes", mostChanges)
			case c.Entry.Path <= last:
				err = fmt.Errorf("%s comes after %s: not sorted, or twice the same", manifest.Quote(c.Entry.Path), manifest.Quote(last))
			case c.HasContent() && c.Entry.Size > maxContents-bytes:
				err = fmt.Errorf("its files have more than %d bytes", int64(maxContents))
			}
			if err != nil {
				yield(manifest.Change{}, fmt.Errorf("change %d: %w", n+1, err))
				return
			}
			if last = c.Entry.Path; c.HasContent() {
				files, bytes = files+1, bytes+c.Entry.Size
			}
			if !yield(c, nil) {
				return
			}
		}
	}
}

// contents compares what the pack says of its contents with its changes.
func (r *Reader) contents(said string, files int, bytes int64) error {
	if want := strconv.Itoa(files) + " " + strconv.FormatInt(bytes, 10); said != want {
		return fmt.Errorf("the pack says that its contents are %.60q (files, bytes), its changes say %q", said, want)
	}
	r.stage, r.files, r.bytes = "contents", files, bytes
	return nil
}

// Content returns the bytes of the next New file. They have to be read to their end; one that
// breaks off before e.Size is an error of the pack.
func (r *Reader) Content(e *manifest.Entry) (io.Reader, error) {
	if r.stage != "contents" || r.files == 0 || e.Size > r.bytes {
		return nil, fmt.Errorf("the pack has no content for %s", manifest.Quote(e.Path))
	}
	r.files--
	r.bytes -= e.Size
	return &content{r.from, e.Size}, nil
}

// content is one file. Unlike io.LimitReader it does not take the end of the pack for its own.
type content struct {
	from io.Reader
	left int64
}

func (c *content) Read(into []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	n, err := c.from.Read(into[:min(int64(len(into)), c.left)])
	c.left -= int64(n)
	if errors.Is(err, io.EOF) {
		err = errCut
	}
	return n, err
}

// End says whether the pack is whole, and ends there.
func (r *Reader) End() error {
	if r.stage != "contents" || r.files > 0 {
		return errors.New("the pack was not read to its end")
	}
	switch line, err := r.line(); {
	case err != nil:
		return err
	case line != lastLine:
		return errCut
	}
	switch _, err := r.from.ReadByte(); {
	case err == nil:
		return errors.New("the pack goes on after its end")
	case !errors.Is(err, io.EOF):
		return err
	}
	return nil
}
