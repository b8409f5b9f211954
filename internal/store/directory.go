package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ebs-release/internal/advice"

	"github.com/google/renameio/v2"
)

const (
	swapName = ".swap" // flock: one PutIf at a time
	lockName = ".lock" // flock: one publish at a time; holds the Holder
)

// Directory is a store in a directory. A file is replaced by rename: it is always whole.
type Directory struct {
	dir     string
	private []string // keys that only the owner may read; a web server may be another user
}

// NewDirectory opens the store in dir, which has to be there.
func NewDirectory(dir string, private ...string) (*Directory, error) {
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
	return &Directory{dir: dir, private: private}, nil
}

func (d *Directory) String() string { return d.dir }

// Get implements Store, and so do the methods below.
func (d *Directory) Get(_ context.Context, key string, unless Version) (Object, error) {
	name, err := d.path(key)
	if err != nil {
		return Object{}, err
	}
	file, err := os.Open(name)
	if err != nil {
		return Object{}, d.failed(opRead, key, err)
	}
	object, err := open(file)
	if err == nil && unless != "" && object.Version == unless {
		err = ErrUnmodified
	}
	if err != nil {
		_ = file.Close()
		return Object{}, d.failed(opRead, key, err)
	}
	return object, nil
}

func open(file *os.File) (Object, error) {
	info, err := file.Stat()
	if err != nil {
		return Object{}, err
	}
	if !info.Mode().IsRegular() {
		return Object{}, fmt.Errorf("it is no regular file (%s)", info.Mode())
	}
	object := Object{Body: file, Size: info.Size()}
	if object.Size <= MaxDocument {
		sum := sha256.New()
		if _, err := io.Copy(sum, file); err != nil {
			return Object{}, err
		}
		object.Version = Version(hex.EncodeToString(sum.Sum(nil)))
		_, err = file.Seek(0, io.SeekStart)
	}
	return object, err
}

// PutIf compares and replaces under a lock that every writer takes.
func (d *Directory) PutIf(ctx context.Context, key string, data []byte, was Version) (Version, error) {
	if len(data) > MaxDocument {
		return "", d.failed(opWrite, key, fmt.Errorf("it has %d bytes, want at most %d", len(data), MaxDocument))
	}
	unlock, err := d.flock(ctx, swapName)
	if err != nil {
		return "", d.failed(opWrite, key, err)
	}
	defer unlock()
	have, err := d.Get(ctx, key, "")
	switch {
	case err == nil:
		_ = have.Body.Close()
	case !errors.Is(err, ErrNotFound):
		return "", err
	}
	if have.Version != was {
		return "", d.failed(opWrite, key, ErrChanged)
	}
	if err := d.Put(ctx, key, bytes.NewReader(data)); err != nil {
		return "", err
	}
	sum := sha256.Sum256(data)
	return Version(hex.EncodeToString(sum[:])), nil
}

// Put writes beside the object, has it on disk, and gives it its name.
func (d *Directory) Put(_ context.Context, key string, body io.ReadSeeker) error {
	name, err := d.path(key)
	if err != nil {
		return err
	}
	mode := fs.FileMode(0o644)
	if slices.Contains(d.private, key) {
		mode = 0o600
	}
	dir := filepath.Dir(name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return d.failed(opWrite, key, err)
	}
	file, err := renameio.NewPendingFile(name, renameio.WithTempDir(dir), renameio.WithStaticPermissions(mode))
	if err != nil {
		return d.failed(opWrite, key, err)
	}
	defer func() { _ = file.Cleanup() }()
	if _, err := io.Copy(file, body); err != nil {
		return d.failed(opWrite, key, err)
	}
	if err := file.CloseAtomicallyReplace(); err != nil { // it syncs first
		return d.failed(opWrite, key, err)
	}
	if err := SyncDirectory(dir); err != nil {
		return d.failed(opWrite, key, fmt.Errorf("%w: %w", ErrUnclear, err))
	}
	return nil
}

// List leaves out what begins with a dot: locks, and files that are being written.
func (d *Directory) List(ctx context.Context, prefix, after string, most int) ([]Item, error) {
	var items []Item
	err := filepath.WalkDir(d.dir, func(name string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it was removed meanwhile
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		rel, err := filepath.Rel(d.dir, name)
		key := filepath.ToSlash(rel)
		hidden := strings.HasPrefix(entry.Name(), ".") && name != d.dir
		switch {
		case err != nil:
			return err
		case entry.IsDir() && hidden:
			return fs.SkipDir
		case !entry.Type().IsRegular() || hidden || !strings.HasPrefix(key, prefix), key <= after:
			return nil
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			items = append(items, Item{Key: key, Size: info.Size(), Modified: info.ModTime()})
		}
		return err
	})
	if err != nil {
		return nil, d.failed(opList, prefix, err)
	}
	slices.SortFunc(items, func(a, b Item) int { return strings.Compare(a.Key, b.Key) })
	if len(items) > most {
		return items[:most], d.failed(opList, prefix, tooMany(most))
	}
	return items, nil
}

func tooMany(most int) error { return fmt.Errorf("%w: more than %d", ErrTooMany, most) }

// Delete lasts over a power cut.
func (d *Directory) Delete(_ context.Context, key string) error {
	name, err := d.path(key)
	if err != nil {
		return err
	}
	err = os.Remove(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = SyncDirectory(filepath.Dir(name))
	}
	return d.failed(opDelete, key, err)
}

func (d *Directory) path(key string) (string, error) {
	if err := checkKey(key); err != nil {
		return "", err
	}
	return filepath.Join(d.dir, filepath.FromSlash(key)), nil
}

// failed wraps err, which names the path again in most cases.
func (d *Directory) failed(op, key string, err error) error {
	if err == nil {
		return nil
	}
	on := filepath.Join(d.dir, filepath.FromSlash(key))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("%w: %w", ErrNotFound, plainly(err))
	case errors.Is(err, fs.ErrPermission):
		err = advice.Try(plainly(err), "as a user who may write to the pointer store (sudo)")
	default:
		err = plainly(err)
	}
	return &Error{Op: op, On: on, Err: err}
}

// plainly takes off the path that a system call's error begins with.
func plainly(err error) error {
	if at, ok := err.(*fs.PathError); ok { //nolint:errorlint // one that is wrapped has more to say
		return at.Err
	}
	return err
}

// SyncDirectory makes renames last over a power cut.
func SyncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
