package push

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"

	"ebs-release/internal/exit"
	"ebs-release/internal/release"
)

// exitError is what a program that ran to its end said.
type exitError struct {
	code int
	said string // on stderr
}

func (e *exitError) Error() string { return fmt.Sprintf("%s (exit code %d)", lastLine(e.said), e.code) }

// agent runs a verb of the agent on the member. out, if any, gets the JSON line of its answer.
func (s *Session) agent(ctx context.Context, stdin []byte, out *[]byte, words ...string) error {
	// The words are fixed or checked ones: the far shell takes them as they are.
	stdout, err := s.remote(ctx, stdin, strings.Join(append([]string{s.options.AgentPath}, words...), " "))
	if spoken, ok := errors.AsType[*exitError](err); ok {
		return spoken.ofAgent(words[0])
	}
	if err != nil || out == nil {
		return err
	}
	// A shell's start-up files may have talked before.
	for line := range bytes.Lines(stdout) {
		if line = bytes.TrimSpace(line); bytes.HasPrefix(line, []byte("{")) {
			*out = line
		}
	}
	if *out == nil {
		return fmt.Errorf("its agent gives no answer to %q", words[0])
	}
	return nil
}

func (e *exitError) ofAgent(verb string) error {
	line := lastLine(e.said)
	switch {
	case e.code == 255:
		return fmt.Errorf("%w: %s", ErrLost, line)
	case e.code == 126, e.code == 127:
		return fmt.Errorf("%w: %s", ErrNoAgent, line)
	case noSpace(e.said):
		return fmt.Errorf("%w: %s", ErrNoSpace, line)
	case e.code == exit.Unchanged:
		return fmt.Errorf("%w: %s", ErrNotReady, line)
	case e.code == exit.Conflict && verb == "activate":
		return fmt.Errorf("%w: %s", ErrFenced, line)
	default:
		return e
	}
}

// rsync sends the files of a parcel into the partial tree. What to send was decided by digests: no times, no sizes (-I), whole files (-W).
// Directories and symlinks are there already.
func (s *Session) rsync(ctx context.Context, tree release.Tree, p *parcel, partial string) (Sent, error) {
	if p.files == 0 {
		return Sent{}, nil
	}
	// It becomes part of a command of the remote shell.
	if !plainPath.MatchString(partial) || !strings.HasPrefix(partial, "/") || !strings.HasSuffix(partial, "/releases/"+p.id+".partial") ||
		strings.Contains(partial, "..") {
		return Sent{}, fmt.Errorf("its agent names %q to send to, which can't be right", partial)
	}
	var stdout bytes.Buffer
	err := s.run(ctx, func(ctx context.Context) (*exec.Cmd, *tail) {
		cmd, stderr := s.command(ctx, "rsync", "--links", "--perms", "--times", "--whole-file", "--ignore-times", "--no-implied-dirs",
			"--files-from=-", "--from0", "--timeout=60", "--stats", "--no-human-readable", "--rsh=ssh -F "+clientConfig,
			"--", tree.Path(p.id)+"/", hostAlias+":"+partial+"/")
		cmd.Stdin = bytes.NewReader(p.names)
		cmd.Stdout = &stdout
		return cmd, stderr
	})
	sent := parseStats(stdout.String())
	if spoken, ok := errors.AsType[*exitError](err); ok {
		return sent, spoken.ofRsync()
	}
	if err == nil && sent.Files != p.files {
		err = fmt.Errorf("rsync sent %d of %d files", sent.Files, p.files)
	}
	return sent, err
}

func (e *exitError) ofRsync() error {
	line := firstLine(e.said)
	switch {
	case noSpace(e.said):
		return fmt.Errorf("%w: %s", ErrNoSpace, line)
	case e.code == 255 || strings.Contains(e.said, "connection unexpectedly closed (0 bytes") && strings.Contains(e.said, "mux_client"):
		return fmt.Errorf("%w: %s", ErrLost, line)
	case e.code == 127 || strings.Contains(e.said, "rsync: command not found") || strings.Contains(e.said, "rsync: not found"):
		return fmt.Errorf("%w: %s", ErrNoRsync, line)
	default:
		return fmt.Errorf("rsync: %s (exit code %d)", line, e.code)
	}
}

var (
	statFiles = regexp.MustCompile(`(?m)^Number of (?:regular )?files transferred: ([0-9,]+)`)
	statBytes = regexp.MustCompile(`(?m)^Total bytes sent: ([0-9,]+)`)
)

// parseStats reads rsync --stats; versions before 3.1 don't say "regular".
func parseStats(out string) Sent {
	return Sent{Files: int(number(statFiles, out)), Bytes: number(statBytes, out)}
}

func number(in *regexp.Regexp, out string) int64 {
	found := in.FindStringSubmatch(out)
	if found == nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.ReplaceAll(found[1], ",", ""), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// whyNot makes one clear error of what ssh said about a connection that did not come about.
func whyNot(stderr string, o Options) error {
	line := lastLine(stderr)
	has := func(words string) bool { return strings.Contains(stderr, words) }
	switch {
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

func said(stderr *tail, err error) string {
	if line := lastLine(stderr.String()); line != "" {
		return line
	}
	if err != nil {
		return err.Error()
	}
	return "closed by the other side"
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

func firstLine(text string) string {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			return line
		}
	}
	return ""
}
