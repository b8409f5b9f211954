package catchup

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"ebs-release/internal/release"
)

func TestOnlyWhatWasSeenIsOfTheVolume(t *testing.T) {
	for err, want := range map[error]bool{
		errors.New("its content has another sha256"):          true,
		fmt.Errorf("keep pack: %w", syscall.ENOSPC):           true,
		fmt.Errorf("manifest: %w", syscall.ENOENT):            true,
		fmt.Errorf("open: %w", syscall.EMFILE):                false,
		fmt.Errorf("read: %w", syscall.EIO):                   false,
		fmt.Errorf("open: %w", syscall.EACCES):                false,
		fmt.Errorf("lock: %w", context.DeadlineExceeded):      false,
		fmt.Errorf("fetch: %w: %w", ErrStore, syscall.ENOENT): false,
		release.ErrFenced:                                     false,
		ErrNoWay:                                              false,
		ErrGone:                                               false,
	} {
		got := finding(err)
		if errors.Is(got, ErrUnfit) != want || !errors.Is(got, err) || got.Error() != err.Error() {
			t.Errorf("%v: %v, of the volume %v", err, got, errors.Is(got, ErrUnfit))
		}
	}
	if finding(nil) != nil {
		t.Error("nothing is something")
	}
}
