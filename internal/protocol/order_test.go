package protocol

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ebs-release/internal/catchup"
	"ebs-release/internal/follow"
	"ebs-release/internal/gc"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/status"
	"ebs-release/internal/store"
	"ebs-release/internal/trouble"
)

// real is what a real follower works with. It writes down what is asked of it.
type real struct {
	t         *testing.T
	volume    *release.Volume // of the member
	packs     *store.Directory
	documents [][]byte // of generation 1, 2 and 3
	at        int      // which of them the store has
	moves     bool     // to the third one, while packs are fetched
	failing   int      // so often the programs fail
	was       string   // what was current
	told      status.Follow
	did       []string
}

func (r *real) note(what string) {
	if is, err := r.volume.Current(); err == nil && is != r.was {
		n, _ := r.volume.Generation()
		r.did = append(r.did, fmt.Sprintf("flip to %d", n))
		r.was = is
	}
	r.did = append(r.did, what)
}

func (r *real) Look(_ context.Context, unless store.Version) (pointer.Fetched, store.Version, error) {
	r.note("look")
	document, version := r.documents[r.at], store.Version(fmt.Sprint(r.at))
	if version == unless {
		return pointer.Fetched{}, "", store.ErrUnmodified
	}
	p, err := pointer.Parse(document)
	return pointer.Fetched{Pointer: p, Document: document}, version, err
}

func (r *real) Store(context.Context) (store.Reader, error) {
	r.note("catch up")
	if r.moves {
		r.at, r.moves = 2, false
	}
	return r.packs, nil
}

func (r *real) Place() string { return "the store" }

func (r *real) Who(context.Context) (pointer.Instance, error) { return pointer.Instance{ID: "m"}, nil }

func (r *real) Volume(context.Context) (*release.Volume, string, error) {
	v, err := release.Open(r.volume.Root())
	return v, "vol-1", err
}

func (r *real) Stage(context.Context, pointer.Pointer) error         { return nil }
func (r *real) Drain(context.Context, pointer.Pointer) (bool, error) { return false, nil }

func (r *real) RunPrograms(ctx context.Context) error {
	r.note("programs")
	if r.failing > 0 {
		r.failing--
		return errProgram
	}
	n, id, err := r.volume.Fence()
	return errors.Join(err, r.volume.MarkDone(ctx, id, n))
}

func (r *real) Report(_ context.Context, s status.Reported) error {
	r.note(fmt.Sprintf("report %d %v", s.Generation, s.Ready))
	return nil
}

func (r *real) Complain(context.Context, status.Reported, trouble.Trouble) error { return nil }

func (r *real) Tell(s status.Follow) error { r.told = s; return nil }

// newReal has three releases in the store, and none on the member.
func newReal(t *testing.T) *real {
	r := &real{t: t}
	open := func() *release.Volume {
		v, err := release.Open(t.TempDir())
		must(t, err)
		t.Cleanup(func() { _ = v.Close() })
		must(t, v.Init(os.Getuid(), os.Getgid()))
		return v
	}
	server := open()
	r.volume = open()
	secret, err := pointer.NewKey()
	must(t, err)
	r.packs, err = store.NewDirectory(t.TempDir())
	must(t, err)
	for _, v := range []*release.Volume{server, r.volume} {
		must(t, v.SetKeys(t.Context(), []string{secret.Public().String()}))
	}
	var edges []pointer.Edge
	for i := range 3 {
		source := t.TempDir()
		must(t, os.WriteFile(filepath.Join(source, "file"), fmt.Append(nil, i), 0o644))
		made, err := server.Ingest(t.Context(), source, time.Now().Add(time.Duration(i)*time.Second), gc.Wanted{Keep: 9})
		must(t, err)
		e, err := catchup.Make(t.Context(), server, r.packs, r.was, made.ID, false)
		must(t, err)
		edges, r.was = append(edges, e), made.ID
		p := pointer.Pointer{
			Generation: int64(i + 1), Release: made.ID, Digest: made.Digest, Created: time.Now(), Edges: slices.Clone(edges),
			Snapshots: map[string]string{region: "snap-0123456789abcdef0"},
		}
		document, err := p.Sign(secret)
		must(t, err)
		r.documents = append(r.documents, document)
	}
	r.was = ""
	return r
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// goTo lets the store name a document, and the follower go there.
func (r *real) goTo(f *follow.Follower, at int) {
	r.at = at
	synctest.Test(r.t, func(t *testing.T) {
		ctx, stop := context.WithTimeout(t.Context(), time.Hour)
		defer stop()
		f.Run(ctx, r.told)
	})
}

// orders are what may happen to a member on generation 1, or on `from`.
var orders = []struct {
	name    string
	from    int64
	to      int64
	moves   bool
	failing int
	least   string // is among what it does
}{
	{"one generation", 1, 2, false, 0, "look, catch up, look, flip to 2, programs, report 2 true"},
	{"the programs fail once", 1, 2, false, 1, "programs, report 2 false, look, programs, report 2 true"},
	{"the pointer moves meanwhile", 1, 2, true, 0, "look, catch up, look, catch up, look, flip to 3"},
	{"the pointer goes back", 2, 1, false, 0, ""},
}

// TestFollowerOrder holds the follower in memory to the real one: it does the same in the same
// order.
func TestFollowerOrder(t *testing.T) {
	for _, o := range orders {
		t.Run(o.name, func(t *testing.T) {
			r := newReal(t)
			first := &follow.Follower{Store: r, Member: r, Keep: 9, Interval: 10 * time.Second, Log: slog.New(slog.DiscardHandler)}
			for n := range o.from {
				r.goTo(first, int(n))
			}
			r.did, r.moves, r.failing = nil, o.moves, o.failing
			r.goTo(first, int(o.to-1))
			got, want := looksOnce(r.did), inMemory(t, o.from, o.to, o.moves, o.failing)
			if got != want || !strings.Contains(got, o.least) || o.least == "" && got != "" {
				t.Errorf("the real one: %s\nin memory:    %s\nwant among it: %s", got, want, o.least)
			}
		})
	}
}

// looksOnce leaves out looks that nothing follows from.
func looksOnce(did []string) string {
	did = slices.CompactFunc(did, func(a, b string) bool { return a == "look" && b == "look" })
	for len(did) > 0 && did[len(did)-1] == "look" {
		did = did[:len(did)-1]
	}
	return strings.Join(did, ", ")
}

// inMemory is what the follower of this proof does.
func inMemory(t *testing.T, from, to int64, moves bool, failing int) string {
	var did []string
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.followed()
		w.failing = failing
		named := func(n int64) pointer.Pointer {
			return pointer.Pointer{Generation: n, Release: fmt.Sprint("r", n), Digest: fmt.Sprint("d", n), Snapshots: w.pointer.Snapshots}
		}
		b := w.serving("m")
		d := b.mounted
		d.image, d.done, w.pointer = image{from, fmt.Sprint("r", from)}, from, named(from)
		w.follow(b)
		w.pointer = named(to)
		defer w.s.end()
		close(w.s.start)
		for {
			synctest.Wait()
			options := w.s.options()
			if len(options) == 0 {
				return
			}
			what := strings.Replace(options[0].name, "ask once more", "look", 1)
			w.s.take(options[0])
			switch {
			case what == "report":
				what += fmt.Sprintf(" %d %v", d.tags.Generation, !d.tags.Pending)
			case what == "catch up" && moves:
				w.pointer, moves = named(3), false
			}
			did = append(did, what)
		}
	})
	return looksOnce(did)
}
