package push

import (
	"bytes"
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
	packed, err := tree.Pack(base, id)
	if err != nil {
		return nil, err
	}
	p := &parcel{id: id, digest: packed.Digest, delta: packed.Delta, files: len(packed.Missing)}
	var names bytes.Buffer
	for _, e := range packed.Missing {
		// "./": a name that begins with a dash, # or ; is a name.
		names.WriteString("./" + e.Path + "\x00")
	}
	p.names = names.Bytes()
	return p, nil
}
