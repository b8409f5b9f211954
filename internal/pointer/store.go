package pointer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"ebs-release/internal/advice"
	"ebs-release/internal/store"
)

// The documents of a store.
const (
	jsonName    = "release.json"  // the pointer: what counts
	plainName   = "snap.txt"      // the snapshot id alone, for a shell script's curl
	historyName = "history.jsonl" // one Entry a line, the latest last; a web server has no reason to give it out
	idName      = ".store"        // the id of the store
	tryName     = ".doctor"       // see TryWrite
)

var (
	// ErrConflict says that someone else moved the pointer, or that the new generation is not above
	// the old one. Nothing was written.
	ErrConflict = errors.New("the pointer moved")
	// ErrUnclear says that nobody knows whether the pointer moved, or still will.
	ErrUnclear = store.ErrUnclear
	// ErrLocked says that another publish holds the lock.
	ErrLocked = store.ErrLocked
)

// Holder is who holds the lock.
type Holder = store.Holder

// Keys are all that a store keeps, for who asks what becomes of it: packs by their prefix.
func Keys() []string { return []string{jsonName, plainName, historyName, idName, PackPrefix} }

// Store keeps the pointer, its history and the store's id, for the publisher.
type Store struct {
	at    store.Store
	locks *store.Directory // nil: none. On S3 nothing can hold a lock for a process: compare-and-swap alone keeps two publishers apart

	keys    []SecretKey // each signs; none: pointers are not signed
	trusted []PublicKey // who signed what is read; none: that is not looked at
}

// SignWith makes the store sign what it writes with each of the keys, and believe only what one of
// the trusted ones signed: nothing that somebody else put there may come back under our signature.
// Without a key, but with trusted ones, it writes no pointer.
func (s *Store) SignWith(trusted []PublicKey, keys ...SecretKey) { s.trusted, s.keys = trusted, keys }

// Objects is what lies beside the pointer: packs.
func (s *Store) Objects() store.Store { return s.at }

// InS3 says whether a place is in S3: s3://bucket/prefix.
func InS3(place string) bool { return store.IsS3(place) }

// CheckPlace says whether a place in S3 is written as Open takes it.
func CheckPlace(place string) error {
	_, _, err := store.ParseS3(place)
	return err
}

// Open opens the store at a place: a directory, which has to be there, or s3://bucket/prefix, which
// is not asked for anything yet. load gives the keys and the Region for S3.
func Open(ctx context.Context, place string, load store.Load) (*Store, error) {
	if store.IsS3(place) {
		at, err := store.OpenS3(ctx, place, load)
		if err != nil {
			return nil, err
		}
		return &Store{at: at}, nil
	}
	directory, err := store.NewDirectory(place, historyName)
	if err != nil {
		return nil, err
	}
	return &Store{at: directory, locks: directory}, nil
}

// Locks says whether the store has a lock at all.
func (s *Store) Locks() bool { return s.locks != nil }

// Lock keeps other publishers out until release is called or the process ends; ErrLocked names the
// holder. What a crash left half written is put right first.
func (s *Store) Lock(ctx context.Context, who string) (release func() error, err error) {
	release = func() error { return nil }
	if s.locks != nil {
		if release, err = s.locks.Lock(ctx, who); err != nil {
			return nil, err
		}
	}
	if err := s.repair(ctx); err != nil {
		return nil, errors.Join(err, release())
	}
	return release, nil
}

// Holder says who has the lock.
func (s *Store) Holder(ctx context.Context) (holder Holder, held bool, err error) {
	if s.locks == nil {
		return Holder{}, false, nil
	}
	return s.locks.Holder(ctx)
}

// Stop asks the publish that holds the lock to end, and waits for that: see store.Directory.
func (s *Store) Stop(ctx context.Context) (holder Holder, stopped bool, err error) {
	if s.locks == nil {
		return Holder{}, false, nil
	}
	return s.locks.Stop(ctx)
}

// TryWrite writes, removes and looks for an object: what a publish needs.
func (s *Store) TryWrite(ctx context.Context) error {
	if err := s.at.Put(ctx, tryName, strings.NewReader("written by ebs-release doctor\n")); err != nil {
		return err
	}
	if err := s.at.Delete(ctx, tryName); err != nil {
		return err
	}
	// Who may not list a bucket is told 403 of what is missing, and cannot tell an empty store.
	_, err := s.at.List(ctx, tryName, "", 1)
	return err
}

// Read returns the pointer; a zero one when nothing is published yet. A release.json that is there
// but not valid is an error: going on from zero would give its generation out twice.
func (s *Store) Read(ctx context.Context) (Pointer, error) {
	p, _, err := s.read(ctx)
	return p, err
}

func (s *Store) read(ctx context.Context) (Pointer, store.Version, error) {
	f, err := s.find(ctx)
	if err == nil && f.Generation > 0 && len(s.trusted) > 0 {
		if err := f.CheckSignature(s.trusted); err != nil {
			return Pointer{}, "", advice.Try(fmt.Errorf("pointer store: %s/%s: %w", s.at, jsonName, err),
				"look who wrote it (ebs-release history, key show); when it is right, sign it: ebs-release key sign")
		}
	}
	return f.Pointer, f.version, err
}

// find does not ask who signed it.
func (s *Store) find(ctx context.Context) (Found, error) {
	data, version, err := store.ReadAll(ctx, s.at, jsonName, MaxSize, "")
	if errors.Is(err, store.ErrNotFound) {
		return Found{}, nil
	}
	if err != nil {
		return Found{}, fmt.Errorf("pointer store: %w", err)
	}
	p, err := Parse(data)
	if err != nil {
		return Found{}, advice.Try(fmt.Errorf("pointer store: %s/%s: %w", s.at, jsonName, err),
			"look at what lies there, and at what is between; %s beside it has what was published", historyName)
	}
	if p.Legacy() {
		return Found{}, fmt.Errorf("pointer store: %s/%s is a plain line, want JSON: move it away to start at generation 1", s.at, jsonName)
	}
	return Found{p, data, version}, nil
}

// CompareAndSwap writes next if the store still has the pointer from, as Read returned it (a zero
// one: nothing is published yet); otherwise ErrConflict. The generation is above that of from, or
// the same, with the same release: then only what is said about it changes, such as its snapshot.
// Each write has a revision of its own, so that two writes of one generation differ. ErrUnclear: it
// may be written, now or a moment later. After any other error the pointer may be the old or the
// new one, never torn: Read tells.
func (s *Store) CompareAndSwap(ctx context.Context, from, next Pointer) error {
	next.Revision = from.Revision + 1
	data, err := s.render(next)
	if err != nil {
		return fmt.Errorf("write pointer: %w", err)
	}
	if _, err := Parse(data); err != nil {
		return fmt.Errorf("write pointer: nobody could read it: %w", err)
	}
	if _, err := plainLine(next); err != nil {
		return fmt.Errorf("write pointer: %w", err)
	}
	have, version, err := s.read(ctx)
	if err != nil {
		return fmt.Errorf("write pointer: %w", err)
	}
	if err := CheckMove(have, from, next); err != nil {
		return err
	}
	switch _, err = s.at.PutIf(ctx, jsonName, data, version); {
	case errors.Is(err, store.ErrChanged):
		return s.lost(ctx, from)
	case errors.Is(err, store.ErrUnclear):
		if err := s.settle(ctx, from, next, version, err); err != nil {
			return fmt.Errorf("write pointer: %w", err)
		}
	case err != nil:
		return fmt.Errorf("write pointer: %w", err)
	}
	// The pointer has moved. What is missing besides is added by the next Lock.
	if err := s.writePlain(ctx); err != nil {
		return fmt.Errorf("write pointer: %s is new, %s is not: %w", jsonName, plainName, err)
	}
	if err := s.noteCommit(ctx, next); err != nil {
		return fmt.Errorf("write pointer: it is written, the history is not: %w", err)
	}
	return nil
}

// CheckMove says whether next may be written where have is, by who has read from: ErrConflict. Who
// may write is another question.
func CheckMove(have, from, next Pointer) error {
	switch {
	case have.Generation != from.Generation || have.Revision != from.Revision:
		return moved(have, from)
	case next.Generation == have.Generation && next.Release == have.Release && next.Digest == have.Digest:
	case next.Generation <= have.Generation:
		return fmt.Errorf("%w: generation %d is not above %d", ErrConflict, next.Generation, have.Generation)
	}
	return compareRollouts(have, next)
}

// compareRollouts: who has the new release keeps it, or gets a higher generation.
func compareRollouts(have, next Pointer) error {
	if have.Rollout == nil {
		return nil
	}
	was := *have.Rollout
	switch {
	case next.Generation > was.Generation:
		return nil
	case next.Generation == was.Generation && next.Release == was.Release && next.Digest == was.Digest && next.Rollout == nil:
		return nil // it has come through
	case next.Generation == have.Generation && next.Rollout != nil:
		if err := next.Rollout.covers(was); err != nil {
			return fmt.Errorf("%w: %w", ErrConflict, err)
		}
		return nil
	}
	return fmt.Errorf("%w: the rollout of generation %d is not over", ErrConflict, was.Generation)
}

// render returns the document that is written, signed where there is a key.
func (s *Store) render(p Pointer) ([]byte, error) {
	switch {
	case len(s.keys) > 0:
		return p.Sign(s.keys...)
	case len(s.trusted) > 0:
		return nil, errors.New("it would not be signed, and who reads it wants it signed")
	}
	p.Schema = Schema
	if err := p.validate(); err != nil {
		return nil, fmt.Errorf("it is not valid: %w", err)
	}
	return p.Render(), nil
}

func moved(have, from Pointer) error {
	return fmt.Errorf("%w: generation %d is current, this publish began at %d (by %q: %q)",
		ErrConflict, have.Generation, from.Generation, have.By, have.Message)
}

// lost names who was faster.
func (s *Store) lost(ctx context.Context, from Pointer) error {
	have, err := s.Read(ctx)
	if err != nil {
		return fmt.Errorf("%w: somebody else wrote it first, and who did cannot be read: %w", ErrConflict, err)
	}
	return moved(have, from)
}

// settle makes an unclear write clear. A request whose answer was lost may still be carried out
// later; so the old pointer is written once more, as another revision: after that it cannot be, as
// it compares with a version that is gone. nil: the pointer is next.
func (s *Store) settle(ctx context.Context, from, next Pointer, version store.Version, unclear error) error {
	if from.Generation > 0 {
		again := from
		again.Revision = next.Revision
		data, err := s.render(again)
		if err != nil {
			return errors.Join(unclear, err)
		}
		_, err = s.at.PutIf(ctx, jsonName, data, version)
		if err == nil {
			// Not %w of it: now it is clear.
			return fmt.Errorf("it was not written, and the old one was put back under revision %d: %v", //nolint:errorlint // see above
				again.Revision, unclear)
		}
		if !errors.Is(err, store.ErrChanged) {
			return errors.Join(unclear, err)
		}
	}
	have, err := s.Read(ctx)
	switch {
	case err != nil:
		return errors.Join(unclear, err)
	case bytes.Equal(have.Render(), next.Render()):
		return nil
	case have.Generation == from.Generation && have.Revision == from.Revision:
		return unclear
	}
	return s.lost(ctx, from)
}

// repair makes snap.txt and the history say what release.json says, after a crash in between.
func (s *Store) repair(ctx context.Context) error {
	p, err := s.Read(ctx)
	if err != nil || p.Generation == 0 {
		return err
	}
	if err := s.noteCommit(ctx, p); err != nil {
		return err
	}
	if err := s.writePlain(ctx); err != nil {
		return fmt.Errorf("pointer store: %w", err)
	}
	return nil
}

// writePlain makes snap.txt say what release.json says. It looks at snap.txt before it reads the
// pointer: whoever moves the pointer later writes snap.txt later, too, and one of the two sees that
// it has changed.
func (s *Store) writePlain(ctx context.Context) error {
	for {
		have, version, err := store.ReadAll(ctx, s.at, plainName, MaxSize, "")
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		p, err := s.Read(ctx)
		if err != nil {
			return err
		}
		plain, err := plainLine(p)
		if err != nil || bytes.Equal(have, plain) {
			return err
		}
		if _, err := s.at.PutIf(ctx, plainName, plain, version); !errors.Is(err, store.ErrChanged) {
			return err
		}
	}
}

// plainLine is snap.txt. It has room for one snapshot, and a script cannot tell which region that
// one is for.
func plainLine(p Pointer) ([]byte, error) {
	if len(p.Snapshots) != 1 {
		return nil, fmt.Errorf("a store takes one region, the pointer has %d", len(p.Snapshots))
	}
	for _, id := range p.Snapshots {
		return []byte(id + "\n"), nil
	}
	return nil, errors.New("no snapshot")
}
