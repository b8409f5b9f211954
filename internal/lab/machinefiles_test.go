package lab

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestTheReleaseServerSeesWhatAPersonEdits: an editor writes a new file and renames it over the old
// one.
func TestTheReleaseServerSeesWhatAPersonEdits(t *testing.T) {
	opts := standIns(t)
	var dirs []string
	for _, parent := range []string{"/usr/local", "/srv"} { // one is shown whole, of the other the server has a part of its own
		dir, err := os.MkdirTemp(parent, "ebs-lab-test-")
		do(t, err)
		t.Cleanup(func() { do(t, os.RemoveAll(dir)) })
		dirs = append(dirs, dir)
	}
	var err error
	opts.ServerBinds, err = MachineFiles()
	do(t, err)
	l := start(t, opts)
	ctx := deadline(t, time.Minute)
	server, err := l.ReleaseServer(ctx)
	do(t, err)
	for _, dir := range dirs {
		file := filepath.Join(dir, "page")
		for _, text := range []string{"old", "new", "newer"} {
			do(t, os.WriteFile(file+"~", []byte(text), 0o644))
			do(t, os.Rename(file+"~", file))
			if got, err := server.ReadFile(ctx, file); err != nil || got != text {
				t.Errorf("the release server reads %q from %s, which holds %q (%v)", got, file, text, err)
			}
		}
		if _, err := server.Run(ctx, "touch", filepath.Join(dir, "mine")); err == nil {
			t.Errorf("the release server writes into %s of this machine", dir)
		}
	}
	for _, dir := range []string{PointerStore, "/root", "/etc/ebs-release", "/var/lib", "/tmp"} {
		if _, err := server.Run(ctx, "ls", dir); err != nil {
			t.Error(err)
		}
	}
	for _, dir := range []string{PointerStore, "/etc", "/var/lib", "/tmp", "/"} {
		if _, err := server.Run(ctx, "mkdir", dir+"/of-the-lab"); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(dir + "/of-the-lab"); err == nil {
			t.Errorf("what the release server made in %s is on this machine", dir)
		}
	}
}
