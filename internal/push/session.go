package push

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Names in a session's private folder. ssh and rsync run there and get them as relative names: a socket's path has room for 104 bytes
// only, and no path needs quoting.
const (
	configName   = "config"       // for the master connection
	clientConfig = "config-share" // for commands over it: never a connection of their own
	knownHosts   = "known_hosts"
	identityName = "identity"
	socketName   = "control"
	hostAlias    = "member"
)

// closeGrace is how long the far side may take to hang up; it takes milliseconds unless a command still runs there.
const closeGrace = time.Second

// Session is an ssh connection to a member that commands share: one login each (sshd refuses bursts of them, MaxStartups).
type Session struct {
	target  Target
	options Options
	dir     string

	ctx    context.Context // ends when the connection does; its cause says why
	stdin  io.Closer       // of the master: open as long as this process lives and wants the connection
	done   chan struct{}   // closed when the master is gone
	finish context.CancelCauseFunc
	close  sync.Once
}

// Open connects to a member. ctx is for the life of the session: when it ends, every process of the session is killed.
func Open(ctx context.Context, target Target, options Options) (*Session, error) {
	options, err := options.complete()
	if err != nil {
		return nil, err
	}
	s := &Session{target: target, options: options, done: make(chan struct{})}
	if err := s.target.check(); err != nil {
		return nil, s.failed("connect", err)
	}
	if s.dir, err = os.MkdirTemp("", "ebs-release-push-"); err != nil {
		return nil, s.failed("connect", err)
	}
	if err := errors.Join(s.configure(), s.connect(ctx)); err != nil {
		_ = os.RemoveAll(s.dir)
		return nil, s.failed("connect", err)
	}
	return s, nil
}

// configure writes all that ssh needs to know. With a file of its own, it reads no other one: neither the operator's nor the system's.
func (s *Session) configure() error {
	var b strings.Builder
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(&b, format+"\n", args...) }
	line("Host %s", hostAlias)
	line("HostName %s", s.target.Address)
	line("Port %d", s.options.Port)
	line("User %s", s.options.User)
	line("HostKeyAlias %s", s.target.InstanceID) // an address that another instance gets proves nothing
	line("UserKnownHostsFile %s", knownHosts)
	line("GlobalKnownHostsFile /dev/null")
	line("StrictHostKeyChecking yes")
	line("UpdateHostKeys no")
	line("CheckHostIP no")
	line("BatchMode yes")
	line("PreferredAuthentications publickey")
	line("ConnectTimeout %d", max(1, int(s.options.ConnectTimeout/time.Second)))
	line("ServerAliveInterval 5")
	line("ServerAliveCountMax 3")
	// OpenSSH 9.2's own first choice (sntrup761) costs 0.12 s of CPU a login, this one 0.012 s.
	line("KexAlgorithms ^curve25519-sha256")
	line("Compression no")
	line("ClearAllForwardings yes")
	line("ForwardAgent no")
	line("RequestTTY no")
	line("EscapeChar none")
	line("ControlPath %s", socketName)
	line("LogLevel ERROR")
	if s.options.KeyFile != "" {
		line("IdentityFile %s", identityName)
		line("IdentitiesOnly yes")
		if err := os.Symlink(s.options.KeyFile, filepath.Join(s.dir, identityName)); err != nil {
			return err
		}
	}
	share := b.String() + "ControlMaster no\nProxyCommand false\n"
	line("ControlMaster yes")
	return errors.Join(
		s.write(configName, b.String()),
		s.write(clientConfig, share),
		s.write(knownHosts, s.target.InstanceID+" "+s.target.HostKey+"\n"),
	)
}

func (s *Session) write(name, text string) error {
	return os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600)
}

// connect starts the master. Its remote command is cat: the echo of a line says that login and shell work, and that commands can share
// the connection; the end of our stdin, also by SIGKILL, ends it on both sides.
func (s *Session) connect(ctx context.Context) error {
	s.ctx, s.finish = context.WithCancelCause(ctx)
	cmd, stderr := s.command(s.ctx, "ssh", "-F", configName, hostAlias, "exec", "cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.stdin = stdin
	ready := make(chan error, 1)
	go func() {
		// In this order: Wait closes stdout.
		ready <- echoed(stdin, stdout)
		err := cmd.Wait()
		s.finish(fmt.Errorf("%w: %s", ErrLost, said(stderr, err)))
		close(s.done)
	}()
	// ctx has to end this; ssh's own timeout covers the way to the login.
	if err := <-ready; err != nil {
		_ = stdin.Close()
		<-s.done
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return whyNot(stderr.String(), s.options)
	}
	return nil
}

// echoed sends a line and waits for it to come back; lines before it are some shell's talk. Once it is back, nothing more is expected:
// what comes is thrown away until the end.
func echoed(stdin io.Writer, stdout io.Reader) error {
	const word = "ebs-release"
	if _, err := io.WriteString(stdin, word+"\n"); err != nil {
		return err
	}
	lines := bufio.NewReader(io.LimitReader(stdout, 1<<20))
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return err
		}
		if strings.TrimSpace(line) == word {
			return nil
		}
	}
}

// Close ends the connection and removes the session's files.
func (s *Session) Close() error {
	var err error
	s.close.Do(func() {
		_ = s.stdin.Close()
		timer := time.NewTimer(closeGrace)
		defer timer.Stop()
		select {
		case <-s.done:
		case <-timer.C:
			s.finish(errors.New("session closed"))
			<-s.done
		}
		s.finish(nil)
		err = os.RemoveAll(s.dir)
	})
	return err
}

// command prepares a program of the session: in its folder, in a process group of its own, killed as a group when ctx ends.
func (s *Session) command(ctx context.Context, name string, args ...string) (*exec.Cmd, *tail) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = closeGrace
	stderr := &tail{}
	cmd.Stderr = stderr
	return cmd, stderr
}

// run runs a prepared program; it also ends when the connection is lost. An *exitError is the program's own verdict.
func (s *Session) run(ctx context.Context, prepare func(ctx context.Context) (*exec.Cmd, *tail)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(s.ctx, func() { cancel(context.Cause(s.ctx)) })
	defer stop()
	cmd, stderr := prepare(ctx)
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return err
	}
	return &exitError{code: exit.ExitCode(), said: stderr.String()}
}

// tail keeps the end of what a program says on stderr.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (t *tail) Write(p []byte) (int, error) {
	const most = 8 << 10
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if over := len(t.text) - most; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}
