package up

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ebs-release/internal/boot"
	"ebs-release/internal/flock"
	"ebs-release/internal/status"
)

// hung waits for something that no context ends.
type hung struct {
	boot.Instance
	boot.Pointers

	until chan struct{}
}

func (h hung) Identify(context.Context) (boot.Identity, error) {
	<-h.until
	return boot.Identity{}, errors.New("late")
}

func (h hung) Fetch(ctx context.Context) (boot.Pointer, error) {
	<-ctx.Done()
	return boot.Pointer{}, ctx.Err()
}

// The lock is free again for the next start, and whoever looks sees that this one failed.
func TestABootThatHangsEnds(t *testing.T) {
	dir := status.Dir(t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		h := hung{until: make(chan struct{})}
		defer close(h.until)
		u := of(dir, nil)
		u.Deadline = time.Minute
		u.Parts = func() (boot.Parts, error) { return boot.Parts{Instance: h, Pointers: h}, nil }
		began := time.Now()
		_, err := u.Run(t.Context())
		if took := time.Since(began); !errors.Is(err, errNoEnd) || !strings.Contains(err.Error(), "Try: dmesg") || took != time.Minute+lateness {
			t.Errorf("after %v: %v", took, err)
		}
		if held, err := flock.Held(dir.LockPath()); held || err != nil {
			t.Errorf("the lock is held: %v, %v", held, err)
		}
		if s, err := dir.Read(); err != nil || s.State != status.Failed || !strings.Contains(s.Error, errNoEnd.Error()) {
			t.Errorf("%+v, %v", s, err)
		}
	})
}
