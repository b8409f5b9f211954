package push

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/output"
)

// ErrNoKeygen means that ssh-keygen is not installed, so that CheckKey cannot tell anything.
var ErrNoKeygen = errors.New("ssh-keygen is not installed, so the ssh key is not checked")

// keyTime is how long ssh-keygen may take to read a key. It takes milliseconds, unless the file is
// a fifo or on a server that hangs.
const keyTime = 10 * time.Second

// CheckKey loads a private key as ssh will, without asking anybody for a passphrase. The error has
// ssh's own words. A key that cannot be loaded is good all the same when ssh's agent holds it: ssh
// then needs the public half only.
func CheckKey(ctx context.Context, file string) error {
	ctx, cancel := context.WithTimeout(ctx, keyTime)
	defer cancel()
	words, err := keyProgram(ctx, io.Discard, "ssh-keygen", "-y", "-P", "", "-f", file)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, exec.ErrNotFound):
		return ErrNoKeygen
	case ctx.Err() != nil:
		return fmt.Errorf("ssh key %s cannot be read within %s: %w", file, keyTime, ctx.Err())
	case inAgent(ctx, file):
		return nil
	case words == "":
		words = err.Error()
	}
	return advice.Try(fmt.Errorf("ssh cannot load the private key %s: %s", file, words),
		"`ssh-keygen -y -P '' -f %s`; want a private key without a passphrase, mode 0600 and as ssh-keygen wrote it", file)
}

// inAgent says whether ssh's agent holds the key. Only its fingerprint is needed, which a public
// half has, too.
func inAgent(ctx context.Context, file string) bool {
	if os.Getenv("SSH_AUTH_SOCK") == "" {
		return false
	}
	var own output.Ends
	_, err := keyProgram(ctx, &own, "ssh-keygen", "-l", "-f", file)
	fields := strings.Fields(own.String()) // "256 SHA256:… comment (ED25519)"
	if err != nil || len(fields) < 2 {
		return false
	}
	held := false
	keys := &output.Lines{Each: func(line string) { held = held || strings.Contains(line, " "+fields[1]+" ") }}
	_, err = keyProgram(ctx, keys, "ssh-add", "-l")
	return err == nil && held
}

// keyProgram runs one of ssh's programs, which has no terminal to ask at. words is its stderr in
// one line.
func keyProgram(ctx context.Context, stdout io.Writer, name string, args ...string) (words string, err error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "SSH_ASKPASS_REQUIRE=never")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // ssh's programs ask at /dev/tty, whatever stdin is
	cmd.WaitDelay = time.Second
	var stderr output.Ends
	cmd.Stdout, cmd.Stderr = stdout, &stderr
	err = cmd.Run()
	return said(stderr.String()), err
}
