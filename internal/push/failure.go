package push

import (
	"fmt"
	"slices"
	"strings"

	"ebs-release/internal/advice"
	"ebs-release/internal/exit"
	"ebs-release/internal/push/wire"
)

// ofAgent makes an error of what the agent answered to a request.
func ofAgent(f wire.Failure) error {
	said := advice.Parse(f.Error)
	switch {
	case f.Refused:
		return fmt.Errorf("%w: %s", ErrRefused, f.Error)
	case noSpace(f.Error):
		return fmt.Errorf("%w: %w", ErrNoSpace, said)
	case f.Code == exit.Unchanged:
		return fmt.Errorf("%w: %w", ErrNotReady, said)
	case f.Code == exit.Conflict:
		return fmt.Errorf("%w: %w", ErrFenced, said)
	default:
		return said
	}
}

// sshFailed is the exit code by which ssh itself says that it failed; others are the agent's, or
// the far shell's.
const sshFailed = 255

// whyEnded says why a connection that was good ended.
func whyEnded(code int, stderr string, err error) error {
	line := said(stderr)
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
func whyNot(code int, stderr, stdout string, o Options) error {
	line := said(stderr)
	if o.KeyFile != "" { // ssh knows it by the name that it has in the session's directory
		line = strings.NewReplacer(`"`+identityName+`"`, o.KeyFile, "'"+identityName+"'", o.KeyFile).Replace(line)
	}
	has := func(words string) bool { return strings.Contains(stderr, words) }
	switch {
	case code >= 0 && code != sshFailed: // the login went well
		if line == "" {
			line = fmt.Sprintf("exit code %d", code)
		}
		if out := said(stdout); out != "" { // where nologin says why
			line += ` (on stdout: "` + out + `")`
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
		return fmt.Errorf("%w: it closed the connection and said nothing", ErrUnreachable)
	default:
		return fmt.Errorf("%w: %s", ErrUnreachable, line)
	}
}

// withHeard adds what was heard until a wait for the agent's greeting ended, be it half a line.
func withHeard(err error, stdout, stderr string) error {
	out, errs := said(stdout), said(stderr)
	switch {
	case out == "" && errs == "":
		return fmt.Errorf("%w; nothing was heard from there", err)
	case out == "":
		return fmt.Errorf(`%w; heard on stderr: "%s"`, err, errs)
	case errs == "":
		return fmt.Errorf(`%w; heard on stdout: "%s"`, err, out)
	}
	return fmt.Errorf(`%w; heard on stdout: "%s", on stderr: "%s"`, err, out, errs)
}

func noSpace(said string) bool {
	return strings.Contains(strings.ToLower(said), "no space left on device")
}

// mostSaid bounds what is kept of a program's words, in bytes: a banner may be a page of law.
const mostSaid = 600

// said is what a program said, in one line, without the lines that only draw a frame. The reason is
// often not in its last line: of a key with a wrong mode, or of a host that is shut down, that one
// says "Permission denied" or "Connection closed". What is too long loses its beginning.
func said(text string) string {
	var lines []string
	size := 0
	for _, line := range slices.Backward(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' })) {
		line = strings.TrimSpace(strings.Trim(strings.TrimSpace(line), "@#*=-"))
		if line == "" {
			continue
		}
		if size += len(line) + len("; "); size > mostSaid && len(lines) > 0 {
			lines = append(lines, "…")
			break
		}
		lines = append(lines, line[:min(len(line), mostSaid)])
	}
	slices.Reverse(lines)
	return strings.Join(lines, "; ")
}
