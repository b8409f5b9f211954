package release

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/flock"

	smithytime "github.com/aws/smithy-go/time"
	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

const (
	lockPause    = 50 * time.Millisecond
	silentWait   = time.Second      // a lock that takes longer is told of
	mostLockWait = 10 * time.Minute // a full volume of small files is pruned in less
)

var errHeld = fmt.Errorf("not given up within %v", mostLockWait)

type waits struct{}

// TellWaits makes what waits for the lock of a volume with this ctx say so: tell gets the path of
// the lock, once a wait, after a second.
func TellWaits(ctx context.Context, tell func(lock string)) context.Context {
	return context.WithValue(ctx, waits{}, tell)
}

// locked runs do while no other process changes this volume: see lock.
func (v *Volume) locked(ctx context.Context, do func() error) error {
	unlock, err := v.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return do()
}

// hold is locked for who ends what was cut off half way.
func (v *Volume) hold(ctx context.Context, do func() error) error {
	unlock, err := v.lockHalfway(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return do()
}

// lock waits until no other process changes this volume, at most for mostLockWait, and keeps it so
// until unlock. ErrHalfway: see CatchUp.
func (v *Volume) lock(ctx context.Context) (unlock func(), err error) {
	if unlock, err = v.lockHalfway(ctx); err != nil {
		return nil, err
	}
	switch _, err = v.root.Lstat(journalPath); {
	case errors.Is(err, fs.ErrNotExist):
		return unlock, nil
	case err == nil:
		err = fmt.Errorf("%s: %w: the next boot ends that", v.path, ErrHalfway)
	}
	unlock()
	return nil, err
}

// lockHalfway is lock without a look at the journal. It is flock(2): it ends with the process.
func (v *Volume) lockHalfway(ctx context.Context) (unlock func(), err error) {
	// Init made it. Made here by root, it would keep the tree's owner out.
	file, err := v.openPlain(lockPath, maxFence)
	if err != nil {
		return nil, fmt.Errorf("lock release volume %s (is it one?): %w", v.path, err)
	}
	if info, err := file.Stat(); err == nil && int(info.Sys().(*syscall.Stat_t).Uid) == os.Geteuid() {
		_ = file.Chmod(0o600) // an older version made it for everybody to read, and so to hold
	}
	unlock = func() { _ = file.Close() }
	ctx, cancel := context.WithTimeoutCause(ctx, mostLockWait, errHeld)
	defer cancel()
	if err := v.flock(ctx, file, lockPath); err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// flock waits for the lock on an open file. It ends with the file, at the latest with the process.
func (v *Volume) flock(ctx context.Context, file *os.File, name string) error {
	began, told := time.Now(), false
	for {
		err := flock.Try(file)
		if err == nil {
			return nil
		}
		if !errors.Is(err, flock.ErrHeld) {
			return fmt.Errorf("lock %s/%s: %w", v.path, name, err)
		}
		if tell, ok := ctx.Value(waits{}).(func(string)); ok && !told && time.Since(began) >= silentWait {
			told = true
			tell(v.path + "/" + name)
		}
		if err := smithytime.SleepWithContext(ctx, lockPause); err != nil {
			if errors.Is(context.Cause(ctx), errHeld) {
				return advice.Try(fmt.Errorf("lock %s/%s, held by another process: %w", v.path, name, errHeld),
					"fuser -v %s/%s, which names it", v.path, name)
			}
			return fmt.Errorf("lock %s/%s, held by another process: %w", v.path, name, err)
		}
	}
}

// owner is who the tree belongs to. Root makes files for that user; others make them for themselves
// (asIs).
type owner struct{ uid, gid int }

var asIs = owner{-1, -1}

// own gives what was made in a directory to its owner. Of a symlink that is itself.
func (o owner) own(dir int, name string) error {
	if o == asIs {
		return nil
	}
	return unix.Fchownat(dir, name, o.uid, o.gid, unix.AT_SYMLINK_NOFOLLOW)
}

func (v *Volume) owner() (owner, error) {
	if os.Geteuid() != 0 {
		return asIs, nil
	}
	uid, gid, err := v.Owner()
	return owner{uid, gid}, err
}

// stateMode is that of what everybody on the machine may read.
const stateMode = os.FileMode(0o644)

// replaceFile writes a file of the state directory, always whole.
func (v *Volume) replaceFile(name string, mode os.FileMode, write func(*os.File) error) error {
	who, err := v.owner()
	if err != nil {
		return err
	}
	// Its temporary file is made at the top of the root that it gets.
	dir, err := v.openDirectory(stateDir)
	if err != nil {
		return fmt.Errorf("release volume %s: %w", v.path, err)
	}
	defer func() { _ = dir.Close() }()
	state, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()))
	if err != nil {
		return fmt.Errorf("release volume %s: %w", v.path, err)
	}
	defer func() { _ = state.Close() }()
	file, err := renameio.NewPendingFile(name, renameio.WithRoot(state), renameio.WithStaticPermissions(mode))
	if err != nil {
		return fmt.Errorf("write %s/%s/%s: %w", v.path, stateDir, name, err)
	}
	defer func() { _ = file.Cleanup() }()
	err = write(file.File)
	if err == nil && who != asIs {
		err = file.Chown(who.uid, who.gid)
	}
	if err == nil {
		err = file.CloseAtomicallyReplace()
	}
	if err != nil {
		return fmt.Errorf("write %s/%s/%s: %w", v.path, stateDir, name, err)
	}
	return nil
}

// replaceText is replaceFile for what has to be on disk before anything else is done.
func (v *Volume) replaceText(name string, mode os.FileMode, text string) error {
	err := v.replaceFile(name, mode, func(file *os.File) error {
		_, err := file.WriteString(text)
		return err
	})
	if err != nil {
		return err
	}
	return v.syncDir(stateDir)
}

// syncDir makes the names in a directory last over a power cut.
func (v *Volume) syncDir(name string) error {
	dir, err := v.openDirectory(name)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("sync %s/%s: %w", v.path, name, err)
	}
	return nil
}

// syncAll brings all that was written to the volume to disk: one call, instead of one for each of
// 200,000 files.
func (v *Volume) syncAll() error {
	if err := unix.Syncfs(int(v.dir.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", v.path, err)
	}
	return nil
}
