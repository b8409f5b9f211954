package tree

import (
	"errors"
	"fmt"

	"ebs-release/internal/boot"
	"ebs-release/internal/catchup"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/words"
)

// Came is what a volume says of itself that EC2 may have brought: only what is read, as nobody
// knows yet whose it is.
type Came struct {
	Origin     release.Origin
	Generation int64 // its fence
}

// Suits says whether the volume may become what is wanted: the pointer is signed by a key that
// counts, one of the volume's or of trusted-keys, and it is of the very store. Who came without
// having been asked for has to have a key: any other volume is known by its tags. The errors are an
// ErrMismatch or an ErrUnsigned, or say that nobody knows. With an error, too, comes what the
// volume says of itself: one that has served counts also where it does not believe the pointer.
func (v Volume) Suits(want boot.Wanted) (c Came, err error) {
	var unknown [2]error
	c.Origin, unknown[0] = v.Volume.Origin()
	c.Generation, unknown[1] = v.Generation()
	if err := v.suits(want); err != nil {
		return c, err
	}
	return c, errors.Join(unknown[:]...)
}

// suits looks at who signed the pointer first, as believe does.
func (v Volume) suits(want boot.Wanted) error {
	keys, err := catchup.KeysOf(v.Volume)
	if err == nil && len(keys) == 0 && len(v.Trusted) == 0 {
		err = fmt.Errorf("%w: it has no keys", pointer.ErrUnsigned)
	}
	if err == nil {
		_, err = catchup.Believe(v.Volume, []byte(want.Document), v.Trusted)
	}
	id, storeErr := v.StoreID()
	if storeErr == nil && (id == "" || id != want.Store) {
		storeErr = Means(fmt.Errorf("it is of store %q, the pointer is of store %q", id, want.Store), boot.ErrMismatch)
	}
	switch {
	case errors.Is(err, pointer.ErrUnsigned):
		if storeErr != nil {
			err = fmt.Errorf("%w; and %s", err, words.OneLine(storeErr))
		}
		return Means(err, boot.ErrUnsigned)
	case storeErr != nil:
		return storeErr
	}
	return whatItMeans(err)
}
