package pointer

import (
	"context"
	"errors"
	"fmt"

	"ebs-release/internal/advice"
	"ebs-release/internal/store"
)

// Found is the pointer as it lies in the store, whoever wrote it.
type Found struct {
	Pointer
	document []byte
	version  store.Version
}

// Document is the pointer as it lies there.
func (s *Store) Document(ctx context.Context) ([]byte, error) {
	f, err := s.find(ctx)
	return f.document, err
}

// Document is what lies there.
func (f Found) Document() []byte { return f.document }

// CheckSignature is nil when one of the keys signed it.
func (f Found) CheckSignature(keys []PublicKey) error { return CheckSignature(f.document, keys) }

// SignedBy returns the short ids of the keys that it says it is signed by, fit to be shown. Whether
// that is so, only CheckSignature tells.
func (f Found) SignedBy() (ids []string) {
	e, err := openEnvelope(f.document)
	if err != nil {
		return nil
	}
	for _, s := range e.Signatures {
		id := s.Key
		if !keyID.MatchString(id) {
			id = excerpt([]byte(id))
		}
		ids = append(ids, id)
	}
	return ids
}

// Look returns the pointer without asking who signed it, for a person who looks at it; a zero one
// when nothing is published yet.
func (s *Store) Look(ctx context.Context) (Found, error) { return s.find(ctx) }

// SignFound writes what Look returned under the keys of SignWith: the same generation, another
// revision. Which keys it names for the next ones does not count, as somebody else may have written
// them. ErrConflict: something else lies there by now. ErrUnclear: it may be written.
func (s *Store) SignFound(ctx context.Context, f Found) error {
	if len(s.keys) == 0 || f.Generation == 0 {
		return errors.New("sign the pointer: there is no key, or no pointer")
	}
	next := f.Pointer
	next.Keys, next.KeysSince = nil, 0
	next.Revision++
	data, err := s.render(next)
	if err != nil {
		return fmt.Errorf("sign the pointer: %w", err)
	}
	switch _, err = s.at.PutIf(ctx, jsonName, data, f.version); {
	case errors.Is(err, store.ErrChanged):
		return advice.Try(fmt.Errorf("%w while it was looked at: it was not signed", ErrConflict), "once more")
	case err != nil:
		return fmt.Errorf("sign the pointer: %w", err)
	}
	if err := s.repair(ctx); err != nil {
		return fmt.Errorf("sign the pointer: it is signed, and what goes with it is not: %w", err)
	}
	return nil
}
