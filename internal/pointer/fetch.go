package pointer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/store"

	smithytime "github.com/aws/smithy-go/time"
)

const tryTimeout = 5 * time.Second // for one request, its body included

// Fetcher reads the pointer, for a member: from a URL, or from S3.
type Fetcher struct {
	place string // for a person
	key   string
	from  store.Reader // nil: on S3, and not opened yet
	load  store.Load
	log   *slog.Logger
}

// NewFetcher returns a fetcher of a place: the pointer's URL, http or https, or the store
// s3://bucket/prefix. load gives the keys and the Region for S3; it is called by the first Fetch.
func NewFetcher(place string, load store.Load, log *slog.Logger) (*Fetcher, error) {
	if store.IsS3(place) {
		place = strings.TrimSuffix(place, "/"+jsonName)
		if _, _, err := store.ParseS3(place); err != nil {
			return nil, fmt.Errorf("pointer: %w", err)
		}
		return &Fetcher{place: place, key: jsonName, load: load, log: log}, nil
	}
	return NewHTTPFetcher(place, nil, log)
}

// NewHTTPFetcher returns a fetcher of a URL, by a transport; nil: a new one.
func NewHTTPFetcher(place string, via http.RoundTripper, log *slog.Logger) (*Fetcher, error) {
	from, err := store.NewHTTP(place, via)
	if err != nil {
		return nil, fmt.Errorf("pointer URL: %w", err)
	}
	return &Fetcher{place: from.String(), from: from, log: log}, nil
}

// Place is what is read, without a password.
func (f *Fetcher) Place() string { return f.place }

// Fetched is a pointer, and the document that it was read from.
type Fetched struct {
	Pointer
	Document []byte
}

// CheckTrusted says whether one of those that the setting trusted-keys names for its store signed
// it: ErrUnsigned. Without items it is nil.
func (f Fetched) CheckTrusted(items []string) error {
	if len(items) == 0 {
		return nil
	}
	keys, err := Trusted(items, f.Store)
	if err != nil {
		return err
	}
	return CheckSignature(f.Document, keys)
}

// NotTrusted returns the keys that may sign the next pointers and that trusted-keys does not name,
// as items of it: those of a rotation. None without items.
func (f Fetched) NotTrusted(items []string) (missing []string) {
	for _, key := range f.Keys {
		if item := f.Store + ":" + key; len(items) > 0 && !slices.Contains(items, item) {
			missing = append(missing, item)
		}
	}
	return missing
}

// Fetch reads the pointer and tries again until ctx ends: when there is no answer or none yet, when
// the store is in trouble or asks to wait, on a body that is cut off and one that is no pointer.
// What another try does not change is final, such as a web server's 401 and 403. The error names
// the last cause.
func (f *Fetcher) Fetch(ctx context.Context) (Fetched, error) {
	var last error // the cause of the last failure: a context that ends while we wait must not hide it
	start := time.Now()
	for try := 1; ; try++ {
		got, _, err := f.read(ctx, "")
		if err == nil {
			return got, nil
		}
		var said store.Error
		if e, ok := errors.AsType[*store.Error](err); ok {
			said, err = *e, e.Err // what was read is said here
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		if said.Final {
			return Fetched{}, fmt.Errorf("read pointer %s: %w", f.place, last)
		}
		if ctx.Err() == nil {
			f.log.WarnContext(ctx, "pointer not read, trying again", "url", f.place, "try", try, "error", last)
			_ = smithytime.SleepWithContext(ctx, store.Backoff(try, said.Wait))
		}
		if ended := ctx.Err(); ended != nil {
			return Fetched{}, advice.Errorf("read pointer %s: %w (%w after %d tries in %s)",
				f.place, last, ended, try, time.Since(start).Round(time.Millisecond))
		}
	}
}

// IsMissing says that a Fetch found no pointer at all.
func IsMissing(err error) bool { return errors.Is(err, store.ErrNotFound) }

// read is one try.
func (f *Fetcher) read(ctx context.Context, unless store.Version) (Fetched, store.Version, error) {
	from, err := f.Store(ctx)
	if err != nil {
		return Fetched{}, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	document, version, err := store.ReadAll(ctx, from, f.key, MaxSize, unless)
	if err != nil {
		return Fetched{}, "", err
	}
	p, err := Parse(document)
	return Fetched{p, document}, version, err
}

// Look reads the pointer once, unless it still has the version of an earlier look:
// store.ErrUnmodified. A server that has no versions says "". A *store.Error says how long to wait.
func (f *Fetcher) Look(ctx context.Context, unless store.Version) (Fetched, store.Version, error) {
	got, version, err := f.read(ctx, unless)
	if err != nil && !errors.Is(err, store.ErrUnmodified) {
		said := store.Error{Err: err}
		if e, ok := errors.AsType[*store.Error](err); ok {
			said = *e
		}
		said.Op, said.On = "read pointer", f.place // in place of what the store says of that
		err = &said
	}
	return got, version, err
}

// Store is where the packs lie, too: beside the pointer.
func (f *Fetcher) Store(ctx context.Context) (store.Reader, error) {
	if f.from == nil {
		from, err := store.OpenS3(ctx, f.place, f.load)
		if err != nil {
			return nil, err
		}
		f.from = from
	}
	return f.from, nil
}
