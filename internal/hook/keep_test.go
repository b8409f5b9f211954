package hook_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ebs-release/internal/hook"
	"ebs-release/internal/process"
)

func TestMain(m *testing.M) {
	hook.KeepIfAsked()
	os.Exit(m.Run())
}

// scattered has a child in a pipe, one in a session of its own whose parent is gone, and one in the
// background. All have the mark in their command lines.
const scattered = `sleep 300.MARK | cat & (setsid sh -c 'sleep 301.MARK & sleep 302.MARK' &) ; `

// marked are the processes that are still there.
func marked(t *testing.T, mark string) (found []string) {
	t.Helper()
	all, err := process.All()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if c := p.Command(); len(c) == 2 && c[0] == "sleep" && strings.HasSuffix(c[1], "."+mark) {
			found = append(found, c[1])
		}
	}
	return found
}

// A gate that hangs does not go on for a driver that was killed, nor does anything that it began.
func TestACommandDiesWithItsCaller(t *testing.T) {
	const variable = "HOOK_TEST_MARK"
	if mark := os.Getenv(variable); mark != "" { // the driver
		line := strings.ReplaceAll(scattered, "MARK", mark) + "sleep 303." + mark
		err := hook.Command{Name: "gate", Line: line, Timeout: time.Hour}.Run(t.Context())
		t.Fatal("it ended:", err)
	}
	mark := newMark(t)
	driver := exec.Command(os.Args[0], "-test.run", "^TestACommandDiesWithItsCaller$")
	driver.Env = append(os.Environ(), variable+"="+mark)
	if err := driver.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = driver.Process.Kill(); _ = driver.Wait() })
	eventually(t, "all of the gate runs", func() bool { return len(marked(t, mark)) == 4 })
	if err := driver.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all of the gate is gone", func() bool { return len(marked(t, mark)) == 0 })
}

// Whatever way a command ends, nothing that it has started is left, and how it ended is told.
func TestACommandLeavesNothing(t *testing.T) {
	for name, tc := range map[string]struct {
		end     string
		timeout time.Duration
		want    string
	}{
		"well":      {"exit 0", time.Minute, "<nil>"},
		"badly":     {"echo too many errors; exit 3", time.Minute, "gate ended with exit code 3: too many errors"},
		"killed":    {"kill -9 $$", time.Minute, "gate ended with exit code 137"},
		"too late":  {"sleep 304", time.Second, "gate did not run to its end: it took longer than 1s and was killed"},
		"cancelled": {"touch $DIR/runs; sleep 304", time.Minute, "context canceled"},
	} {
		t.Run(name, func(t *testing.T) {
			mark, dir := newMark(t), t.TempDir()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if name == "cancelled" {
				go func() {
					defer cancel()
					eventually(t, "it runs", func() bool { _, err := os.Stat(filepath.Join(dir, "runs")); return err == nil })
				}()
			}
			err := hook.Command{Name: "gate", Line: strings.ReplaceAll(scattered, "MARK", mark) + tc.end, Timeout: tc.timeout, Env: []string{"DIR=" + dir}}.Run(ctx)
			if got := errorText(err); got != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
			if left := marked(t, mark); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
		})
	}
}

// Who keeps a command is not what an operator means who kills its caller by name.
func TestAKeeperHasAnotherName(t *testing.T) {
	out := filepath.Join(t.TempDir(), "name")
	if err := (hook.Command{Name: "gate", Line: "cat /proc/$PPID/comm > " + out, Timeout: time.Minute}.Run(t.Context())); err != nil {
		t.Fatal(err)
	}
	name, err := os.ReadFile(out)
	if err != nil || strings.TrimSpace(string(name)) == process.Self.Name() {
		t.Errorf("%q, %v", name, err)
	}
}

// newMark is in the digits behind a number of seconds, and of one test alone.
func newMark(t *testing.T) (mark string) {
	t.Helper()
	mark = strconv.FormatUint(1<<40+rand.Uint64N(1<<40), 10)
	t.Cleanup(func() {
		for _, p := range must(process.All()) {
			if c := p.Command(); len(c) == 2 && strings.HasSuffix(c[1], "."+mark) {
				_ = syscall.Kill(p.PID(), syscall.SIGKILL)
			}
		}
	})
	return mark
}

func must[T any](is T, err error) T {
	if err != nil {
		panic(err)
	}
	return is
}

func errorText(err error) string {
	if err == nil {
		return "<nil>"
	}
	if failed, ok := errors.AsType[*hook.Failure](err); ok {
		return failed.Error()
	}
	return err.Error()
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Error("not in time: " + what)
			return
		}
	}
}
