package push

import (
	"errors"
	"fmt"
	"strings"

	"ebs-release/internal/exit"
	"ebs-release/internal/push/wire"
)

// ofAgent makes an error of what the agent answered to a request.
func ofAgent(do string, f wire.Failure) error {
	switch {
	case noSpace(f.Error):
		return fmt.Errorf("%w: %s", ErrNoSpace, f.Error)
	case f.Code == exit.Unchanged:
		return fmt.Errorf("%w: %s", ErrNotReady, f.Error)
	case f.Code == exit.Conflict && do == wire.Activate:
		return fmt.Errorf("%w: %s", ErrFenced, f.Error)
	default:
		return errors.New(f.Error)
	}
}

// sshFailed is the exit code by which ssh itself says that it failed; others are the agent's, or the far shell's.
const sshFailed = 255

// whyEnded says why a connection that was good ended.
func whyEnded(code int, stderr string, err error) error {
	line := lastLine(stderr)
	switch {
	case line == "" && err != nil:
		line = err.Error()
	case line == "":
		line = "closed by the other side"
	}
	if code != sshFailed {
		line = "its agent ended: " + line
	}
	return fmt.Errorf("%w: %s", ErrLost, line)
}

// whyNot makes one clear error of what ssh said about a connection that did not come about.
func whyNot(code int, stderr string, o Options) error {
	line := lastLine(stderr)
	has := func(words string) bool { return strings.Contains(stderr, words) }
	switch {
	case code >= 0 && code != sshFailed: // the login went well
		if line == "" {
			line = fmt.Sprintf("exit code %d", code)
		}
		return fmt.Errorf("%w: %s", ErrNoAgent, line)
	case has("Host key verification failed"), has("host key is known"), has("no matching host key type"):
		return ErrHostKey
	case has("Permission denied"):
		key := "the keys that ssh has"
		if o.KeyFile != "" {
			key = "key " + o.KeyFile
		}
		return fmt.Errorf("%w: user %s with %s: %s", ErrLogin, o.User, key, line)
	case line == "":
		return fmt.Errorf("%w: it hung up without a word", ErrUnreachable)
	default:
		return fmt.Errorf("%w: %s", ErrUnreachable, line)
	}
}

func noSpace(said string) bool {
	return strings.Contains(strings.ToLower(said), "no space left on device")
}

func lastLine(text string) string {
	last := ""
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			last = line
		}
	}
	return last
}
