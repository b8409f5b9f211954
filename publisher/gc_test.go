package main

import (
	"fmt"
	"testing"
	"time"

	"ebs-release/internal/exit"
	"ebs-release/internal/publish/sweep"
	"ebs-release/internal/release"
)

// releaseOf is the release that was taken in on a day of January.
func releaseOf(day int) string { return fmt.Sprintf("202601%02dT000000Z-0000000000%02d", day, day) }

func dayOf(day int) time.Time { return time.Date(2026, 1, day, 0, 0, 0, 0, time.UTC) }

func TestGCWaitsForNoPublish(t *testing.T) {
	_, store := storeWith(t)
	point := t.TempDir()
	tree, err := release.Open(point)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	if err := tree.Init(0, 0); err != nil {
		t.Fatal(err)
	}
	opened := &releaseVolume{point: point}
	defer opened.close()
	s := sweep.Sweeper{Store: store, Volume: opened}
	for name, lock := range map[string]func() (func() error, error){
		"the store":  func() (func() error, error) { return store.Lock(t.Context(), "bob") },
		"the volume": tree.LockPublish, // all that a publish locks where the store is in S3
	} {
		held, err := lock()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Lock(t.Context(), "gc"); exit.Code(err) != exit.Conflict {
			t.Errorf("while a publish holds %s: %v", name, err)
		}
		if err := held(); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // it gives back what it took
		unlock, err := s.Lock(t.Context(), "gc")
		if err != nil {
			t.Fatal(err)
		}
		if err := unlock(); err != nil {
			t.Fatal(err)
		}
	}
}
