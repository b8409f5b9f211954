package release

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"ebs-release/internal/advice"
	"ebs-release/internal/manifest"
)

// Held is a release that a volume holds, and the digest of its manifest.
type Held struct {
	ID     string `json:"id"`
	Digest string `json:"digest"`
}

// Holds lists what a volume can catch up from. A release whose manifest cannot be read is no part
// of it.
func (v *Volume) Holds() ([]Held, error) {
	ids, err := v.Releases()
	if err != nil {
		return nil, err
	}
	var held []Held
	for _, id := range ids {
		if digest, err := v.ManifestDigest(id); err == nil {
			held = append(held, Held{id, digest})
		}
	}
	return held, nil
}

// Whole says whether a release is here, with this digest, and was left alone. One that somebody
// edited is removed, so that it can be made anew. It stays where it is current, as nothing of what
// is served goes; where somebody else uses it, that is an error.
func (v *Volume) Whole(ctx context.Context, id, digest string) (whole bool, err error) {
	if err := manifest.CheckID(id); err != nil {
		return false, err
	}
	err = v.locked(ctx, func() error {
		whole, err = v.whole(ctx, id, digest)
		return err
	})
	return whole, err
}

func (v *Volume) whole(ctx context.Context, id, digest string) (bool, error) {
	if _, err := v.root.Lstat(releasesDir + "/" + id); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err := v.checkRelease(id, digest); err != nil {
		return false, advice.Try(advice.Errorf("%w, and what stands there is in the way", err), "rm -r %s", v.Path(id))
	}
	on, err := v.inventory()
	if err != nil || id == on.Current {
		return true, err
	}
	edited := v.Untouched(ctx, id)
	if edited == nil || ctx.Err() != nil {
		return true, ctx.Err()
	}
	if who := v.inUse([]string{id})[id]; who != "" {
		return false, fmt.Errorf("%w; it cannot be made anew, as it is in use by %s", edited, who)
	}
	return false, v.remove(ctx, id)
}
