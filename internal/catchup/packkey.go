package catchup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"filippo.io/age"
)

const (
	betweenKeys  = ","
	mostPackKeys = 4
)

// packKeys are what the line of a volume says: what opens the packs of its store. While the key is
// rotated there are two, the new one first: packs are encrypted for both, and have both in them, so
// that a member that catches up by one gets the new key with it.
type packKeys []*age.X25519Identity

// parsePackKeys does not say what it read: it is secret.
func parsePackKeys(text string) (keys packKeys, err error) {
	lines := strings.Split(text, betweenKeys)
	if len(lines) > mostPackKeys {
		return nil, fmt.Errorf("%d keys, want at most %d", len(lines), mostPackKeys)
	}
	for _, line := range lines {
		key, err := age.ParseX25519Identity(line)
		if err != nil {
			return nil, errors.New("it is no key")
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// Unwrap is age.Identity's: one of them opens it.
func (k packKeys) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	for _, key := range k {
		if opened, err := key.Unwrap(stanzas); !errors.Is(err, age.ErrIncorrectIdentity) {
			return opened, err
		}
	}
	return nil, age.ErrIncorrectIdentity
}

// Wrap is age.Recipient's: each of them can open it.
func (k packKeys) Wrap(fileKey []byte) (all []*age.Stanza, err error) {
	for _, key := range k {
		stanzas, err := key.Recipient().Wrap(fileKey)
		if err != nil {
			return nil, err
		}
		all = append(all, stanzas...)
	}
	return all, nil
}

// takePackKeys takes over the keys of a pack, when they go on from the newest one of the volume: it
// may be a pack of an earlier rotation.
func (v *Volume) takePackKeys(ctx context.Context, keys string) error {
	have, err := v.PackKey()
	if err != nil {
		return err
	}
	newest, _ := NewestPackKey(have)
	if at := slices.Index(strings.Split(keys, betweenKeys), newest); at < 1 {
		return nil
	}
	if _, err := parsePackKeys(keys); err != nil {
		return fmt.Errorf("the keys in the pack: %w", err)
	}
	return v.SetPackKey(ctx, keys)
}

// NewPackKey makes the line of a volume with a new key, before those that it has; "": none.
func NewPackKey(have string) (string, error) {
	key, err := age.GenerateX25519Identity()
	if err != nil {
		return "", fmt.Errorf("make the key of the packs: %w", err)
	}
	if have == "" {
		return key.String(), nil
	}
	return key.String() + betweenKeys + have, nil
}

// NewestPackKey is the line with the newest key alone, and whether it had more.
func NewestPackKey(have string) (newest string, rotating bool) {
	newest, _, rotating = strings.Cut(have, betweenKeys)
	return newest, rotating
}
