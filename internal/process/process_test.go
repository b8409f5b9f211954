package process_test

import (
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/process"

	"golang.org/x/sys/unix"
)

func sinceBoot(t *testing.T) time.Duration {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		t.Fatal(err)
	}
	return time.Duration(now.Nano())
}

func TestWhatIsReadOfAProcess(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "a ) b") // the kernel puts the name in brackets
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(sleep); err != nil || os.WriteFile(program, data, 0o755) != nil {
		t.Fatal(err)
	}
	before := sinceBoot(t)
	cmd := exec.Command(program, "60")
	cmd.Dir = dir
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := process.Of(cmd.Process.Pid)
	if all, err := process.All(); err != nil || !slices.Contains(all, p) || slices.Contains(all, process.Self) {
		t.Errorf("%s is not among %v, %v", p, all, err)
	}
	if p.PID() != cmd.Process.Pid || p.Name() != "a ) b" || !slices.Equal(p.Command(), []string{program, "60"}) || !p.Mine() {
		t.Errorf("%d %q %q %v", p.PID(), p.Name(), p.Command(), p.Mine())
	}
	const tick = 10 * time.Millisecond
	if state, began, ok := p.State(); !ok || len(state) != 1 || began < before-tick || began > sinceBoot(t) {
		t.Errorf("state %q, began %v, %v", state, began, ok)
	}
	in := slices.ContainsFunc(p.Links(), func(link string) bool {
		target, err := os.Readlink(link)
		return err == nil && target == dir
	})
	if !in {
		t.Errorf("none of %v leads to %s", p.Links(), dir)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	if _, _, ok := p.State(); ok || p.Name() != "" || p.Command() != nil || p.Mine() {
		t.Error("it is gone, and something was read")
	}
}

func TestMounts(t *testing.T) {
	mounts, err := process.Self.Mounts()
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(mounts, func(m process.Mount) bool { return m.Point == "/proc" })
	if at < 0 {
		t.Fatalf("no /proc among %+v", mounts)
	}
	m := mounts[at]
	if m.ID == "" || m.Above == "" || !strings.Contains(m.Number, ":") || m.Root != "/" || m.Source == "" {
		t.Errorf("%+v", m)
	}
	if !slices.ContainsFunc(mounts, func(below process.Mount) bool { return below.ID == m.Above }) {
		t.Errorf("nothing is below %+v", m)
	}
	if none, err := process.Of(math.MaxInt32).Mounts(); none != nil || err != nil { // there is no such process
		t.Errorf("%v, %v", none, err)
	}
}
