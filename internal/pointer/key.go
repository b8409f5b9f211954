package pointer

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The two halves of a store's key as text: a word and 32 bytes in base64. The word tells a person
// who finds one what it is, and which of the two may be shown.
const (
	publicWord = "ebs-release-public:"
	secretWord = "ebs-release-SECRET:"
	mostKeys   = 16 // that a pointer may be signed by
)

// PublicKey is whom a member believes.
type PublicKey struct{ key [ed25519.PublicKeySize]byte }

// SecretKey signs pointers. It never leaves the release server.
type SecretKey struct{ key ed25519.PrivateKey }

// NewKey makes a key.
func NewKey() (SecretKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return SecretKey{}, fmt.Errorf("make a key: %w", err)
	}
	return SecretKey{key}, nil
}

// ParseSecretKey reads what SecretKey.Text wrote. The error does not show what it read.
func ParseSecretKey(text string) (SecretKey, error) {
	seed, err := parseKey(text, secretWord)
	if err != nil {
		return SecretKey{}, err
	}
	return SecretKey{ed25519.NewKeyFromSeed(seed)}, nil
}

// Text is the key as a line, to be kept where only root reads.
func (s SecretKey) Text() string {
	return secretWord + base64.StdEncoding.EncodeToString(s.key.Seed()) + "\n"
}

// String keeps the key out of every output.
func (SecretKey) String() string { return "a secret key" }

// GoString does the same for %#v.
func (SecretKey) GoString() string { return "a secret key" }

// IsZero says that there is no key.
func (s SecretKey) IsZero() bool { return s.key == nil }

// Public is the half that members get.
func (s SecretKey) Public() (p PublicKey) {
	copy(p.key[:], s.key[ed25519.SeedSize:])
	return p
}

// ParsePublicKey reads what PublicKey.String wrote.
func ParsePublicKey(text string) (p PublicKey, err error) {
	data, err := parseKey(text, publicWord)
	copy(p.key[:], data)
	return p, err
}

// ParsePublicKeys reads several.
func ParsePublicKeys(lines []string) (keys []PublicKey, err error) {
	if len(lines) > mostKeys {
		return nil, fmt.Errorf("%d public keys, want at most %d", len(lines), mostKeys)
	}
	for _, line := range lines {
		key, err := ParsePublicKey(line)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func (p PublicKey) String() string { return publicWord + base64.StdEncoding.EncodeToString(p.key[:]) }

// ID is short, for people and for finding a signature: 16 hex digits.
func (p PublicKey) ID() string {
	sum := sha256.Sum256(p.key[:])
	return hex.EncodeToString(sum[:8])
}

func parseKey(text, word string) ([]byte, error) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(text), word)
	data, err := base64.StdEncoding.Strict().DecodeString(rest)
	if !ok || err != nil || len(data) != ed25519.SeedSize {
		return nil, fmt.Errorf("it is no key: want %s and 44 letters of base64", word)
	}
	return data, nil
}

// CheckTrusted checks the setting trusted-keys: STORE:KEY, with the id of the store.
func CheckTrusted(item string) error {
	_, _, err := parseTrusted(item)
	return err
}

func parseTrusted(item string) (store string, key PublicKey, err error) {
	store, text, ok := strings.Cut(item, ":")
	if !ok || !storeID.MatchString(store) {
		return "", key, fmt.Errorf("trusted key %.60q: want STORE:KEY, with the 16 hex digits of the store (ebs-release key show)", item)
	}
	if key, err = ParsePublicKey(text); err != nil {
		return "", key, fmt.Errorf("trusted key of store %s: %w", store, err)
	}
	return store, key, nil
}

// Trusted returns the keys that the items of the setting trusted-keys name for a store. An error
// also when there are items, and none for this store: then it is a foreign one.
func Trusted(items []string, store string) (keys []PublicKey, err error) {
	for _, item := range items {
		of, key, err := parseTrusted(item)
		if err != nil {
			return nil, err
		}
		if of == store {
			keys = append(keys, key)
		}
	}
	if len(items) > 0 && len(keys) == 0 {
		return nil, fmt.Errorf("%w: trusted-keys names no key for store %q", ErrUnsigned, store)
	}
	return keys, nil
}

// ErrUnsigned says that a pointer is not signed by anybody who is believed.
var ErrUnsigned = errors.New("the pointer is not signed by a trusted key")

// CheckSignature is nil when one of the keys signed the document, as it was read. It is an
// ErrUnsigned otherwise, also for a document that cannot be signed at all.
func CheckSignature(document []byte, keys []PublicKey) error {
	e, err := openEnvelope(document)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnsigned, err)
	}
	signed := signedText(e.Payload)
	var by []string
	for _, s := range e.Signatures {
		by = append(by, excerpt([]byte(s.Key)))
		i := slices.IndexFunc(keys, func(k PublicKey) bool { return k.ID() == s.Key })
		if i >= 0 && ed25519.Verify(keys[i].key[:], signed, s.Ed25519) {
			return nil
		}
		if i >= 0 {
			return fmt.Errorf("%w: the signature by key %s does not fit what it says: it was changed after it was signed", ErrUnsigned, s.Key)
		}
	}
	var known []string
	for _, k := range keys {
		known = append(known, k.ID())
	}
	return fmt.Errorf("%w: it is signed by %s, and trusted here is %s", ErrUnsigned, list(by), list(known))
}

func list(names []string) string {
	if len(names) == 0 {
		return "nobody"
	}
	return strings.Join(names, ", ")
}
