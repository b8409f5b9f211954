package catchup

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"ebs-release/internal/release"
	"ebs-release/internal/store"
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

// denied is S3 to who may not list the bucket.
type denied struct{ store.Reader }

func (denied) Get(context.Context, string, store.Version) (store.Object, error) {
	return store.Object{}, &store.Error{Op: "read", On: "s3://releases/packs/x", Err: fmt.Errorf("403 AccessDenied: %w", store.ErrDenied)}
}

func (denied) String() string { return "s3://releases" }

func TestWhatMayNotBeReadMayBeGone(t *testing.T) {
	w := newWorld(t, 2, false)
	v := w.volume(false)
	v.Packs = func(context.Context) (store.Reader, error) { return denied{}, nil }
	if _, err := v.To(t.Context(), w.pointer()); !errors.Is(err, ErrGone) || !strings.Contains(err.Error(), "is gone, or may not be read") {
		t.Errorf("%v", err)
	}
}
