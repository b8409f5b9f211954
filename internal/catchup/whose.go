package catchup

import (
	"context"
	"errors"
	"slices"
	"syscall"

	"ebs-release/internal/release"
)

// ErrUnfit says that this volume cannot become what the pointer names: it was looked at, and packs
// that are what the pointer says do not fit it, or it has no room. Another volume may.
var ErrUnfit = errors.New("the volume cannot be brought to what the pointer names")

// unfit is an ErrUnfit in words of its own.
type unfit struct{ error }

func (unfit) Is(target error) bool { return target == ErrUnfit }

func (u unfit) Unwrap() error { return u.error }

// finding makes an ErrUnfit of what was seen on a volume. What the kernel says of the disk, of
// rights, memory or open files says nothing of what is on it; and who ran out of time saw nothing.
func finding(err error) error {
	for _, other := range []error{
		ErrNoWay, ErrGone, ErrStore, release.ErrOldPointer, release.ErrFenced, context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, other) {
			return err
		}
	}
	seen := []syscall.Errno{
		syscall.ENOSPC, syscall.EDQUOT,
		// A name is not there, or something else is:
		syscall.ENOENT, syscall.ENOTDIR, syscall.EISDIR, syscall.ELOOP, syscall.EINVAL, syscall.ENXIO,
	}
	if errno, ok := errors.AsType[syscall.Errno](err); err == nil || ok && !slices.Contains(seen, errno) {
		return err
	}
	return unfit{err}
}

// Finish ends a step that was cut off on a volume that nobody serves, and returns the release that
// came out; "": there was none.
func Finish(ctx context.Context, v *release.Volume) (id string, err error) {
	id, err = v.FinishCatchUp(ctx)
	return id, finding(err)
}
