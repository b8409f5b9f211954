package pointer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ebs-release/internal/lab/bucket"
	"ebs-release/internal/store"
	"ebs-release/internal/test/s3"

	"github.com/aws/aws-sdk-go-v2/aws"
)

func inS3(t *testing.T, load store.Load) *Store {
	t.Helper()
	s, err := Open(t.Context(), "s3://"+bucket.Name+"/prod", load)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestTwoPublishersInS3AreKeptApart: no lock, compare-and-swap alone. Whoever lost has written
// nothing, and the history has what happened once.
func TestTwoPublishersInS3AreKeptApart(t *testing.T) {
	const rounds, publishers = 5, 4
	server := s3.Start(t)
	for round := range int64(rounds) {
		var won atomic.Int32
		var all sync.WaitGroup
		for range publishers {
			all.Go(func() {
				s := inS3(t, server.Config)
				unlock, err := s.Lock(t.Context(), "alice")
				if err != nil {
					t.Error(err)
					return
				}
				before, err := s.Read(t.Context())
				if err != nil || before.Generation > round {
					return // too late to begin: another publisher has won
				}
				switch err := s.CompareAndSwap(t.Context(), before, sample(round+1)); {
				case err == nil:
					won.Add(1)
				case !errors.Is(err, ErrConflict):
					t.Error(err)
				}
				if err := unlock(); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if won.Load() != 1 {
			t.Fatalf("round %d: %d publishers won", round, won.Load())
		}
	}
	s := inS3(t, server.Config)
	if got, want := results(t, s), "1  committed, 2  committed, 3  committed, 4  committed, 5  committed"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	p, err := s.Read(t.Context())
	if err != nil || p.Revision != rounds {
		t.Errorf("revision %d, %v", p.Revision, err)
	}
	if plain, _, err := store.ReadAll(t.Context(), s.at, plainName, 100, ""); err != nil || string(plain) != p.Snapshots["eu-west-1"]+"\n" {
		t.Errorf("snap.txt is %q, %v", plain, err)
	}
}

// A request whose answer never came may be carried out later. Once the commit is called failed, it
// cannot be any more: undo may delete what it names.
func TestALateWriteOfThePointerChangesNothing(t *testing.T) {
	server := s3.Start(t)
	s := inS3(t, server.Config)
	swap(t, s, 0, sample(1))
	var late *http.Request
	lossy := inS3(t, func(ctx context.Context) (aws.Config, error) {
		cfg, err := server.Config(ctx)
		cfg.Retryer = func() aws.Retryer { return aws.NopRetryer{} }
		cfg.HTTPClient = sender(func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodPut && late == nil {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				late = r.Clone(context.WithoutCancel(r.Context()))
				late.Body = io.NopCloser(bytes.NewReader(body))
				return nil, errors.New("the connection was reset")
			}
			return http.DefaultClient.Do(r)
		})
		return cfg, err
	})
	before, err := lossy.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = lossy.CompareAndSwap(t.Context(), before, sample(2))
	if err == nil || errors.Is(err, ErrUnclear) || errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "the old one was put back under revision 2") {
		t.Fatalf("got %v", err)
	}
	resp, err := http.DefaultClient.Do(late)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if p, err := s.Read(t.Context()); err != nil || p.Generation != 1 || p.Revision != 2 || resp.StatusCode != http.StatusPreconditionFailed {
		t.Errorf("after the late write, answered %s: %+v, %v", resp.Status, p, err)
	}
	swap(t, s, 1, sample(2))
}

// sender sends requests for the SDK.
type sender func(*http.Request) (*http.Response, error)

func (s sender) Do(r *http.Request) (*http.Response, error) { return s(r) }

func TestStoreInS3HasNoLock(t *testing.T) {
	s := inS3(t, s3.Start(t).Config)
	if s.Locks() {
		t.Error("it says that it has one")
	}
	if _, held, err := s.Holder(t.Context()); held || err != nil {
		t.Errorf("held %v, %v", held, err)
	}
	if _, stopped, err := s.Stop(t.Context()); stopped || err != nil {
		t.Errorf("stopped %v, %v", stopped, err)
	}
	if err := s.TryWrite(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestFetchReadsThePointerFromS3(t *testing.T) {
	server := s3.Start(t)
	s := inS3(t, server.Config)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, place := range []string{"s3://" + bucket.Name + "/prod", "s3://" + bucket.Name + "/prod/release.json"} {
		f, err := NewFetcher(place, server.Config, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if place == f.Place() { // nothing is published yet, the first time
			fetched := make(chan error, 1)
			go func() {
				p, err := f.Fetch(ctx)
				if err == nil && p.Generation != 1 {
					err = errors.New("another generation")
				}
				fetched <- err
			}()
			swap(t, s, 0, sample(1))
			if err := <-fetched; err != nil {
				t.Fatal(err)
			}
		}
		if p, err := f.Fetch(ctx); err != nil || p.Generation != 1 {
			t.Errorf("%s: %+v, %v", place, p, err)
		}
	}
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	f, err := NewFetcher("s3://"+bucket.Name+"/elsewhere", server.Config, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Fetch(short); !IsMissing(err) || !strings.HasPrefix(err.Error(), "read pointer s3://releases/elsewhere: ") {
		t.Errorf("of nothing: %v", err)
	}
}
