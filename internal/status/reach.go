package status

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
)

// Reach is how the boot has reached its store, each as KEY=VALUE: whoever takes releases as the
// owner of the tree has neither the environment of the agent's unit nor, perhaps, the right to read
// its settings.
type Reach []string

// KeepReach replaces the file with it. Nobody but its owner reads it, as a URL may have a password.
func (d Dir) KeepReach(r Reach, uid, gid int) error {
	path := d.reachPath()
	file, err := renameio.NewPendingFile(path, renameio.WithTempDir(string(d)), renameio.WithPermissions(0o600), renameio.IgnoreUmask())
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() { _ = file.Cleanup() }()
	_, err = file.WriteString(strings.Join(r, "\n") + "\n")
	if err = errors.Join(err, file.Chown(uid, gid)); err == nil {
		err = file.CloseAtomicallyReplace()
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// Reach reads it; fs.ErrNotExist: no boot was over yet.
func (d Dir) Reach() (Reach, error) {
	data, err := os.ReadFile(d.reachPath())
	if err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(data), "\n"), "\n"), nil
}

func (d Dir) reachPath() string { return filepath.Join(string(d), "store.env") }
