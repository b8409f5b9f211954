package manifest

import "fmt"

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
