package warm

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ebs-release/internal/status"
)

// slowly is EBS that loads 40 percent between two questions; the first is not answered.
type slowly struct {
	mu      sync.Mutex
	id      string
	lazy    bool
	percent int
	asked   map[string]int
	kept    []int
}

func (e *slowly) VolumeID() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.id
}

// has puts another volume in the place of the one before.
func (e *slowly) has(id string, lazy bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.id, e.lazy = id, lazy
}

// came says what came of it.
func (e *slowly) came() (kept []int, asked map[string]int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.kept), maps.Clone(e.asked)
}

func (e *slowly) Loading(_ context.Context, id string) (*status.Loading, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.asked[id]++; e.asked[id] == 1 {
		return nil, errors.New("no answer")
	}
	if e.lazy {
		return nil, nil
	}
	e.percent = min(100, e.percent+40)
	return &status.Loading{VolumeID: id, Percent: e.percent}, nil
}

func (e *slowly) Keep(l status.Loading) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.kept = append(e.kept, l.Percent)
	return nil
}

// EC2 is asked about once a minute until all is loaded, and then no more of that volume.
func TestEC2IsAskedUntilAllIsLoaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		e := &slowly{asked: map[string]int{}}
		go Watch(ctx, e, slog.New(slog.NewTextHandler(io.Discard, nil)))
		time.Sleep(10 * time.Minute)
		e.has("vol-1", false)
		time.Sleep(20 * time.Minute)
		if kept, asked := e.came(); !slices.Equal(kept, []int{40, 80, 100}) || asked["vol-1"] != 4 || len(asked) != 1 {
			t.Errorf("kept %v, asked %v", kept, asked)
		}
		e.has("vol-2", true)
		time.Sleep(20 * time.Minute)
		if kept, asked := e.came(); len(kept) != 3 || asked["vol-2"] != 2 {
			t.Errorf("kept %v, asked %v", kept, asked)
		}
	})
}
