package release

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// IsRemote tells an rsync source from a folder. It follows rsync's rule: host:path, host::module/path or rsync://…; a colon after a slash belongs to a file name.
func IsRemote(source string) bool {
	if strings.HasPrefix(source, "rsync://") {
		return true
	}
	before, _, found := strings.Cut(source, ":")
	return found && before != "" && !strings.Contains(before, "/")
}

// fetch gets a remote source into a scratch folder on the volume. What the current release has is linked there by checksum, not sent.
func (t Tree) fetch(ctx context.Context, root *os.Root, source string) error {
	if strings.HasPrefix(source, "-") {
		return errors.New("a source can't begin with a dash")
	}
	scratch := stateDir + "/" + incoming
	if err := removeTree(root, scratch); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := root.Mkdir(scratch, 0o700); err != nil {
		return err
	}
	// No --times: a link must not depend on them. No -I: --checksum decides.
	args := []string{"--recursive", "--links", "--perms", "--checksum", "--timeout=60"}
	// With --rsh, rsync would reach its own servers through ssh, too.
	if !strings.HasPrefix(source, "rsync://") && !strings.Contains(source, "::") {
		args = append(args, "--rsh=ssh -o BatchMode=yes -o ConnectTimeout=10")
	}
	current, err := t.current(root)
	if err != nil {
		return err
	}
	if current != "" {
		args = append(args, "--link-dest="+t.Path(current))
	}
	// A slash at the end: what is in the folder, not the folder. "host:" is a home folder, "host:/" would be all of it.
	if strings.HasSuffix(source, ":") {
		source += "."
	}
	args = append(args, "--", strings.TrimSuffix(source, "/")+"/", filepath.Join(t.Root, scratch)+"/")
	cmd := exec.CommandContext(ctx, "rsync", args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	// Its ssh goes with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		said, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n")
		return fmt.Errorf("rsync from there: %s (%w)", strings.TrimSpace(said), err)
	}
	return nil
}
