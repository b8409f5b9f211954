package release

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A tree on its way is partial: it has a name that no reader takes for a release's, and is given
// that once it is whole and on disk.

// publish gives a partial tree that is complete its name: manifest first, so that a release which
// is there has one; then everything to disk; then the rename. The manifest's time says since when
// nothing was written to the tree but what it names.
func (v *Volume) publish(id string, a *assembly, text []byte) error {
	if err := v.replaceFile(id+manifestExt, stateMode, func(file *os.File) error {
		if _, err := file.Write(text); err != nil {
			return err
		}
		tv := unix.NsecToTimeval(a.began.Nano())
		return unix.Futimes(int(file.Fd()), []unix.Timeval{tv, tv})
	}); err != nil {
		return err
	}
	return v.giveName(id, a)
}

// giveName is the end of publish.
func (v *Volume) giveName(id string, a *assembly) error {
	if !a.hides {
		if err := v.noteSpanUntil(a.began, a.settled); err != nil {
			return err
		}
	}
	if err := v.syncAll(); err != nil {
		return err
	}
	name := releasesDir + "/" + id
	if err := v.root.Rename(name+partialExt, name); err != nil {
		return fmt.Errorf("release %s: %w", id, err)
	}
	return errors.Join(v.syncDir(releasesDir), v.syncDir(stateDir))
}

// abandon removes a partial tree that is not to be completed. What it took and gave files in names
// was ours.
func (v *Volume) abandon(a *assembly) error {
	_, err := v.sweep()
	if err != nil || a == nil || a.hides || a.began == (unix.Timespec{}) {
		return err
	}
	_ = v.noteSpan(a.began) // the volume may be full: then more is hashed next time
	return nil
}
