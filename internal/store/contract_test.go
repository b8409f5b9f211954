package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ebs-release/internal/lab/bucket"
	"ebs-release/internal/store"
	"ebs-release/internal/test/s3"
)

// kinds runs a test on each kind of store, both real: files, and an S3 server.
func kinds(t *testing.T, test func(*testing.T, store.Store)) {
	t.Helper()
	t.Run("directory", func(t *testing.T) {
		s, err := store.NewDirectory(t.TempDir())
		must(t, err)
		test(t, s)
	})
	t.Run("s3", func(t *testing.T) { test(t, openS3(t, "/some/prefix", s3.Start(t).Config)) })
}

func openS3(t *testing.T, prefix string, load store.Load) *store.S3 {
	t.Helper()
	s, err := store.OpenS3(t.Context(), "s3://"+bucket.Name+prefix, load)
	must(t, err)
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func has(t *testing.T, s store.Store, key, want string) store.Version {
	t.Helper()
	data, version, err := store.ReadAll(t.Context(), s, key, 1<<20, "")
	if err != nil || string(data) != want || version == "" {
		t.Fatalf("%s: %q, version %q, %v; want %q", key, data, version, err, want)
	}
	return version
}

func TestAnObjectIsReadBackWithItsVersion(t *testing.T) {
	kinds(t, func(t *testing.T, s store.Store) {
		ctx := t.Context()
		if _, err := s.Get(ctx, "release.json", ""); !errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), "read ") {
			t.Fatalf("of nothing: %v", err)
		}
		one, err := s.PutIf(ctx, "release.json", []byte("one"), "")
		must(t, err)
		if got := has(t, s, "release.json", "one"); got != one {
			t.Errorf("version %q, PutIf said %q", got, one)
		}
		if _, err := s.Get(ctx, "release.json", one); !errors.Is(err, store.ErrUnmodified) {
			t.Errorf("with its version: %v", err)
		}
		two, err := s.PutIf(ctx, "release.json", []byte("two"), one)
		must(t, err)
		if two == one {
			t.Error("a new content has the old version")
		}
		data, version, err := store.ReadAll(ctx, s, "release.json", 3, one)
		if err != nil || string(data) != "two" || version != two {
			t.Errorf("with the old version: %q, %q, %v", data, version, err)
		}
		if _, _, err := store.ReadAll(ctx, s, "release.json", 2, ""); err == nil || !strings.Contains(err.Error(), "larger than") {
			t.Errorf("more than is wanted: %v", err)
		}
	})
}

func TestPutIfReplacesExactlyWhatWasRead(t *testing.T) {
	kinds(t, func(t *testing.T, s store.Store) {
		ctx := t.Context()
		if _, err := s.PutIf(ctx, "a", []byte("x"), `"0123456789abcdef0123456789abcdef"`); !errors.Is(err, store.ErrChanged) {
			t.Errorf("over nothing: %v", err)
		}
		one, err := s.PutIf(ctx, "a", []byte("one"), "")
		must(t, err)
		two, err := s.PutIf(ctx, "a", []byte("two"), one)
		must(t, err)
		for name, was := range map[string]store.Version{"where something is": "", "over an older one": one} {
			if _, err := s.PutIf(ctx, "a", []byte("three"), was); !errors.Is(err, store.ErrChanged) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if got := has(t, s, "a", "two"); got != two {
			t.Errorf("version %q, was %q", got, two)
		}
		must(t, s.Delete(ctx, "a"))
		if _, err := s.PutIf(ctx, "a", []byte("three"), two); !errors.Is(err, store.ErrChanged) {
			t.Errorf("over one that is gone: %v", err)
		}
		if _, err := s.Get(ctx, "a", ""); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("it came back: %v", err)
		}
	})
}

func TestOneOfManyWritersWinsEachRound(t *testing.T) {
	const rounds, writers = 10, 8
	kinds(t, func(t *testing.T, s store.Store) {
		var was store.Version
		for round := range rounds {
			var won atomic.Int32
			var next atomic.Value
			var wg sync.WaitGroup
			for w := range writers {
				wg.Go(func() {
					mine := fmt.Sprintf("round %d by %d", round, w)
					switch version, err := s.PutIf(t.Context(), "release.json", []byte(mine), was); {
					case err == nil:
						won.Add(1)
						next.Store(mine)
						_ = version
					case !errors.Is(err, store.ErrChanged):
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if won.Load() != 1 {
				t.Fatalf("round %d: %d winners", round, won.Load())
			}
			was = has(t, s, "release.json", next.Load().(string))
		}
	})
}

// big makes a stream that nobody holds in memory.
type big struct{ *io.SectionReader }

type zeros struct{}

func (zeros) ReadAt(p []byte, _ int64) (int, error) { clear(p); return len(p), nil }

func TestALargeObjectIsStreamed(t *testing.T) {
	const size = 40 << 20
	kinds(t, func(t *testing.T, s store.Store) {
		ctx := t.Context()
		must(t, s.Put(ctx, "packs/one", big{io.NewSectionReader(zeros{}, 0, size)}))
		object, err := s.Get(ctx, "packs/one", "")
		must(t, err)
		n, err := io.Copy(io.Discard, object.Body)
		if err != nil || n != size || object.Size != size {
			t.Errorf("%d bytes, said %d, %v", n, object.Size, err)
		}
		must(t, object.Body.Close())
		must(t, s.Put(ctx, "packs/one", bytes.NewReader([]byte("small"))))
		has(t, s, "packs/one", "small")
		if _, err := s.PutIf(ctx, "packs/two", make([]byte, store.MaxDocument+1), ""); err == nil {
			t.Error("a document of any size was taken")
		}
	})
}

func TestListAndDelete(t *testing.T) {
	kinds(t, func(t *testing.T, s store.Store) {
		ctx := t.Context()
		for _, key := range []string{"packs/b", "packs/a", "release.json", "reports/7/up/i-1"} {
			must(t, s.Put(ctx, key, strings.NewReader(key)))
		}
		keys := func(prefix, after string) (all []string) {
			items, err := s.List(ctx, prefix, after, 10)
			must(t, err)
			for _, i := range items {
				if i.Size != int64(len(i.Key)) || time.Since(i.Modified).Abs() > time.Minute {
					t.Errorf("%+v", i)
				}
				all = append(all, i.Key)
			}
			return all
		}
		for prefix, want := range map[string]string{
			"": "[packs/a packs/b release.json reports/7/up/i-1]", "packs/": "[packs/a packs/b]", "re": "[release.json reports/7/up/i-1]", "none/": "[]",
		} {
			if got := fmt.Sprint(keys(prefix, "")); got != want {
				t.Errorf("%q: %s, want %s", prefix, got, want)
			}
		}
		for after, want := range map[string]string{
			"packs/a": "[packs/b release.json reports/7/up/i-1]", "packs/aa": "[packs/b release.json reports/7/up/i-1]", "reports/7": "[reports/7/up/i-1]", "z": "[]",
		} {
			if got := fmt.Sprint(keys("", after)); got != want {
				t.Errorf("after %q: %s, want %s", after, got, want)
			}
		}
		items, err := s.List(ctx, "", "", 3)
		if !errors.Is(err, store.ErrTooMany) || !strings.Contains(err.Error(), "more than 3") || len(items) != 3 || items[2].Key != "release.json" {
			t.Errorf("too many: %v, %v", items, err)
		}
		for range 2 { // once more is fine
			must(t, s.Delete(ctx, "packs/a"))
		}
		if got := fmt.Sprint(keys("packs/", "")); got != "[packs/b]" {
			t.Errorf("after delete: %s", got)
		}
	})
}

func TestKeysStayBelowTheirPlace(t *testing.T) {
	kinds(t, func(t *testing.T, s store.Store) {
		ctx := t.Context()
		for _, key := range []string{"", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", ".", "a\x00b"} {
			_, getErr := s.Get(ctx, key, "")
			_, putIfErr := s.PutIf(ctx, key, nil, "")
			for _, err := range []error{getErr, putIfErr, s.Put(ctx, key, strings.NewReader("")), s.Delete(ctx, key)} {
				if err == nil || !strings.Contains(err.Error(), "no key") {
					t.Errorf("%q: %v", key, err)
				}
			}
		}
	})
}

func TestAnEndedContextEndsIt(t *testing.T) {
	s := openS3(t, "", s3.Start(t).Config)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Get(ctx, "release.json", ""); !errors.Is(err, context.Canceled) {
		t.Errorf("get: %v", err)
	}
	if _, err := s.PutIf(ctx, "release.json", []byte("x"), ""); !errors.Is(err, store.ErrUnclear) {
		t.Errorf("put: %v", err)
	}
}
