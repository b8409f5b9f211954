package pointer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

const (
	jsonName  = "release.json" // the pointer: what counts
	plainName = "snap.txt"     // the snapshot id alone, for a shell script's curl
	swapName  = ".swap"        // flock: one compare-and-swap at a time
	lockName  = ".lock"        // flock: one publish at a time; holds the Holder
)

// Directory is a store in a directory that a web server gives out: release.json and snap.txt, both
// always whole.
type Directory struct{ dir string }

// NewFolder opens the store in dir, which has to be there.
func NewFolder(dir string) (*Directory, error) {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("pointer store %s: there is no such directory; make it, or correct pointer-store", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("pointer store: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("pointer store %s is not a directory", dir)
	}
	return &Directory{dir: dir}, nil
}

// Read returns the pointer; a zero one when nothing is published yet. A release.json that is there
// but not valid is an error: going on from zero would give its generation out twice.
func (f *Directory) Read(context.Context) (Pointer, error) {
	name := filepath.Join(f.dir, jsonName)
	file, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return Pointer{}, nil
	}
	if err != nil {
		return Pointer{}, fmt.Errorf("pointer store: %w", err)
	}
	defer func() { _ = file.Close() }()
	data, err := io.ReadAll(io.LimitReader(file, MaxSize+1))
	if err != nil {
		return Pointer{}, fmt.Errorf("pointer store: %w", err)
	}
	p, err := Parse(data)
	if err != nil {
		return Pointer{}, fmt.Errorf("pointer store: %s: %w", name, err)
	}
	if p.Legacy() {
		return Pointer{}, fmt.Errorf("pointer store: %s is a plain line, want JSON: move it away to start at generation 1", name)
	}
	return p, nil
}

// CompareAndSwap replaces the pointer if its generation still is from.
func (f *Directory) CompareAndSwap(ctx context.Context, from int64, next Pointer) error {
	next.Schema = Schema
	if err := next.validate(); err != nil {
		return fmt.Errorf("write pointer: it is not valid: %w", err)
	}
	data := next.Render()
	if _, err := Parse(data); err != nil {
		return fmt.Errorf("write pointer: nobody could read it: %w", err)
	}
	plain, err := plainLine(next)
	if err != nil {
		return fmt.Errorf("write pointer: %w", err)
	}
	unlock, err := f.flock(ctx, swapName)
	if err != nil {
		return fmt.Errorf("write pointer: %w", err)
	}
	defer unlock()
	have, err := f.Read(ctx)
	if err != nil {
		return fmt.Errorf("write pointer: %w", err)
	}
	if have.Generation != from {
		return fmt.Errorf("%w: generation %d is current, this publish began at %d (by %q: %q)",
			ErrConflict, have.Generation, from, have.By, have.Message)
	}
	if next.Generation <= have.Generation {
		return fmt.Errorf("%w: generation %d is not above %d", ErrConflict, next.Generation, have.Generation)
	}
	if err := f.write(data, plain); err != nil {
		return err
	}
	// The pointer has moved. What is missing from the history is added by the next Lock.
	if err := f.noteCommit(next); err != nil {
		return fmt.Errorf("write pointer: it is written, the history is not: %w", err)
	}
	return nil
}

// write replaces both files. Both are on disk before the first one gets its name: a full disk then
// changes nothing. release.json goes first, because it is what counts; a crash in between leaves an
// older snap.txt, which Lock puts right.
func (f *Directory) write(data, plain []byte) error {
	main, err := f.pending(jsonName, data, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = main.Cleanup() }()
	side, err := f.pending(plainName, plain, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = side.Cleanup() }()
	if err := main.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("write pointer: %w", err)
	}
	if err := side.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("write pointer: %s is new, %s is not: %w", jsonName, plainName, err)
	}
	return f.sync()
}

func (f *Directory) pending(name string, data []byte, mode os.FileMode) (*renameio.PendingFile, error) {
	file, err := renameio.NewPendingFile(filepath.Join(f.dir, name), renameio.WithTempDir(f.dir), renameio.WithStaticPermissions(mode))
	if err != nil {
		return nil, fmt.Errorf("write pointer: %w", err)
	}
	if _, err = file.Write(data); err == nil {
		err = file.Sync()
	}
	if err != nil {
		_ = file.Cleanup()
		return nil, fmt.Errorf("write pointer %s: %w", filepath.Join(f.dir, name), err)
	}
	return file, nil
}

// sync makes the renames last over a power cut.
func (f *Directory) sync() error {
	dir, err := os.Open(f.dir)
	if err != nil {
		return fmt.Errorf("write pointer: %w", err)
	}
	defer func() { _ = dir.Close() }()
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("write pointer: sync %s: %w", f.dir, err)
	}
	return nil
}

// repair makes snap.txt and the history say what release.json says, after a crash in between.
func (f *Directory) repair(ctx context.Context) error {
	p, err := f.Read(ctx)
	if err != nil || p.Generation == 0 {
		return err
	}
	unlock, err := f.flock(ctx, swapName)
	if err != nil {
		return fmt.Errorf("pointer store: %w", err)
	}
	defer unlock()
	if err := f.noteCommit(p); err != nil {
		return err
	}
	plain, err := plainLine(p)
	if err != nil {
		return err
	}
	name := filepath.Join(f.dir, plainName)
	if have, err := os.ReadFile(name); err == nil && bytes.Equal(have, plain) {
		return nil
	}
	if err := renameio.WriteFile(name, plain, 0o644, renameio.WithTempDir(f.dir), renameio.WithStaticPermissions(0o644)); err != nil {
		return fmt.Errorf("pointer store: %w", err)
	}
	return f.sync()
}

// plainLine is snap.txt. It has room for one snapshot, and a script cannot tell which region that
// one is for.
func plainLine(p Pointer) ([]byte, error) {
	if len(p.Snapshots) != 1 {
		return nil, fmt.Errorf("a directory store takes one region, the pointer has %d", len(p.Snapshots))
	}
	for _, id := range p.Snapshots {
		return []byte(id + "\n"), nil
	}
	return nil, errors.New("no snapshot")
}
