package release

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"ebs-release/internal/advice"
	"ebs-release/internal/flock"

	"golang.org/x/sys/unix"
)

const (
	storeName   = "store"
	storePath   = stateDir + "/" + storeName // the store whose releases these are: 16 hex digits
	publishPath = stateDir + "/publishing"   // flock: one publish at a time to this volume, whatever its store
	maxStore    = 64
)

var storeID = regexp.MustCompile(`^[0-9a-f]{16}$`)

// ErrPublishing says that another publish holds this volume.
var ErrPublishing = errors.New("another publish to this volume is running")

// StoreID returns the id of the store that the volume belongs to: 16 hex digits; "" when it says
// none, as before stores had ids.
func (v *Volume) StoreID() (string, error) {
	data, err := v.readPlain(storePath, maxStore)
	switch {
	case err != nil:
		return "", fmt.Errorf("store of %s: %w", v.path, err)
	case data == nil:
		return "", nil
	}
	id := strings.TrimSuffix(string(data), "\n")
	if !storeID.MatchString(id) {
		return "", fmt.Errorf("%s/%s holds %.40q: want the 16 hex digits of a store", v.path, storePath, data)
	}
	return id, nil
}

// SetStore writes whose volume this is, on disk. A volume that has an id keeps it.
func (v *Volume) SetStore(ctx context.Context, id string) error {
	if !storeID.MatchString(id) {
		return fmt.Errorf("store of %s: %q is no id of a store", v.path, id)
	}
	return v.locked(ctx, func() error {
		have, err := v.StoreID()
		if err != nil || have == id {
			return err
		}
		if have != "" {
			return fmt.Errorf("%s belongs to store %s, not to %s", v.path, have, id)
		}
		return v.replaceText(storeName, stateMode, id+"\n")
	})
}

// LockPublish keeps every other publish out of this volume, until unlock is called or the process
// ends. It does not wait: ErrPublishing. Ingest, Activate and Prune take a lock of their own
// (lock), for the time of one step. Holding this one writes nothing, so the volume may be frozen
// meanwhile.
func (v *Volume) LockPublish() (unlock func() error, err error) {
	file, err := v.openRegular(publishPath, unix.O_RDONLY|unix.O_CREAT, 0o600, maxStore)
	if err != nil {
		return nil, fmt.Errorf("lock %s/%s: %w", v.path, publishPath, err)
	}
	if err := flock.Try(file); err != nil {
		_ = file.Close()
		if errors.Is(err, flock.ErrHeld) {
			return nil, fmt.Errorf("%w: %s/%s is held", ErrPublishing, v.path, publishPath)
		}
		return nil, fmt.Errorf("lock %s/%s: %w", v.path, publishPath, err)
	}
	return file.Close, nil
}

// CheckStore says whether the volume is of a store; an ErrMismatch names both. A volume that says
// none was made, or pushed to, from before stores had ids: its digest has to do.
func (v *Volume) CheckStore(id string) error {
	if id == "" {
		return nil
	}
	have, err := v.StoreID()
	if errno, ok := errors.AsType[syscall.Errno](err); ok && !slices.Contains(wrongKind, errno) {
		return err
	}
	switch {
	case err != nil:
		return mismatch{err}
	case have != "" && have != id:
		return mismatch{advice.Try(fmt.Errorf("the volume belongs to store %s, the pointer is of store %s", have, id),
			"see which store this machine's pointer setting leads to")}
	}
	return nil
}
