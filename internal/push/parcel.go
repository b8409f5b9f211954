package push

import (
	"bytes"
	"fmt"
	"sync"

	"ebs-release/internal/release"
)

// Parcels works out what a release needs over each base once, for all members: what one more member costs must not depend on the size
// of the tree.
type Parcels struct {
	mu      sync.Mutex
	made    map[parcelKey]func() (*parcel, error)
	digests map[parcelKey]func() (string, error)
}

type parcelKey struct{ root, id, base string }

// parcel is what travels to a member that holds a certain base. It is not changed once it is made.
type parcel struct {
	id     string
	digest string
	delta  []byte // for the agent's stage
	names  []byte // for rsync: NUL after each
	files  int
}

// NewParcels returns an empty set.
func NewParcels() *Parcels {
	return &Parcels{made: map[parcelKey]func() (*parcel, error){}, digests: map[parcelKey]func() (string, error){}}
}

// digest is that of a release on this side: read once, however many members ask for a base.
func (p *Parcels) digest(tree release.Tree, id string) (string, error) {
	key := parcelKey{root: tree.Root, id: id}
	p.mu.Lock()
	once, ok := p.digests[key]
	if !ok {
		once = sync.OnceValues(func() (string, error) { return tree.ManifestDigest(id) })
		p.digests[key] = once
	}
	p.mu.Unlock()
	return once()
}

func (p *Parcels) get(tree release.Tree, id, base string) (*parcel, error) {
	key := parcelKey{tree.Root, id, base}
	p.mu.Lock()
	once, ok := p.made[key]
	if !ok {
		once = sync.OnceValues(func() (*parcel, error) { return pack(tree, id, base) })
		p.made[key] = once
	}
	p.mu.Unlock()
	return once()
}

func pack(tree release.Tree, id, base string) (*parcel, error) {
	next, err := tree.Manifest(id)
	if err != nil {
		return nil, err
	}
	var old release.Manifest
	if base != "" {
		if old, err = tree.Manifest(base); err != nil {
			return nil, err
		}
	}
	p := &parcel{id: id, digest: next.Digest()}
	var delta, names bytes.Buffer
	if err := release.Diff(old, next).Encode(&delta); err != nil {
		return nil, fmt.Errorf("delta of %s: %w", id, err)
	}
	for _, e := range release.Missing(old, next) {
		// "./": a name that begins with a dash, # or ; is a name.
		names.WriteString("./" + e.Path + "\x00")
		p.files++
	}
	p.delta, p.names = delta.Bytes(), names.Bytes()
	return p, nil
}
