package tree

import (
	"errors"
	"fmt"

	"ebs-release/internal/boot"
	"ebs-release/internal/catchup"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
)

// Came is what a volume says of itself that EC2 may have brought: only what is read, as nobody
// knows yet whose it is.
type Came struct {
	Origin     release.Origin
	Generation int64 // its fence
}

// Suits says whether the volume may become what is wanted: it is of the very store, and the pointer
// is signed by a key that counts, one of the volume's or of trusted-keys. Who came without having
// been asked for has to have one: any other volume is known by its tags. The errors are an
// ErrMismatch or an ErrUnsigned, or say that nobody knows.
func (v Volume) Suits(want boot.Wanted) (c Came, err error) {
	id, err := v.StoreID()
	if err == nil && (id == "" || id != want.Store) {
		err = Means(fmt.Errorf("it is of store %q, the pointer is of store %q", id, want.Store), boot.ErrMismatch)
	}
	if err != nil {
		return c, err
	}
	if c.Origin, err = v.Volume.Origin(); err != nil {
		return c, err
	}
	if c.Generation, err = v.Generation(); err != nil {
		return c, err
	}
	keys, err := catchup.KeysOf(v.Volume)
	if err == nil && len(keys) == 0 && len(v.Trusted) == 0 {
		err = fmt.Errorf("%w: it has no keys", pointer.ErrUnsigned)
	}
	if err == nil {
		_, err = v.believe(want)
	}
	if errors.Is(err, pointer.ErrUnsigned) {
		return c, Means(err, boot.ErrUnsigned)
	}
	return c, whatItMeans(err)
}
