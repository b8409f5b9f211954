// Package notes keeps on the root disk what a volume cannot say of itself: that this instance has
// asked EC2 for a volume of its own, and that a volume that EC2 brought has served.
package notes

import (
	"errors"
	"os"
	"path/filepath"
)

// Dir is a directory of the root disk that keeps, over a reboot, what a volume cannot say: an
// empty file for each, by the id of whom it is about, as an image may have been made of another
// instance.
type Dir string

// Folder is where an agent has it.
const Folder Dir = "/var/lib/ebs-release"

const (
	// Made is that this instance has asked EC2 for a volume of its own. What is attached there
	// says nothing of where it is from before it has served.
	Made = "volume-of-"
	// Served is that EC2 brought this volume, it has served here, and it took no mark of that.
	Served = "served-"
)

func (d Dir) path(what, id string) string {
	return filepath.Join(string(d), what+filepath.Base(id))
}

// Has says whether it was kept.
func (d Dir) Has(what, id string) bool {
	_, err := os.Lstat(d.path(what, id))
	return err == nil
}

// Keep returns when it is on the disk.
func (d Dir) Keep(what, id string) error {
	if d.Has(what, id) {
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
