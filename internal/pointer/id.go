package pointer

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"ebs-release/internal/advice"
	"ebs-release/internal/store"
)

// ID returns the id of the store: 16 hex digits; "" when it has none yet. A pointer that says
// another one is an error: one of them was copied here.
func (s *Store) ID(ctx context.Context) (string, error) {
	id, _, err := s.id(ctx)
	return id, err
}

// id returns the version of the document as well; "": the id, if there is one, is the pointer's.
func (s *Store) id(ctx context.Context) (string, store.Version, error) {
	p, err := s.Read(ctx)
	if err != nil {
		return "", "", err
	}
	data, version, err := store.ReadAll(ctx, s.at, idName, MaxSize, "")
	if errors.Is(err, store.ErrNotFound) {
		return p.Store, "", nil
	}
	if err != nil {
		return "", "", fmt.Errorf("pointer store: %w", err)
	}
	id := strings.TrimSuffix(string(data), "\n")
	switch {
	case !storeID.MatchString(id):
		return "", "", advice.Try(fmt.Errorf("pointer store: %s/%s holds %s, want 16 hex digits", s.at, idName, excerpt(data)),
			"restore it, or remove it: the pointer has the id, too")
	case p.Store != "" && p.Store != id:
		return "", "", advice.Try(fmt.Errorf("the pointer in %s is of store %s, and %s there says store %s: one of the two was copied here",
			s.at, p.Store, idName, id),
			"put the store's own files back")
	}
	return id, version, nil
}

// SetID gives the store its id, once.
func (s *Store) SetID(ctx context.Context, id string) error {
	if !storeID.MatchString(id) {
		return fmt.Errorf("pointer store: %q is no id of a store", id)
	}
	have, version, err := s.id(ctx)
	switch {
	case err != nil:
		return err
	case have != "" && have != id:
		return fmt.Errorf("pointer store %s is store %s already, and does not become %s", s.at, have, id)
	case have == id && version != "":
		return nil
	}
	if _, err := s.at.PutIf(ctx, idName, []byte(id+"\n"), version); err != nil {
		return fmt.Errorf("pointer store: give it an id: %w", err)
	}
	return nil
}
