package manifest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

// Delta is what makes one manifest out of another. A file counts as changed when its mode did, too:
// an unchanged file is a hard link to the release before, and a mode belongs to the inode that both
// would share.
type Delta struct {
	Added   []Entry
	Changed []Entry // as they are in the new release
	Removed []string
}

// Changes counts files and symlinks.
type Changes struct{ Added, Changed, Removed int }

// String reads "3 added, 197 changed, 0 removed".
func (c Changes) String() string {
	return fmt.Sprintf("%d added, %d changed, %d removed", c.Added, c.Changed, c.Removed)
}

// Count counts what makes next out of base. A file that became a directory is removed, one that
// was a directory is added.
func Count(base, next Manifest) (c Changes) {
	there, back := Diff(base, next), Diff(next, base)
	count := func(was, is bool) {
		switch {
		case was && is:
			c.Changed++
		case is:
			c.Added++
		case was:
			c.Removed++
		}
	}
	for i := range there.Added {
		count(false, there.Added[i].Type != 'd')
	}
	for i := range back.Added {
		count(back.Added[i].Type != 'd', false)
	}
	for i := range there.Changed { // the same paths both ways
		count(back.Changed[i].Type != 'd', there.Changed[i].Type != 'd')
	}
	return c
}

// Diff says what makes next out of base. It goes through both once.
func Diff(base, next Manifest) Delta {
	var d Delta
	for len(base) > 0 || len(next) > 0 {
		switch {
		case len(next) == 0 || len(base) > 0 && base[0].Path < next[0].Path:
			d.Removed = append(d.Removed, base[0].Path)
			base = base[1:]
		case len(base) == 0 || next[0].Path < base[0].Path:
			d.Added = append(d.Added, next[0])
			next = next[1:]
		default:
			if base[0] != next[0] {
				d.Changed = append(d.Changed, next[0])
			}
			base, next = base[1:], next[1:]
		}
	}
	return d
}

const (
	deltaHead = "ebs-release delta 1" // an agent baked into an old AMI must see that it cannot read a later form
	deltaEnd  = "end"                 // and that a connection broke before the end
)

// Encode writes the delta in the form that ParseDelta reads: "+ ", "~ " and a manifest line, "- "
// and an escaped path.
func (d Delta) Encode(w io.Writer) error {
	buffered := bufio.NewWriterSize(w, 64<<10)
	line := append([]byte(deltaHead), '\n')
	put := func() error {
		_, err := buffered.Write(line)
		return err
	}
	if err := put(); err != nil {
		return err
	}
	for _, part := range []struct {
		mark    string
		entries []Entry
	}{{"+ ", d.Added}, {"~ ", d.Changed}} {
		for i := range part.entries {
			line = AppendEntry(append(line[:0], part.mark...), &part.entries[i])
			if err := put(); err != nil {
				return err
			}
		}
	}
	for _, path := range d.Removed {
		line = append(AppendEscaped(append(line[:0], "- "...), path), '\n')
		if err := put(); err != nil {
			return err
		}
	}
	line = append(append(line[:0], deltaEnd...), '\n')
	if err := put(); err != nil {
		return err
	}
	return buffered.Flush()
}

// ParseDelta reads what Encode wrote. Whether it is right only Apply and the digest of its result
// can tell.
func ParseDelta(r io.Reader) (Delta, error) {
	var d Delta
	ended := false
	err := EachLine(r, func(number int, raw []byte) error {
		line := string(raw)
		switch {
		case number == 1 && line != deltaHead:
			return fmt.Errorf("delta begins with %q, want %q", line[:min(len(line), 40)], deltaHead)
		case number == 1:
			return nil
		case ended:
			return errors.New("delta goes on after its end")
		case line == deltaEnd:
			ended = true
			return nil
		case len(line) < 2 || line[1] != ' ':
			return fmt.Errorf("delta line %d is malformed", number)
		}
		var e Entry
		var err error
		switch line[0] {
		case '+':
			e, err = ParseEntry(line[2:])
			d.Added = append(d.Added, e)
		case '~':
			e, err = ParseEntry(line[2:])
			d.Changed = append(d.Changed, e)
		case '-':
			e.Path, err = Unescape(line[2:])
			d.Removed = append(d.Removed, e.Path)
		default:
			err = errors.New("unknown mark")
		}
		if err != nil {
			return fmt.Errorf("delta line %d: %w", number, err)
		}
		return nil
	})
	if err == nil && !ended {
		err = errors.New("delta is cut off")
	}
	if err != nil {
		return Delta{}, err
	}
	return d, nil
}

// Apply makes a manifest out of base, which stays as it is. The caller compares the digest of the
// result.
func (d Delta) Apply(base Manifest) (Manifest, error) {
	next := make(Manifest, 0, len(base)+len(d.Added))
	added, changed, removed := d.Added, d.Changed, d.Removed
	for i := range base {
		e := &base[i]
		for len(added) > 0 && added[0].Path < e.Path {
			next = append(next, added[0])
			added = added[1:]
		}
		switch {
		case len(changed) > 0 && changed[0].Path == e.Path:
			next = append(next, changed[0])
			changed = changed[1:]
		case len(removed) > 0 && removed[0] == e.Path:
			removed = removed[1:]
		default:
			next = append(next, *e)
		}
	}
	if len(changed)+len(removed) > 0 {
		return nil, errors.New("delta changes files that its base does not have, or is not sorted")
	}
	next = append(next, added...)
	if err := next.Validate(); err != nil {
		return nil, fmt.Errorf("delta: %w", err)
	}
	return next, nil
}
