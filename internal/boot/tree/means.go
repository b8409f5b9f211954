package tree

import (
	"errors"
	"slices"
	"syscall"

	"ebs-release/internal/advice"
	"ebs-release/internal/boot"
	"ebs-release/internal/catchup"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
)

// meaning is an error of a leaf with what it means to package boot.
type meaning struct {
	error
	kind error
}

func (m meaning) Unwrap() []error { return []error{m.error, m.kind} }

// Means adds to an error which of boot's kinds it is. Its words stay.
func Means(err, kind error) error { return meaning{err, kind} }

// Kinds are what an error of a volume can mean. The first that fits is what is meant.
func Kinds() []error {
	return []error{boot.ErrUnsigned, boot.ErrOlder, boot.ErrMismatch, boot.ErrGone, boot.ErrStore, boot.ErrDisk}
}

// whatItMeans is an error of a catch-up in the words of package boot.
func whatItMeans(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, pointer.ErrUnsigned):
		return Means(err, boot.ErrUnsigned)
	case errors.Is(err, release.ErrOldPointer), errors.Is(err, release.ErrFenced):
		return Means(err, boot.ErrOlder)
	case errors.Is(err, catchup.ErrNoWay), errors.Is(err, catchup.ErrUnfit), errors.Is(err, release.ErrMismatch):
		return Means(advice.Try(err, "publish again"), boot.ErrMismatch)
	case errors.Is(err, catchup.ErrGone):
		return Means(advice.Try(err, "publish again"), boot.ErrGone)
	case errors.Is(err, catchup.ErrStore):
		return Means(err, boot.ErrStore)
	}
	errno, ok := errors.AsType[syscall.Errno](err)
	if ok && slices.Contains([]syscall.Errno{syscall.EIO, syscall.EUCLEAN, syscall.EROFS, syscall.ENODEV, syscall.ESHUTDOWN}, errno) {
		return Means(err, boot.ErrDisk)
	}
	return err // nobody knows whose fault it is
}
