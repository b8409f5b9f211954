package push

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
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

	"ebs-release/internal/output"
	"ebs-release/internal/push/wire"
)

// Names in a session's private directory. ssh runs there and gets them as relative names: no path
// needs quoting.
const (
	configName   = "config"
	knownHosts   = "known_hosts"
	identityName = "identity"
	hostAlias    = "member"
)

// closeGrace is how long the far side may take to hang up; it takes milliseconds unless it still
// works on something.
const closeGrace = time.Second

// Session is a conversation with a member's agent: one ssh process here, one login and one agent
// there.
type Session struct {
	target  Target
	options Options
	dir     string

	ctx     context.Context // ends when the connection does; its cause says why
	stdin   io.WriteCloser
	answers chan []byte   // lines; closed at the end
	done    chan struct{} // closed when ssh is gone
	finish  context.CancelCauseFunc
	close   sync.Once
}

// Open connects to a member, and waits until its agent listens. ctx is for the life of the session:
// when it ends, ssh is killed.
func Open(ctx context.Context, target Target, options Options) (*Session, error) {
	options, err := options.complete()
	if err != nil {
		return nil, err
	}
	s := &Session{target: target, options: options, answers: make(chan []byte), done: make(chan struct{})}
	if err := s.target.check(); err != nil {
		return nil, s.failed("connect", err)
	}
	if s.dir, err = os.MkdirTemp("", "ebs-release-push-"); err != nil {
		return nil, s.failed("connect", err)
	}
	err = s.configure()
	if err == nil {
		err = s.connect(ctx)
	}
	if err != nil {
		_ = os.RemoveAll(s.dir)
		return nil, s.failed("connect", err)
	}
	return s, nil
}

// configure writes all that ssh needs to know. With a file of its own, it reads no other one:
// neither the operator's nor the system's.
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
	// OpenSSH 9.2's own first choices cost more: sntrup761 0.07 s of CPU a login, this one 0.012 s;
	// chacha20 1 s for a GiB, AES with the CPU's help less.
	line("KexAlgorithms ^curve25519-sha256")
	line("Ciphers ^aes128-gcm@openssh.com")
	line("Compression no")
	line("ControlMaster no")
	line("ControlPath none")
	line("ClearAllForwardings yes")
	line("ForwardAgent no")
	line("RequestTTY no")
	line("EscapeChar none")
	line("LogLevel INFO") // from ERROR on, ssh keeps the server's message about a refused login (nologin) to itself
	if s.options.KeyFile != "" {
		line("IdentityFile %s", identityName)
		line("IdentitiesOnly yes")
		if err := os.Symlink(s.options.KeyFile, filepath.Join(s.dir, identityName)); err != nil {
			return err
		}
	}
	if err := s.write(configName, b.String()); err != nil {
		return err
	}
	return s.write(knownHosts, s.target.InstanceID+" "+s.target.HostKey+"\n")
}

func (s *Session) write(name, text string) error {
	return os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600)
}

// connect starts ssh, and the agent at its other end. The end of our stdin, also by SIGKILL, ends
// both.
func (s *Session) connect(ctx context.Context) error {
	s.ctx, s.finish = context.WithCancelCause(ctx)
	// The words are fixed or checked ones: the far shell takes them as they are.
	cmd := exec.CommandContext(s.ctx, "ssh", "-F", configName, hostAlias, "exec", s.options.AgentPath, "receive")
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = closeGrace
	stderr := &output.Ends{}
	cmd.Stderr = stderr
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
	heard := &output.Ends{}
	go func() {
		s.listen(io.TeeReader(stdout, heard))
		err := cmd.Wait() // it closes stdout: not before all is read
		s.finish(whyEnded(cmd.ProcessState.ExitCode(), stderr.String(), err))
		close(s.done)
	}()
	err = s.hello()
	if err == nil {
		return nil
	}
	s.hangUp(err)
	switch {
	case ctx.Err() != nil && heard.String() == "":
		return context.Cause(ctx)
	case ctx.Err() != nil:
		return withHeard(context.Cause(ctx), heard.String(), stderr.String())
	case errors.Is(err, io.EOF):
		return whyNot(cmd.ProcessState.ExitCode(), stderr.String(), heard.String(), s.options)
	case errors.Is(err, errNoGreeting):
		if heard.String() == "" { // it may not even be logged in
			err = fmt.Errorf("%w: %w", ErrUnreachable, err)
		} else {
			err = fmt.Errorf("%w: %w", ErrNoAgent, err)
		}
		return withHeard(err, heard.String(), stderr.String())
	}
	return err
}

// errNoGreeting: ssh still runs, and the agent has not said that it listens.
var errNoGreeting = errors.New("no greeting of the agent")

// hangUp ends ssh, which gets a moment to do so by itself.
func (s *Session) hangUp(cause error) {
	_ = s.stdin.Close()
	timer := time.NewTimer(closeGrace)
	defer timer.Stop()
	select {
	case <-s.done:
	case <-timer.C:
		s.finish(cause)
		<-s.done
	}
	s.finish(nil)
}

// listen passes on what the agent says, until the end.
func (s *Session) listen(stdout io.Reader) {
	defer close(s.answers)
	lines := bufio.NewReader(stdout)
	for {
		line, err := wire.Read(lines)
		if err != nil {
			return
		}
		select {
		case s.answers <- line:
		case <-s.ctx.Done():
			return
		}
	}
}

// hello waits for the agent's first line. What comes before it is some shell's talk, which need not
// end with a newline.
func (s *Session) hello() error {
	timer := time.NewTimer(s.options.GreetingTimeout)
	defer timer.Stop()
	for talk := 0; talk < 1000; talk++ {
		var line []byte
		more := false
		select {
		case line, more = <-s.answers:
		case <-timer.C: // ssh's own timeout ends with the connection, before the login
			return fmt.Errorf("%w within %v", errNoGreeting, s.options.GreetingTimeout)
		}
		if !more {
			return io.EOF
		}
		var hello wire.Hello
		line = line[max(0, bytes.LastIndexByte(line, '{')):] // a greeting has no other brace
		if err := json.Unmarshal(line, &hello); err != nil || hello.State != wire.StateListening {
			continue
		}
		if hello.Schema != wire.Schema {
			return fmt.Errorf("%w: its version %s speaks protocol %d, this publisher %d", ErrNoAgent, hello.Agent, hello.Schema, wire.Schema)
		}
		return nil
	}
	return fmt.Errorf("%w: its shell talks without end", ErrNoAgent)
}

// ask sends a request, and waits for the answer. A session whose request did not get one is of no
// use any more.
func (s *Session) ask(ctx context.Context, q wire.Request, answer any) error {
	defer context.AfterFunc(ctx, func() { s.finish(context.Cause(ctx)) })()
	if end, bounded := ctx.Deadline(); bounded {
		q.Within = (time.Until(end) * 9 / 10).Milliseconds()
	}
	sent := make(chan error, 1)
	go func() {
		err := wire.Write(s.stdin, q)
		if err != nil && !errors.Is(err, syscall.EPIPE) {
			s.finish(err) // the agent would wait for the rest
		}
		sent <- err
	}()
	line, more := <-s.answers
	notSent := <-sent // after an answer it ends soon: an agent that refuses reads on, or ends
	if !more {
		<-s.done
		return context.Cause(s.ctx)
	}
	var failure wire.Failure
	if err := json.Unmarshal(line, &failure); err == nil && failure.Error != "" {
		return ofAgent(failure)
	}
	if notSent != nil {
		return notSent
	}
	if err := json.Unmarshal(line, answer); err != nil {
		return fmt.Errorf("its agent's answer to %s cannot be read: %w", q.Do, err)
	}
	return nil
}

// Close ends the connection and removes the session's files.
func (s *Session) Close() error {
	var err error
	s.close.Do(func() {
		s.hangUp(errors.New("session closed"))
		err = os.RemoveAll(s.dir)
	})
	return err
}
