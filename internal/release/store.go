package release

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"

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
func (t Tree) StoreID() (string, error) {
	root, err := t.open()
	if err != nil {
		return "", err
	}
	defer func() { _ = root.Close() }()
	return t.store(root)
}

func (t Tree) store(root *os.Root) (string, error) {
	file, err := openPlain(root, storePath, maxStore)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("store of %s: %w", t.Root, err)
	}
	defer func() { _ = file.Close() }()
	data, err := io.ReadAll(io.LimitReader(file, maxStore))
	if err != nil {
		return "", fmt.Errorf("store of %s: %w", t.Root, err)
	}
	id := strings.TrimSuffix(string(data), "\n")
	if !storeID.MatchString(id) {
		return "", fmt.Errorf("%s/%s holds %.40q: want the 16 hex digits of a store", t.Root, storePath, data)
	}
	return id, nil
}

// SetStore writes whose volume this is, on disk. A volume that has an id keeps it.
func (t Tree) SetStore(ctx context.Context, id string) error {
	if !storeID.MatchString(id) {
		return fmt.Errorf("store of %s: %q is no id of a store", t.Root, id)
	}
	return t.locked(ctx, func(root *os.Root) error {
		have, err := t.store(root)
		if err != nil || have == id {
			return err
		}
		if have != "" {
			return fmt.Errorf("%s belongs to store %s, not to %s", t.Root, have, id)
		}
		err = t.replaceFile(root, storeName, func(f *os.File) error {
			_, err := f.WriteString(id + "\n")
			return err
		})
		if err != nil {
			return err
		}
		return t.syncDir(root, stateDir)
	})
}

// LockPublish keeps every other publish out of this volume, until unlock is called or the process
// ends. It does not wait: ErrPublishing. Ingest, Activate and Prune take a lock of their own
// (lock), for the time of one step. Holding this one writes nothing, so the volume may be frozen
// meanwhile.
func (t Tree) LockPublish() (unlock func() error, err error) {
	root, err := t.open()
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	file, err := openRegular(root, publishPath, unix.O_RDONLY|unix.O_CREAT, 0o600, maxStore)
	if err != nil {
		return nil, fmt.Errorf("lock %s/%s: %w", t.Root, publishPath, err)
	}
	if err := flock.Try(file); err != nil {
		_ = file.Close()
		if errors.Is(err, flock.ErrHeld) {
			return nil, fmt.Errorf("%w: %s/%s is held", ErrPublishing, t.Root, publishPath)
		}
		return nil, fmt.Errorf("lock %s/%s: %w", t.Root, publishPath, err)
	}
	return file.Close, nil
}

// CheckStore says whether the volume is of a store; an ErrMismatch names both. A volume that says
// none was made, or pushed to, from before stores had ids: its digest has to do.
func (t Tree) CheckStore(id string) error {
	if id == "" {
		return nil
	}
	have, err := t.StoreID()
	if errno, ok := errors.AsType[syscall.Errno](err); ok && !slices.Contains(wrongKind, errno) {
		return err
	}
	switch {
	case err != nil:
		return mismatch{err}
	case have != "" && have != id:
		return mismatch{fmt.Errorf("the volume belongs to store %s, the pointer is of store %s. "+
			"Try: see which store this machine's pointer setting leads to", have, id)}
	}
	return nil
}
