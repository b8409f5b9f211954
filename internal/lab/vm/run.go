package vm

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"

	"ebs-release/internal/lab/child"
	"ebs-release/internal/output"
)

// Output is what a command said.
type Output struct {
	Stdout, Stderr string
	Code           int // exit code; 255 also when ssh failed, -1 when the command did not exit by itself
}

// Command is a program to run in a machine.
type Command struct {
	Argv  []string
	Env   []string  // NAME=value, besides the machine's
	Stdin io.Reader // nil: empty
	// Stdout and Stderr get what the command says while it says it, besides Output.
	Stdout, Stderr io.Writer
}

// Run runs a command in the machine as root over ssh, with the machine's environment, and waits for
// its end. It waits for a machine that is still booting. A command that fails gives an error that
// holds its stderr, and its Output. The end of ctx ends the wait; the command may go on.
func (m *Machine) Run(ctx context.Context, argv ...string) (Output, error) {
	return m.RunWith(ctx, Command{Argv: argv})
}

// RunWith is Run with all that can be said about a command.
func (m *Machine) RunWith(ctx context.Context, c Command) (Output, error) {
	out, err := m.runWith(ctx, c)
	if err != nil {
		err = fmt.Errorf("%s: %s: %w", m.ID, strings.Join(c.Argv, " "), err)
	}
	return out, err
}

func (m *Machine) runWith(ctx context.Context, c Command) (Output, error) {
	b, err := m.logIn(ctx)
	if err != nil {
		return Output{Code: -1}, err
	}
	words := []string{"env"}
	for _, word := range append(append(append([]string{}, m.spec.Environment...), c.Env...), c.Argv...) {
		words = append(words, quote(word))
	}
	cmd := m.ssh(ctx, "-o", "ControlMaster=no", strings.Join(words, " "))
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, tee(&stdout, c.Stdout), tee(&stderr, c.Stderr)
	p, err := child.Start(cmd, m.spec.Switch.Namespace)
	if err != nil {
		return Output{Code: -1}, err
	}
	select {
	case <-p.Done:
	case <-b.process.Done: // nobody would tell ssh
		p.Kill()
	}
	out := Output{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
	if err := p.Err; err != nil {
		switch {
		case ctx.Err() != nil:
			err = fmt.Errorf("%w (%v)", context.Cause(ctx), err)
		case !b.process.Running():
			err = fmt.Errorf("%w (%v)", errNoPower, err)
		}
		return out, fmt.Errorf("%w: %s", err, strings.TrimSpace(out.Stderr))
	}
	return out, nil
}

// ssh is a command that runs in the machine's directory, where the socket of the shared connection
// lies: a relative path, since a socket's has 107 bytes. A machine of the lab is who it says it is:
// its host key is nobody's business here.
func (m *Machine) ssh(ctx context.Context, arguments ...string) *exec.Cmd {
	words := []string{"-F", "none", "-i", m.spec.KeyFile, "-S", "ssh", "-q",
		"-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
		"-o", "ConnectTimeout=20", "-o", "KexAlgorithms=curve25519-sha256", // the default costs an emulated machine ten times as much
		"root@" + m.Address.String()}
	cmd := exec.CommandContext(ctx, "ssh", append(words, arguments...)...)
	cmd.Dir = m.dir
	cmd.WaitDelay = 2 * time.Second
	return cmd
}

// login is an open connection to a machine, which each Run shares: a login takes an emulated
// machine half a second.
type login struct {
	boot    *boot
	process *child.Process
	stdin   io.Closer
}

func (l *login) close() {
	l.stdin.Close()
	l.process.Kill()
}

// logIn sees to it that there is a connection to the boot that is going on, and returns that boot.
// It tries until ctx ends, since sshd starts late in a boot.
func (m *Machine) logIn(ctx context.Context) (*boot, error) {
	select {
	case <-m.logins:
		defer func() { m.logins <- struct{}{} }()
	case <-ctx.Done():
		return nil, fmt.Errorf("log in: %w", context.Cause(ctx))
	}
	for {
		m.mu.Lock()
		b, l := m.boot, m.login
		m.mu.Unlock()
		if b == nil || !b.process.Running() {
			return nil, errNoPower
		}
		if l != nil && l.boot == b && l.process.Running() {
			return b, nil
		}
		if err := m.logInOnce(ctx, b); err == nil {
			continue // look again: the power may have gone meanwhile
		} else if ctx.Err() != nil {
			return nil, fmt.Errorf("log in: %w (%w)", context.Cause(ctx), err)
		}
		select {
		case <-ctx.Done():
		case <-b.process.Done:
		case <-time.After(200 * time.Millisecond): // nothing tells that sshd listens now
		}
	}
}

// loginTimeout ends an attempt to log in that leads nowhere, for instance since the machine went
// off right after it had answered.
const loginTimeout = 40 * time.Second

func (m *Machine) logInOnce(ctx context.Context, b *boot) error {
	ctx, cancel := context.WithTimeoutCause(ctx, loginTimeout, fmt.Errorf("no login within %s", loginTimeout))
	defer cancel()
	os.Remove(m.dir + "/ssh") // what a killed connection left
	cmd := m.ssh(context.WithoutCancel(ctx), "-o", "ControlMaster=yes", "-o", "ServerAliveInterval=15", "echo here; exec cat")
	var talk output.Ends
	cmd.Stderr = &talk
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	p, err := child.Start(cmd, m.spec.Switch.Namespace)
	if err != nil {
		return err
	}
	l := &login{boot: b, process: p, stdin: stdin}
	here := make(chan error, 1)
	go func() { // ends with the connection
		line, err := bufio.NewReader(stdout).ReadString('\n')
		if err == nil && line != "here\n" {
			err = fmt.Errorf("unexpected greeting %q", line)
		}
		here <- err
	}()
	select {
	case err = <-here:
	case <-b.process.Done:
		err = errNoPower
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		l.close()
		return fmt.Errorf("ssh: %w: %s", err, talk.String())
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.boot != b {
		l.close()
		return errNoPower
	}
	if m.login != nil {
		m.login.close()
	}
	m.login = l
	return nil
}

// WriteFile writes a file in the running machine, and syncs it.
func (m *Machine) WriteFile(ctx context.Context, path string, data []byte, mode fs.FileMode) error {
	return m.write(ctx, path, bytes.NewReader(data), mode)
}

func (m *Machine) write(ctx context.Context, path string, data io.Reader, mode fs.FileMode) error {
	_, err := m.RunWith(ctx, Command{
		Argv: []string{"sh", "-ec", `mkdir -p "$(dirname "$1")"; cat >"$1"; chmod "$2" "$1"; sync "$1"`,
			"sh", path, fmt.Sprintf("%04o", mode.Perm())},
		Stdin: data,
	})
	return err
}

// ReadFile reads a file of the running machine.
func (m *Machine) ReadFile(ctx context.Context, path string) (string, error) {
	out, err := m.Run(ctx, "cat", "--", path)
	return out.Stdout, err
}

// CopyIn copies a file of this machine into the running one.
func (m *Machine) CopyIn(ctx context.Context, source, path string) error {
	f, err := os.Open(source)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return m.write(ctx, path, f, info.Mode())
}

// quote makes one word of a POSIX shell.
func quote(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }

func tee(buf *bytes.Buffer, w io.Writer) io.Writer {
	if w == nil {
		return buf
	}
	return io.MultiWriter(buf, w)
}
