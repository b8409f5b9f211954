package push

import (
	"bytes"
	"context"
	"io"
	"sync"

	"ebs-release/internal/release"
)

// Parcels works out what a release needs over each base once, for all members: what one more member
// costs must not depend on the size of the tree.
type Parcels struct {
	mu      sync.Mutex
	made    map[parcelKey]func() (*parcel, error)
	digests map[parcelKey]func() (string, error)
}

type parcelKey struct {
	from     *release.Volume
	id, base string
}

// parcel is what travels to a member that holds a certain base. It is not changed once it is made.
type parcel struct {
	release.Pack
	from *release.Volume
	id   string
	size int64                  // of its files, as they are sent
	kept func() ([]byte, error) // its files as they are sent, read once
}

// keptMost is how many bytes of files are kept in memory, instead of being read again for each
// member.
const keptMost = 16 << 20

// NewParcels returns an empty set.
func NewParcels() *Parcels {
	return &Parcels{made: map[parcelKey]func() (*parcel, error){}, digests: map[parcelKey]func() (string, error){}}
}

// digest is that of a release on this side: read once, however many members ask for a base.
func (p *Parcels) digest(from *release.Volume, id string) (string, error) {
	key := parcelKey{from: from, id: id}
	p.mu.Lock()
	once, ok := p.digests[key]
	if !ok {
		once = sync.OnceValues(func() (string, error) { return from.ManifestDigest(id) })
		p.digests[key] = once
	}
	p.mu.Unlock()
	return once()
}

func (p *Parcels) get(from *release.Volume, id, base string) (*parcel, error) {
	key := parcelKey{from, id, base}
	p.mu.Lock()
	once, ok := p.made[key]
	if !ok {
		once = sync.OnceValues(func() (*parcel, error) { return pack(from, id, base) })
		p.made[key] = once
	}
	p.mu.Unlock()
	return once()
}

func pack(from *release.Volume, id, base string) (*parcel, error) {
	packed, err := from.Pack(base, id)
	if err != nil {
		return nil, err
	}
	p := &parcel{Pack: packed, from: from, id: id, size: release.StreamSize(packed.Missing)}
	p.kept = sync.OnceValues(func() ([]byte, error) {
		var b bytes.Buffer
		b.Grow(int(p.size))
		err := from.Send(context.Background(), &b, id, p.Missing)
		return b.Bytes(), err
	})
	return p, nil
}

// send writes the files.
func (p *parcel) send(ctx context.Context, w io.Writer) error {
	if p.size > keptMost {
		return p.from.Send(ctx, w, p.id, p.Missing)
	}
	files, err := p.kept()
	if err != nil {
		return err
	}
	_, err = w.Write(files)
	return err
}
