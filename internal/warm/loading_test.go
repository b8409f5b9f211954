package warm

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"ebs-release/internal/status"
)

// slowly is EBS that loads 40 percent between two questions; the first is not answered.
type slowly struct {
	id      string
	lazy    bool
	percent int
	asked   map[string]int
	kept    []int
}

func (e *slowly) VolumeID() string { return e.id }

func (e *slowly) Loading(_ context.Context, id string) (*status.Loading, error) {
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
		e.id = "vol-1"
		time.Sleep(20 * time.Minute)
		if len(e.kept) != 3 || e.kept[0] != 40 || e.kept[2] != 100 || e.asked["vol-1"] != 4 || len(e.asked) != 1 {
			t.Errorf("kept %v, asked %v", e.kept, e.asked)
		}
		e.id, e.lazy = "vol-2", true
		time.Sleep(20 * time.Minute)
		if len(e.kept) != 3 || e.asked["vol-2"] != 2 {
			t.Errorf("kept %v, asked %v", e.kept, e.asked)
		}
	})
}
