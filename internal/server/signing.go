package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"ebs-release/internal/advice"
	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
)

// TryKeyInit is what to do where a release volume has no keys.
const TryKeyInit = "ebs-release key init, when all agents can read a signed pointer (ebs-release key --help)"

// Signing is what a run knows of the keys of its store. P0 and doctor say what is wrong; a verb
// that only reads goes on.
type Signing struct {
	Ring

	Path string
	Err  error // why the pointer cannot be written
}

// Sign makes the store sign what it writes and believe only what is signed, by the keys of this
// server.
func (k Keys) Sign(store *pointer.Store) Signing {
	s := Signing{Path: k.Path}
	s.Ring, s.Err = k.Open()
	store.SignWith(s.Trusted, s.Signing...)
	return s
}

// Believes is an error when this server knows keys of its store and cannot read them: then nothing
// in the store counts.
func (s Signing) Believes() error {
	if len(s.Trusted) > 0 {
		return nil
	}
	return s.Err
}

// Settle makes the volume say the keys of this server, whatever its owner wrote there. A publish
// does not go on with keys of before: a verb that has changed them since it began has the lock of
// the volume no more.
func (s Signing) Settle(ctx context.Context, v *release.Volume, did func(format string, args ...any)) error {
	keys := Keys{Path: s.Path, On: v}
	if now, err := keys.Open(); err != nil || !slices.Equal(now.Trusted, s.Trusted) {
		changed := advice.Try(errors.New("the keys of this server changed while this publish began; nothing was changed"), "once more")
		return exit.With(exit.Conflict, errors.Join(changed, err))
	}
	return keys.Settle(ctx, did)
}

// Newest is an error when the pointer, which was believed, names a newer key than this server has.
func (s Signing) Newest(p pointer.Pointer) error {
	if len(p.Keys) == 0 || slices.Contains(s.Public(), p.Keys[0]) {
		return nil
	}
	key, err := pointer.ParsePublicKey(p.Keys[0])
	if err != nil {
		return err
	}
	return advice.Try(fmt.Errorf("the store has the newer key %s, which is not in %s: another release server has rotated the key",
		key.ID(), s.Path), "copy its file here")
}

// Wrong says what stands in the way of the next publish, with the release volume that is mounted at
// point; nil also when it cannot be seen from here: by somebody who is not root, or where none is.
func (k Keys) Wrong(ctx context.Context, store *pointer.Store, point string) error {
	v, err := release.Open(point)
	if err != nil {
		return nil //nolint:nilerr // see above
	}
	defer func() { _ = v.Close() }()
	k.On = v
	ring, err := k.Open()
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("nothing can be published: %w", err)
	}
	if len(ring.Trusted) == 0 {
		return nil
	}
	found, err := store.Look(ctx)
	if err != nil || found.Generation == 0 {
		return err
	}
	if err := found.CheckSignature(ring.Trusted); err != nil {
		return advice.Try(fmt.Errorf("nothing can be published: %w", err),
			"look who wrote it (ebs-release key show); when it is right: ebs-release key sign")
	}
	return nil
}
