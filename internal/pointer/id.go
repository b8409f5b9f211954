package pointer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// idName holds the id of the store, which also lies on its release volume and in every pointer.
// Serve does not give it out.
const idName = ".store"

// ID returns the id of the store: 16 hex digits; "" when it has none yet. A pointer that says
// another one is an error: one of them was copied here.
func (f *Directory) ID(ctx context.Context) (string, error) {
	p, err := f.Read(ctx)
	if err != nil {
		return "", err
	}
	name := filepath.Join(f.dir, idName)
	file, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return p.Store, nil
	}
	if err != nil {
		return "", fmt.Errorf("pointer store: %w", err)
	}
	defer func() { _ = file.Close() }()
	data, err := io.ReadAll(io.LimitReader(file, 64))
	if err != nil {
		return "", fmt.Errorf("pointer store: %w", err)
	}
	id := strings.TrimSuffix(string(data), "\n")
	switch {
	case !storeID.MatchString(id):
		return "", fmt.Errorf("pointer store: %s holds %s, want 16 hex digits. Try: restore it, or remove it: the pointer has the id, too",
			name, excerpt(data))
	case p.Store != "" && p.Store != id:
		return "", fmt.Errorf("the pointer in %s is of store %s, and %s says store %s: one of the two was copied here. "+
			"Try: put the directory's own files back",
			f.dir, p.Store, name, id)
	}
	return id, nil
}

// SetID gives the store its id, once and on disk.
func (f *Directory) SetID(ctx context.Context, id string) error {
	if !storeID.MatchString(id) {
		return fmt.Errorf("pointer store: %q is no id of a store", id)
	}
	have, err := f.ID(ctx)
	if err != nil {
		return err
	}
	if have != "" && have != id {
		return fmt.Errorf("pointer store %s is store %s already, and does not become %s", f.dir, have, id)
	}
	file, err := f.pending(idName, []byte(id+"\n"), 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = file.Cleanup() }()
	if err := file.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Join(f.dir, idName), err)
	}
	return f.sync()
}
