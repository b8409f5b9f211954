package tree

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"ebs-release/internal/boot"
	"ebs-release/internal/catchup"
	"ebs-release/internal/pack"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
)

func TestWhatAFailureToCatchUpMeans(t *testing.T) {
	unclear := errors.New("nobody's fault in particular")
	for _, tc := range []struct {
		err  error
		want error // nil: it says nothing of the volume
	}{
		{pointer.ErrUnsigned, boot.ErrUnsigned},
		{release.ErrOldPointer, boot.ErrOlder},
		{release.ErrFenced, boot.ErrOlder},
		{release.ErrMismatch, boot.ErrMismatch},
		{catchup.ErrNoWay, boot.ErrMismatch},
		{catchup.ErrGone, boot.ErrGone},
		{catchup.ErrUnfit, boot.ErrMismatch},
		{fmt.Errorf("%w: %w", catchup.ErrStore, pack.ErrSum), boot.ErrStore},
		{fmt.Errorf("%w: %w", catchup.ErrStore, syscall.ECONNREFUSED), boot.ErrStore},
		{fmt.Errorf("%w: %w", catchup.ErrStore, context.DeadlineExceeded), boot.ErrStore},
		{syscall.EMFILE, nil},
		{syscall.EACCES, nil},
		{syscall.EIO, boot.ErrDisk},
		{fmt.Errorf("release: %w", syscall.EUCLEAN), boot.ErrDisk},
		{unclear, nil},
		{context.Canceled, nil},
		{context.DeadlineExceeded, nil},
	} {
		got := whatItMeans(fmt.Errorf("catch up: %w", tc.err))
		for _, m := range Kinds() {
			if errors.Is(got, m) != (m == tc.want) {
				t.Errorf("%v: it means %v: %v", tc.err, m, errors.Is(got, m))
			}
		}
		if !errors.Is(got, tc.err) || strings.Count(got.Error(), "Try: ") > 1 {
			t.Errorf("%v became %v", tc.err, got)
		}
	}
	if err := whatItMeans(nil); err != nil {
		t.Error(err)
	}
}
