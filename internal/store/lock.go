package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/flock"

	smithytime "github.com/aws/smithy-go/time"
	"golang.org/x/sys/unix"
)

// ErrLocked says that another publish holds the lock.
var ErrLocked = errors.New("another publish is running")

// Holder is who holds the lock.
type Holder struct {
	Who   string    `json:"who"`
	Host  string    `json:"host"`
	PID   int       `json:"pid"`
	Since time.Time `json:"since"`
}

func (h Holder) String() string {
	if h.PID == 0 {
		return "someone who did not leave a name"
	}
	return fmt.Sprintf("%s on %s (pid %d) since %s", h.Who, h.Host, h.PID, h.Since.Format(time.RFC3339))
}

// A lock that is held only by someone who looks who holds it is free again at once.
const (
	lockTries = 4
	lockPause = 25 * time.Millisecond
)

// Lock takes dir/.lock by flock(2), so that it ends with the process, however that ends, and leaves
// its name in the file. It does not wait for another publish: ErrLocked says whose it is. The file
// is never removed; that would let two hold it.
func (d *Directory) Lock(ctx context.Context, who string) (release func() error, err error) {
	name := filepath.Join(d.dir, lockName)
	file, err := openLock(name)
	if errors.Is(err, os.ErrPermission) {
		return nil, advice.Try(fmt.Errorf("publish lock: %w", err), "as a user who may write to the pointer store (sudo)")
	}
	if err != nil {
		return nil, fmt.Errorf("publish lock: %w", err)
	}
	defer func() {
		if err != nil {
			_ = file.Close()
		}
	}()
	for try := 1; ; try++ {
		err := flock.Try(file)
		if err == nil {
			break
		}
		if !errors.Is(err, flock.ErrHeld) {
			return nil, fmt.Errorf("publish lock %s: %w", name, err)
		}
		if try == lockTries {
			holder, _ := readHolder(file)
			return nil, fmt.Errorf("%w: the lock %s is held by %s; wait until it is done", ErrLocked, name, holder)
		}
		if err := smithytime.SleepWithContext(ctx, lockPause); err != nil {
			return nil, fmt.Errorf("publish lock %s: %w", name, err)
		}
	}
	if err := writeHolder(file, who); err != nil {
		return nil, fmt.Errorf("publish lock %s: %w", name, err)
	}
	return func() error {
		// Only closing matters; a name that stays behind is read by nobody.
		return errors.Join(file.Truncate(0), file.Close())
	}, nil
}

// openLock opens a lock for its owner alone: whoever may read a file may take a flock on it. An
// older version made it for everybody.
func openLock(name string) (*os.File, error) {
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() { // the store's owner may be less than who publishes
		err = fmt.Errorf("%s is no regular file (%s); remove it", name, info.Mode())
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	if info.Mode().Perm() != 0o600 {
		_ = file.Chmod(0o600) // another user's file stays as it is
	}
	return file, nil
}

// Holder says who holds the lock now. It looks by trying a shared lock for an instant.
func (d *Directory) Holder(context.Context) (holder Holder, held bool, err error) {
	file, err := os.OpenFile(filepath.Join(d.dir, lockName), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return Holder{}, false, nil
	}
	if err != nil {
		return Holder{}, false, fmt.Errorf("publish lock: %w", err)
	}
	defer func() { _ = file.Close() }()
	switch err := flock.TryShared(file); {
	case err == nil:
		return Holder{}, false, nil
	case !errors.Is(err, flock.ErrHeld):
		return Holder{}, false, fmt.Errorf("publish lock %s: %w", file.Name(), err)
	}
	holder, err = readHolder(file)
	return holder, true, err
}

func readHolder(file *os.File) (Holder, error) {
	data, err := io.ReadAll(io.NewSectionReader(file, 0, 4096))
	if err != nil {
		return Holder{}, fmt.Errorf("publish lock: %w", err)
	}
	var holder Holder
	if len(data) == 0 {
		return holder, nil
	}
	if err := json.Unmarshal(data, &holder); err != nil {
		return Holder{}, fmt.Errorf("publish lock %s: %w", file.Name(), err)
	}
	return holder, nil
}

func writeHolder(file *os.File, who string) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	data, err := json.Marshal(Holder{Who: who, Host: host, PID: os.Getpid(), Since: time.Now().UTC().Truncate(time.Second)})
	if err != nil {
		return err
	}
	if err := file.Truncate(0); err != nil {
		return err
	}
	_, err = file.WriteAt(append(data, '\n'), 0)
	return err
}

// flock waits for an exclusive lock on a file of the store until ctx ends. It is for short work:
// whoever has it needs milliseconds.
func (d *Directory) flock(ctx context.Context, name string) (unlock func(), err error) {
	file, err := openLock(filepath.Join(d.dir, name))
	if err != nil {
		return nil, err
	}
	if err := flock.Wait(ctx, file, lockPause); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("lock %s: %w", file.Name(), err)
	}
	return func() { _ = file.Close() }, nil
}
