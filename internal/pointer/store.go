package pointer

import (
	"context"
	"errors"
	"fmt"
	"time"
)

var (
	// ErrConflict says that someone else moved the pointer, or that the new generation is not above
	// the old one. Nothing was written.
	ErrConflict = errors.New("the pointer moved")
	// ErrLocked says that another publish holds the lock.
	ErrLocked = errors.New("another publish is running")
)

// Store keeps the pointer for the publisher.
type Store interface {
	// Read returns the pointer; a zero one when nothing is published yet.
	Read(ctx context.Context) (Pointer, error)
	// CompareAndSwap writes next if the stored generation still is from (0: nothing is published
	// yet); otherwise ErrConflict. After any other error the pointer may be the old or the new one,
	// never torn: Read tells.
	CompareAndSwap(ctx context.Context, from int64, next Pointer) error
	// Lock keeps other publishers out until release is called or the process ends; ErrLocked names
	// the holder.
	Lock(ctx context.Context, who string) (release func() error, err error)
	// Holder says who has the lock.
	Holder(ctx context.Context) (holder Holder, held bool, err error)
}

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
