package freeze

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Place is something that the publisher may write or must read while a file system is frozen: if it
// lies on that file system, the publisher could hang on its own freeze.
type Place struct {
	What string // "the log", "the ssh key"
	Path string // a path that does not exist is no trouble; "" neither
}

// Check refuses what Freeze would refuse, without freezing.
func (h Holder) Check() error { return refuse(h.Path, h.Refuse) }

// refuse returns an error when path is on the root file system or shares its file system with this
// program, its working directory, its standard streams or one of places. File systems are told
// apart by st_dev.
func refuse(path string, places []Place) error {
	var frozen unix.Stat_t
	if err := unix.Stat(path, &frozen); err != nil {
		return fmt.Errorf("freeze %s: %w", path, err)
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("freeze %s: find this program: %w", path, err)
	}
	cwd, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("freeze %s: find the working directory: %w", path, err)
	}
	places = append([]Place{
		{"the root file system", "/"},
		{"this program", program},
		{"the working directory", cwd},
		{"standard output", "/proc/self/fd/1"},
		{"the log", "/proc/self/fd/2"},
		{"the temporary directory", os.TempDir()},
	}, places...)
	for _, p := range places {
		if p.Path == "" {
			continue
		}
		var st unix.Stat_t
		switch err := unix.Stat(p.Path, &st); {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return fmt.Errorf("freeze %s: is %s (%s) on it? %w", path, p.What, p.Path, err)
		case st.Dev == frozen.Dev:
			return fmt.Errorf("refused to freeze %s: %s (%s) is on the same file system and would hang with it; move it elsewhere",
				path, p.What, p.Path)
		}
	}
	return nil
}
