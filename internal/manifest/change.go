package manifest

import (
	"errors"
	"fmt"
	"strings"
)

// How a path of a base comes to be what the next release has there.
type How byte

// The ways, as the first byte of a Change's line.
const (
	Gone How = '-' // the base has the path, the next release does not
	New  How = '+' // made anew; a file's content is not in the base
	Link How = '=' // the base's file at From: same content, mode and time
	Copy How = '~' // the content of the base's file at From, with another mode or time
)

// Change is one path that differs between two releases. All of them, in the order of the paths,
// make the manifest of the one out of that of the other (Merge), and its tree, too.
type Change struct {
	How   How
	From  string // of Link and Copy: a path of the base
	Entry Entry  // as it is in the next release; of Gone the Path alone
}

// AppendLine adds the line that ParseChange reads:
//
//   - <path>
//   - <line of a manifest>
//     = <from> <line of a manifest>
//     ~ <from> <line of a manifest>
func (c *Change) AppendLine(to []byte) []byte {
	to = append(to, byte(c.How), ' ')
	switch c.How {
	case Gone:
		return append(AppendEscaped(to, c.Entry.Path), '\n')
	case Link, Copy:
		to = append(AppendEscaped(to, c.From), ' ')
	}
	return AppendEntry(to, &c.Entry)
}

// ParseChange reads a line without its newline. What it returns can be applied to a base that has
// From, and to no path outside of a release.
func ParseChange(line string) (c Change, err error) {
	if len(line) < 2 || line[1] != ' ' {
		return c, fmt.Errorf("%.20q… is no change", line)
	}
	c.How = How(line[0])
	rest := line[2:]
	switch c.How {
	case Gone:
		if c.Entry.Path, err = Unescape(rest); err == nil {
			err = CheckPath(c.Entry.Path)
		}
		return c, err
	case New:
	case Link, Copy:
		from, entry, _ := strings.Cut(rest, " ")
		if c.From, err = Unescape(from); err == nil {
			err = CheckPath(c.From)
		}
		if err != nil {
			return c, err
		}
		rest = entry
	default:
		return c, fmt.Errorf("%q is no kind of change", line[0])
	}
	if c.Entry, err = ParseEntry(rest); err != nil {
		return c, err
	}
	if c.From != "" && c.Entry.Type != 'f' {
		return c, errors.New("only a file can come from another path")
	}
	return c, c.Entry.Check()
}

// HasContent says whether the bytes of a file come with the change.
func (c *Change) HasContent() bool { return c.How == New && c.Entry.Type == 'f' }

// Quote makes a path fit for a one-line message.
