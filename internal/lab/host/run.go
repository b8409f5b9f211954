package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Output is what a command said.
type Output struct {
	Stdout, Stderr string
	Code           int // exit code; -1 when it did not exit by itself
}

// Run runs a command in the host as root, with the host's environment, and waits for its end. A
// command that fails gives an error that holds its stderr, and its Output. The end of ctx kills it.
func (h *Host) Run(ctx context.Context, argv ...string) (Output, error) {
	return h.RunWith(ctx, Command{Argv: argv})
}

// Command is a program to run in a host.
type Command struct {
	Argv  []string
	Env   []string  // besides the host's
	Stdin io.Reader // nil: empty
	// Stdout and Stderr get what the command says while it says it, besides Output. When they are
	// the same writer the command has one stream for both, so that the order is kept, and Output
	// holds it twice.
	Stdout, Stderr io.Writer
}

// RunWith is Run with all that can be said about a command.
func (h *Host) RunWith(ctx context.Context, c Command) (Output, error) {
	cmd, err := h.command(ctx, c)
	if err != nil {
		return Output{Code: -1}, err
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = tee(&stdout, c.Stdout), tee(&stderr, c.Stderr)
	oneStream := c.Stdout != nil && c.Stdout == c.Stderr
	if oneStream {
		cmd.Stderr = cmd.Stdout // os/exec makes one pipe when they are equal
	}
	if err = h.network.start(cmd, h.network.namespace); err == nil {
		err = cmd.Wait()
	}
	out := Output{Stdout: stdout.String(), Stderr: stderr.String(), Code: -1}
	if oneStream {
		out.Stderr = out.Stdout
	}
	if cmd.ProcessState != nil {
		out.Code = cmd.ProcessState.ExitCode()
	}
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w (%v)", context.Cause(ctx), err)
		}
		talk := strings.TrimSpace(out.Stderr)
		if c.Stderr != nil { // someone has seen the rest
			talk = talk[strings.LastIndexByte(talk, '\n')+1:]
		}
		err = fmt.Errorf("%s: %s: %w: %s", h.ID, strings.Join(c.Argv, " "), err, talk)
	}
	return out, err
}

// command enters the namespaces of the host with nsenter(1).
func (h *Host) command(ctx context.Context, c Command) (*exec.Cmd, error) {
	if !h.On() {
		return nil, fmt.Errorf("%s: %s: %w", h.ID, strings.Join(c.Argv, " "), errOff)
	}
	argv := append([]string{"--target", strconv.Itoa(h.PID()), "--mount", "--uts", "--ipc", "--net", "--pid", "--"}, c.Argv...)
	cmd := exec.CommandContext(ctx, "nsenter", argv...)
	cmd.Env = append(append([]string{}, h.spec.Env...), c.Env...)
	cmd.Dir = "/"
	cmd.Stdin = c.Stdin
	// nsenter forks into the PID namespace: kill both, and do not wait for ever for a grandchild
	// that keeps the pipes open.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		if err := unix.Kill(-cmd.Process.Pid, unix.SIGKILL); !errors.Is(err, unix.ESRCH) {
			return err
		}
		return os.ErrProcessDone
	}
	cmd.WaitDelay = 2 * time.Second
	return cmd, nil
}

// EnterCommand is what a person types to get a shell in the running host.
func (h *Host) EnterCommand() string {
	return fmt.Sprintf("nsenter --target %d --mount --uts --ipc --net --pid -- env -i %s TERM=$TERM bash",
		h.PID(), strings.Join(h.spec.Env, " "))
}

// WriteFile writes a file in the running host.
func (h *Host) WriteFile(ctx context.Context, path string, data []byte, mode os.FileMode) error {
	_, err := h.RunWith(ctx, Command{
		Argv:  []string{"sh", "-c", `mkdir -p "$(dirname "$1")" && cat > "$1" && chmod "$2" "$1"`, "sh", path, fmt.Sprintf("%04o", mode.Perm())},
		Stdin: bytes.NewReader(data),
	})
	return err
}

// ReadFile reads a file of the running host.
func (h *Host) ReadFile(ctx context.Context, path string) (string, error) {
	out, err := h.Run(ctx, "cat", "--", path)
	return out.Stdout, err
}

func tee(buf *bytes.Buffer, w io.Writer) io.Writer {
	if w == nil {
		return buf
	}
	return io.MultiWriter(buf, w)
}
