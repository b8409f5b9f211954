package filesystem

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/output"
)

// Check makes sure that device holds a file system that can be mounted, and returns what it is.
// `e2fsck -p` runs only when an ext superblock asks for it, never -f. xfs needs nothing: its log is
// replayed by the mount, and fsck.xfs does nothing by design.
func Check(ctx context.Context, device string, log *slog.Logger) (Info, error) {
	info, err := ProbeDevice(device)
	if err != nil || info.NeedsCheck == "" {
		return info, err
	}
	log.Info("file system check", "device", device, "reason", info.NeedsCheck)
	if err := runE2fsck(ctx, device, log); err != nil {
		return Info{}, fmt.Errorf("e2fsck -p %s (because %s): %w", device, info.NeedsCheck, err)
	}
	if info, err = ProbeDevice(device); err != nil {
		return Info{}, err
	}
	if info.NeedsCheck != "" {
		return Info{}, fmt.Errorf("e2fsck -p %s ended well, and still %s", device, info.NeedsCheck)
	}
	return info, nil
}

func runE2fsck(ctx context.Context, device string, log *slog.Logger) error {
	started := time.Now()
	cmd := exec.CommandContext(ctx, "e2fsck", "-p", device)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	// SIGTERM lets it finish what it writes; SIGKILL comes when it does not end.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	var out output.Ends
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	words := out.Words(500)
	var exited *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, exec.ErrNotFound):
		return advice.Try(err, "install e2fsprogs")
	case err != nil && !errors.As(err, &exited):
		return err
	}
	code := cmd.ProcessState.ExitCode()
	log.Info("e2fsck ended", "device", device, "code", code, "took", time.Since(started).Round(time.Millisecond), "output", words)
	return judgeE2fsck(code, words)
}

// judgeE2fsck reads the exit code as the bitmask that it is (e2fsck(8)): 1 corrected, 2 corrected
// and "reboot" (meant for a mounted root), 4 left uncorrected, 8 operational error, 16 usage, 32
// cancelled, 128 library error. A signal gives -1.
func judgeE2fsck(code int, words string) error {
	if code < 0 || code&^3 != 0 {
		return advice.Try(fmt.Errorf("exit code %d, the file system is not repaired (%s)", code, words),
			"publish again, from a volume that e2fsck -f finds clean")
	}
	return nil
}
