package release

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"ebs-release/internal/manifest"
	"ebs-release/internal/output"

	"golang.org/x/sys/unix"
)

// IsRemote tells an rsync source from a directory. It follows rsync's rule: host:path,
// host::module/path or rsync://…; a colon after a slash belongs to a file name.
func IsRemote(source string) bool {
	if strings.HasPrefix(source, "rsync://") {
		return true
	}
	before, _, found := strings.Cut(source, ":")
	return found && before != "" && !strings.Contains(before, "/")
}

// fetch gets a remote source into a scratch directory on the volume, and returns that directory.
// What the current release has is linked there by checksum, not sent.
func (v *Volume) fetch(ctx context.Context, source string) (*os.File, error) {
	if strings.HasPrefix(source, "-") {
		return nil, errors.New("a source cannot begin with a dash")
	}
	who, err := v.owner()
	if err != nil {
		return nil, err
	}
	dir, err := v.scratch(who)
	if err != nil {
		return nil, err
	}
	if err := v.rsync(ctx, source, dir, who); err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return dir, nil
}

// scratch makes an empty directory for its owner to write to. Whoever owns the volume can rename it
// at any time: from here on it is used by its descriptor.
func (v *Volume) scratch(who owner) (*os.File, error) {
	name := stateDir + "/" + incoming
	if err := v.root.Mkdir(name, 0o700); err != nil {
		return nil, err
	}
	dir, err := v.openDirectory(name)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	err = unix.Fstat(int(dir.Fd()), &st)
	if err == nil && (int(st.Uid) != os.Geteuid() || st.Mode&0o077 != 0) {
		err = fmt.Errorf("%s/%s was replaced as soon as it was made: it belongs to user %d, mode %04o",
			v.path, name, st.Uid, st.Mode&manifest.MaxMode)
	}
	if err == nil && who != asIs {
		err = dir.Chown(who.uid, who.gid)
	}
	if err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return dir, nil
}

// removeFetched removes what a fetch left that was killed, or is done with. It is not for sweep,
// which runs while a fetched tree is taken in, too.
func (v *Volume) removeFetched() error { return v.removeTree(stateDir + "/" + incoming) }

// mostSilence is how long rsync may say nothing. With --checksum it is silent while either side
// hashes a file: an hour is 360 GB at 100 MB/s. A server of its own (rsync://) that dies without a
// word is found by this only.
const mostSilence = time.Hour

// endsWithUs starts rsync, beside a shell that reads our end of its stdin: when that closes,
// however we ended, it kills the process group. The kernel's own signal for that (PR_SET_PDEATHSIG)
// is lost when rsync takes another user's rights, and reaches neither its receiver nor its ssh.
const endsWithUs = `exec 3<&0 </dev/null; (read -r _ <&3; kill -KILL 0) >/dev/null 2>&1 & exec "$0" "$@" 3<&-`

// rsync copies a remote source to dir. It finds its way there, and to the current release, by
// paths: so it may do no more than who owns the volume, and who could have replaced a directory on
// the way by a link. Its ssh runs as before, with root's keys.
func (v *Volume) rsync(ctx context.Context, source string, dir *os.File, who owner) error {
	// No --times: a link must not depend on them. No -I: --checksum decides.
	args := []string{"--recursive", "--links", "--perms", "--checksum",
		"--info=nonreg1", "--timeout=" + fmt.Sprint(int(mostSilence.Seconds()))}
	if strings.HasPrefix(source, "rsync://") || strings.Contains(source, "::") {
		args = append(args, "--contimeout=10") // with --rsh, rsync would reach its own servers through ssh, too
	} else {
		// ssh asks the other side by itself, so a dead one is found within a minute, however long
		// its rsync is silent.
		args = append(args, "--rsh=ssh -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=15 -o ServerAliveCountMax=4")
	}
	if who != asIs {
		args = append(args, fmt.Sprintf("--copy-as=%d:%d", who.uid, who.gid))
	}
	current, err := v.Current()
	if err != nil {
		return err
	}
	if current != "" {
		args = append(args, "--link-dest="+v.Path(current))
	}
	// A slash at the end: what is in the directory, not the directory. "host:" is a home directory,
	// "host:/" would be all of it.
	if strings.HasSuffix(source, ":") {
		source += "."
	}
	args = append(args, "--", strings.TrimSuffix(source, "/")+"/", "./")
	program, err := exec.LookPath("rsync")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", endsWithUs, program}, args...)...)
	if _, err := cmd.StdinPipe(); err != nil { // closed when rsync has ended, or we have
		return err
	}
	cmd.Dir = fmt.Sprintf("/proc/self/fd/%d", dir.Fd()) // the child's own, which it has until it becomes rsync
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stderr, skipped output.Ends
	cmd.Stdout, cmd.Stderr = &skipped, &stderr
	// Its ssh goes with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		said, _, _ := strings.Cut(stderr.String(), "\n")
		return fmt.Errorf("rsync from there: %s (%w)", strings.TrimSpace(said), err)
	}
	// What rsync leaves out without an error is refused, as it is in a directory.
	if _, name, found := strings.Cut(skipped.String(), "skipping non-regular file "); found {
		name, _, _ = strings.Cut(name, "\n")
		return fmt.Errorf("%s is a fifo, socket or device: only files, directories and symlinks can be released", name)
	}
	return nil
}
