package hook_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/freeze"
	"ebs-release/internal/hook"
	"ebs-release/internal/test/scratch"
)

// directory is a directory with programs, by name; a name that ends in ! is not executable.
func directory(t *testing.T, programs map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range programs {
		mode := os.FileMode(0o755)
		if plain, ok := strings.CutSuffix(name, "!"); ok {
			name, mode = plain, 0o644
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestProgramsRunInTheOrderOfTheirNames(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	say := `echo "$(basename "$0") $EBS_RELEASE_GENERATION" >> ` + log
	dir := directory(t, map[string]string{
		"20-b.sh": say, "10-a": say, "9": say, "README!": say, "10-a~": say, "10-a.dpkg-old": say, ".hidden": say, "x.rpmsave": say, "with blank": say,
	})
	if err := os.Mkdir(filepath.Join(dir, "directory"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := (hook.Dir{Path: dir, Timeout: 10 * time.Second, Env: []string{"EBS_RELEASE_GENERATION=7"}}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(log)
	if err != nil || string(data) != "10-a 7\n20-b.sh 7\n9 7\n" {
		t.Errorf("%v, %q", err, data)
	}
}

func TestNoFolderIsNoProgram(t *testing.T) {
	if err := (hook.Dir{Path: filepath.Join(t.TempDir(), "none"), Timeout: time.Second}).Run(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestFailureNamesProgramCodeAndLastLine(t *testing.T) {
	after := filepath.Join(t.TempDir(), "after")
	dir := directory(t, map[string]string{"10-reload": "echo first; echo no such service >&2; echo; exit 3", "20-after": "touch " + after})
	err := (hook.Dir{Path: dir, Timeout: 10 * time.Second}).Run(t.Context())
	f, ok := errors.AsType[*hook.Failure](err)
	if !ok || *f != (hook.Failure{Name: "10-reload", Code: 3, Line: "no such service"}) {
		t.Fatalf("%v", err)
	}
	if _, err := os.Stat(after); err == nil {
		t.Error("the next one was run")
	}
}

func TestProgramThatHangsIsKilled(t *testing.T) {
	dir := directory(t, map[string]string{"10-hang": "echo waiting; sleep 60"})
	start := time.Now()
	err := (hook.Dir{Path: dir, Timeout: 3 * time.Second}).Run(t.Context())
	f, ok := errors.AsType[*hook.Failure](err)
	if !ok || f.Code != -1 || !strings.Contains(f.Line, "longer than 3s") || !strings.Contains(f.Line, "waiting") || time.Since(start) > 50*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
}

// Row 80: a program that waits for a disk which does not answer cannot be killed.
func TestProgramThatTheKernelHoldsHoldsNobody(t *testing.T) {
	frozen := t.TempDir()
	scratch.Mount(t, scratch.Disk(t, 32<<20, "mkfs.ext4", "-q", "-F"), frozen, "ext4", 0, "")
	if err := freeze.Freeze(frozen); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := freeze.Thaw(frozen); err != nil {
			t.Error(err)
		}
	})
	begun := t.TempDir() + "/begun"
	dir := directory(t, map[string]string{"10-write": "touch " + begun + "; exec touch " + frozen + "/file"})
	for name, ended := range map[string]func(context.Context) error{
		"the time is over": (hook.Dir{Path: dir, Timeout: 5 * time.Second}).Run,
		"a signal": func(ctx context.Context) error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			go func() {
				for ctx.Err() == nil {
					if _, err := os.Stat(begun); err == nil {
						time.AfterFunc(2*time.Second, cancel) // it has to come to its write
						return
					}
					time.Sleep(10 * time.Millisecond)
				}
			}()
			return hook.Dir{Path: dir, Timeout: time.Minute}.Run(ctx)
		},
	} {
		_ = os.Remove(begun)
		start := time.Now()
		err := ended(t.Context())
		if err == nil || !strings.Contains(err.Error(), "10-write") || !strings.Contains(err.Error(), "cannot be ") || time.Since(start) > 50*time.Second {
			t.Errorf("%s: %v after %v", name, err, time.Since(start))
		}
	}
}

func TestProgramMayLeaveADaemonBehind(t *testing.T) {
	dir := directory(t, map[string]string{"10-start": "sleep 5 & exit 0"})
	if err := (hook.Dir{Path: dir, Timeout: 10 * time.Second}).Run(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestProgramThatOthersMayWriteIsNotRun(t *testing.T) {
	for name, spoil := range map[string]func(dir, file string) error{
		"writable":           func(_, file string) error { return os.Chmod(file, 0o757) },
		"directory writable": func(dir, _ string) error { return os.Chmod(dir, 0o777) },
		"stranger's":         func(_, file string) error { return os.Chown(file, 12345, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			ran := filepath.Join(t.TempDir(), "ran")
			dir := directory(t, map[string]string{"10-a": "touch " + ran})
			if err := spoil(dir, filepath.Join(dir, "10-a")); err != nil {
				t.Fatal(err)
			}
			err := (hook.Dir{Path: dir, Timeout: time.Second}).Run(t.Context())
			if f, ok := errors.AsType[*hook.Failure](err); !ok || f.Code != -1 || !strings.Contains(f.Line, "not run") {
				t.Errorf("%v", err)
			}
			if _, err := os.Stat(ran); err == nil {
				t.Error("it was run")
			}
		})
	}
}

// In place of root a user runs what is his own, or root's, and nobody else's.
func TestRootRunsProgramsAsAnotherUser(t *testing.T) {
	const uid = 61234
	for _, owner := range []int{0, uid, uid + 1} {
		dir := directory(t, map[string]string{"10-a": `test "$(id -u) $(id -g) $(id -G) $HOME" = "61234 61234 61234 7 /nowhere"`})
		for at := dir; at != "/tmp" && at != "/"; at = filepath.Dir(at) { // that user has to get there
			if err := os.Chmod(at, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chown(filepath.Join(dir, "10-a"), owner, 0); err != nil {
			t.Fatal(err)
		}
		as := &hook.User{UID: uid, GID: uid, Groups: []int{7}, Env: []string{"HOME=/nowhere"}}
		err := (hook.Dir{Path: dir, Timeout: 10 * time.Second, As: as}).Run(t.Context())
		if (err == nil) != (owner != uid+1) {
			t.Errorf("a program of user %d: %v", owner, err)
		}
	}
}

func TestProgramsReadTheirInput(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	dir := directory(t, map[string]string{"10-a": "cat >> " + out, "20-deaf": "exec <&-", "30-b": "cat >> " + out})
	d := hook.Dir{Path: dir, Timeout: 10 * time.Second, Input: []byte(strings.Repeat("x", 1<<20))}
	if err := d.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(out); err != nil || info.Size() != 2<<20 {
		t.Errorf("they read %v, %v", info, err)
	}
}

func TestInspect(t *testing.T) {
	one := directory(t, map[string]string{"10-a": "", "20-b": "", "README!": "", "30-c.disabled!": ""})
	two := directory(t, map[string]string{"10-a": ""})
	says, plain, err := hook.Inspect([]string{filepath.Join(one, "none"), one, two}, 0)
	if want := filepath.Base(one) + ": 10-a, 20-b; " + filepath.Base(two) + ": 10-a"; says != want || err != nil {
		t.Errorf("%q, %v", says, err)
	}
	if wrong, _ := hook.NotExecutable(plain); len(plain) != 1 || !strings.Contains(wrong, one+"/README: not executable") {
		t.Errorf("%v", plain)
	}
	if says, _, err := hook.Inspect(nil, 0); says != "none" || err != nil {
		t.Errorf("%q, %v", says, err)
	}
	if err := os.Chown(filepath.Join(two, "10-a"), 61234, 0); err != nil {
		t.Fatal(err)
	}
	for user, sound := range map[int]bool{0: false, 61234: true, 61235: false, hook.AnyUser: true} {
		if _, _, err := hook.Inspect([]string{two}, user); (err == nil) != sound {
			t.Errorf("user %d: %v", user, err)
		}
	}
	if err := os.Chmod(filepath.Join(two, "10-a"), 0o757); err != nil {
		t.Fatal(err)
	}
	if _, _, err := hook.Inspect([]string{two}, hook.AnyUser); err == nil || !strings.Contains(err.Error(), "writable by everybody") {
		t.Error(err)
	}
}
