package up

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"ebs-release/internal/flock"
	"ebs-release/internal/status"

	"golang.org/x/sys/unix"
)

// TestTheLockIsItsOwnersAlone: whoever may open a file may hold a flock on it, and so stop boots.
func TestTheLockIsItsOwnersAlone(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"new":                  func(string) error { return nil },
		"of an older version":  func(path string) error { return os.WriteFile(path, nil, 0o644) },
		"of a generous person": func(path string) error { return errors.Join(os.WriteFile(path, nil, 0o600), os.Chmod(path, 0o666)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := status.Dir(filepath.Join(t.TempDir(), "run"))
			if err := errors.Join(os.Mkdir(string(dir), 0o777), os.Chmod(string(dir), 0o777), make(dir.LockPath()), dir.Make()); err != nil {
				t.Fatal(err)
			}
			lock, err := Lock(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			for path, want := range map[string]fs.FileMode{string(dir): 0o755, dir.LockPath(): 0o600} {
				if info, err := os.Lstat(path); err != nil || info.Mode().Perm() != want {
					t.Errorf("%s: %v, %v, want %v", path, info.Mode(), err, want)
				}
			}
			if held, err := flock.Held(dir.LockPath()); !held || err != nil {
				t.Errorf("while it is held: %v, %v", held, err)
			}
			lock.Close()
			if held, err := flock.Held(dir.LockPath()); held || err != nil {
				t.Errorf("when it is free: %v, %v", held, err)
			}
		})
	}
	for name, make := range map[string]func(path string) error{
		"a fifo":    func(path string) error { return unix.Mkfifo(path, 0o600) },
		"a symlink": func(path string) error { return os.Symlink("/etc/hostname", path) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := status.Dir(t.TempDir())
			if err := make(dir.LockPath()); err != nil {
				t.Fatal(err)
			}
			if _, err := Lock(t.Context(), dir); err == nil {
				t.Error("it was taken for a lock")
			}
		})
	}
}
