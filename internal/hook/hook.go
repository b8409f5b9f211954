// Package hook runs the programs in a directory such as /etc/ebs-release/activate.d, one after the
// other, in the order of their names.
package hook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"ebs-release/internal/output"
)

// Dir is a directory with programs. One that does not exist is an empty one.
//
// As run-parts(8), it runs executable files only, and skips what is hidden or looks like an
// editor's or a package manager's copy. Unlike that, it takes names with dots in them
// (50-reload.sh). A directory or program that everybody may write to, or that belongs to somebody
// else than root or the user who runs it, is a failure: skipped in silence it would be missed, run
// it would be a hole.
type Dir struct {
	Path    string
	Timeout time.Duration // for each program
	Env     []string      // besides Inherit, NAME=value
	Inherit []string      // nil: this process's environment
	Input   []byte        // for the standard input of each program
	As      *User         // who runs them; nil: the user of this process

	kept bool // all that a program has started ends with it, and with this process
}

// User runs programs in place of root.
type User struct {
	UID, GID int
	Groups   []int    // more groups
	Env      []string // HOME=…, USER=…
}

// Failure is a program that did not do its work. Those after it were not run.
type Failure struct {
	Name string `json:"name"` // of the file
	Code int    `json:"code"` // its exit code; -1: it was ended by a signal or the time-out, or not run at all
	Line string `json:"line"` // the last line that it said, or why it was not run
}

func (f *Failure) Error() string {
	s := fmt.Sprintf("%s ended with exit code %d", f.Name, f.Code)
	if f.Code < 0 {
		s = f.Name + " did not run to its end"
	}
	if f.Line != "" {
		s += ": " + f.Line
	}
	return s
}

var (
	name   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
	backup = regexp.MustCompile(`(\.dpkg-[a-z]+|\.rpm(new|save|orig)|\.bak|\.orig|\.swp|\.disabled)$`)
)

// Names lists the programs that Run would run, in its order.
func (d Dir) Names() ([]string, error) {
	names, _, err := d.list()
	return names, err
}

func (d Dir) list() (runs, plain []string, err error) {
	entries, err := os.ReadDir(d.Path) // sorted
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, &Failure{filepath.Base(d.Path), -1, err.Error()}
	}
	for _, e := range entries {
		if !name.MatchString(e.Name()) || backup.MatchString(e.Name()) {
			continue
		}
		info, err := os.Stat(filepath.Join(d.Path, e.Name()))
		switch {
		case err != nil:
			return nil, nil, &Failure{e.Name(), -1, err.Error()}
		case !info.Mode().IsRegular():
		case info.Mode()&0o111 != 0:
			runs = append(runs, e.Name())
		default:
			plain = append(plain, e.Name())
		}
	}
	return runs, plain, nil
}

func (d Dir) distrustAny(names []string, user int) error {
	if len(names) == 0 {
		return nil
	}
	for _, n := range slices.Concat([]string{"."}, names) {
		if why := distrust(filepath.Join(d.Path, n), user); why != "" {
			return &Failure{filepath.Base(filepath.Join(d.Path, n)), -1, why}
		}
	}
	return nil
}

// Run runs the programs until one fails. The error is a *Failure, or that of ctx.
func (d Dir) Run(ctx context.Context) error {
	names, err := d.Names()
	if err != nil || len(names) == 0 {
		return err
	}
	runs := os.Geteuid()
	if d.As != nil {
		runs = d.As.UID
	}
	if err := d.distrustAny(names, runs); err != nil {
		return err
	}
	for _, n := range names {
		if err := d.run(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// distrust says what is wrong with who may write a file; "" when nothing is.
func distrust(path string, user int) string {
	info, err := os.Stat(path)
	if err != nil {
		return err.Error()
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return "its owner is not known"
	case info.Mode()&0o002 != 0:
		return path + " is writable by everybody: not run"
	case st.Uid != 0 && int(st.Uid) != user && user != AnyUser:
		return fmt.Sprintf("%s belongs to user %d, neither root nor the one who runs it: not run", path, st.Uid)
	}
	return ""
}

// pipeTime is how long a program's children that keep its output open are waited for.
const pipeTime = time.Second

func (d Dir) run(ctx context.Context, name string) error {
	return d.execute(ctx, name, filepath.Join(d.Path, name))
}

// execute runs a program; name is for the error.
func (d Dir) execute(ctx context.Context, name, program string, args ...string) error {
	limited, cancel := context.WithTimeout(ctx, d.Timeout)
	defer cancel()
	cmd := exec.CommandContext(limited, program, args...)
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = pipeTime
	if d.kept {
		cmd = exec.CommandContext(limited, "/proc/self/exe", append([]string{keepVerb, program}, args...)...)
		wanted, hold, err := os.Pipe()
		if err != nil {
			return err
		}
		defer func() { _, _ = wanted.Close(), hold.Close() }()
		cmd.ExtraFiles = []*os.File{wanted} // keeperFile
		cmd.Cancel = hold.Close
		cmd.WaitDelay = keptTime + pipeTime
	}
	cmd.Dir = "/"
	cmd.Env = slices.Concat(d.Inherit, d.Env)
	if d.Inherit == nil {
		cmd.Env = append(os.Environ(), d.Env...)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if d.As != nil {
		cmd.Env = append(cmd.Env, d.As.Env...)
		cmd.SysProcAttr.Credential = d.As.credential()
	}
	cmd.Stdin = bytes.NewReader(d.Input)
	said := &output.Ends{}
	cmd.Stdout, cmd.Stderr = said, said
	err, over := runBounded(limited, cmd)
	switch {
	case !over && ctx.Err() != nil:
		return fmt.Errorf("%s cannot be ended: %w", name, ctx.Err())
	case !over:
		return &Failure{name, -1, fmt.Sprintf("it took longer than %v, and cannot be killed (process %d)", d.Timeout, cmd.Process.Pid)}
	case err == nil || errors.Is(err, exec.ErrWaitDelay): // it started something that stays, and ended well itself
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case limited.Err() != nil:
		return &Failure{name, -1, strings.TrimSpace(fmt.Sprintf("it took longer than %v and was killed %s", d.Timeout, lastLine(said)))}
	case cmd.ProcessState == nil:
		return &Failure{name, -1, err.Error()}
	case cmd.ProcessState.ExitCode() < 0:
		return &Failure{name, -1, strings.TrimSpace(fmt.Sprintf("%v %s", err, lastLine(said)))}
	}
	return &Failure{name, cmd.ProcessState.ExitCode(), lastLine(said)}
}

// killTime is how long a program that was killed may take to be gone, on a busy machine.
const killTime = 5 * time.Second

// runBounded runs a command, and waits no longer for its end than ctx allows: the kernel does not
// let one be killed that waits for a disk which does not answer. Not over: it is still there.
func runBounded(ctx context.Context, cmd *exec.Cmd) (err error, over bool) {
	if err := cmd.Start(); err != nil {
		return err, true
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // it ends with the command
	select {
	case err = <-ended:
		return err, true
	case <-ctx.Done():
	}
	clock := time.NewTimer(cmd.WaitDelay + killTime)
	defer clock.Stop()
	select {
	case err = <-ended:
		return err, true
	case <-clock.C:
		return nil, false
	}
}

func (u User) credential() *syscall.Credential {
	c := &syscall.Credential{Uid: uint32(u.UID), Gid: uint32(u.GID)}
	for _, g := range u.Groups {
		c.Groups = append(c.Groups, uint32(g))
	}
	return c
}

// lastLine is the last line that is not empty, of what was said.
func lastLine(said *output.Ends) string {
	text := said.String()
	return strings.TrimSpace(text[strings.LastIndexByte(text, '\n')+1:])
}
