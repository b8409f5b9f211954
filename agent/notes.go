package main

import (
	"errors"
	"os"
	"path/filepath"
)

// notes is a directory of the root disk that keeps, over a reboot, what a volume cannot say: an
// empty file for each, by the id of whom it is about, as an image may have been made of another
// instance.
type notes string

const notesFolder notes = "/var/lib/ebs-release"

const (
	// noteMade: this instance has asked EC2 for a volume of its own. What is attached there says
	// nothing of where it is from before it has served.
	noteMade = "volume-of-"
	// noteServed: EC2 brought this volume, it has served here, and it took no mark of that.
	noteServed = "served-"
)

func (d notes) path(what, id string) string {
	return filepath.Join(string(d), what+filepath.Base(id))
}

func (d notes) has(what, id string) bool {
	_, err := os.Lstat(d.path(what, id))
	return err == nil
}

// keep returns when it is on the disk.
func (d notes) keep(what, id string) error {
	if d.has(what, id) {
		return nil
	}
	if err := os.MkdirAll(string(d), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(d.path(what, id), os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	dir, err := os.Open(string(d))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
