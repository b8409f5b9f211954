package status

import (
	"os"
	"path/filepath"
	"strings"
)

const reachName = "store.env"

// Reach is how the boot has reached its store, each as KEY=VALUE: whoever takes releases as the
// owner of the tree has neither the environment of the agent's unit nor, perhaps, the right to read
// its settings. (The setting reach of a publisher, ssh or follow, is another thing.)
type Reach []string

// KeepReach replaces the file with it. Nobody but its owner reads it, as a URL may have a password.
func (d Dir) KeepReach(r Reach, uid, gid int) error {
	return d.replaceAs(reachName, []byte(strings.Join(r, "\n")+"\n"), 0o600, uid, gid)
}

// Reach reads it; fs.ErrNotExist: no boot was over yet.
func (d Dir) Reach() (Reach, error) {
	data, err := os.ReadFile(filepath.Join(string(d), reachName))
	if err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(data), "\n"), "\n"), nil
}
