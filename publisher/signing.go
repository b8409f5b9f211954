package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"ebs-release/internal/advice"
	"ebs-release/internal/config"
	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/server"
)

// signing is what a run knows of the keys of its store. P0 and doctor say what is wrong; a verb
// that only reads goes on.
type signing struct {
	server.Ring

	path string
	err  error // why the pointer cannot be written
}

// sign makes the store sign what it writes and believe only what is signed, by the keys of this
// server. That the volume cannot be opened is for P0 to say.
func sign(store *pointer.Store, volume *releaseVolume, path string) signing {
	v, err := volume.open()
	if err != nil {
		v = nil
	}
	s := signing{path: path}
	s.Ring, s.err = server.Keys{Path: path, On: v}.Open()
	store.SignWith(s.Trusted, s.Signing...)
	volume.keys = s.Public()
	return s
}

// believes is an error when this server knows keys of its store and cannot read them: then nothing
// in the store counts.
func (s signing) believes() error {
	if len(s.Trusted) > 0 {
		return nil
	}
	return s.err
}

// settle makes the volume say the keys of this server, whatever its owner wrote there. A publish
// does not go on with keys of before: a verb that has changed them since it began has the lock of
// the volume no more.
func (s signing) settle(ctx context.Context, v *release.Volume, did func(format string, args ...any)) error {
	keys := server.Keys{Path: s.path, On: v}
	if now, err := keys.Open(); err != nil || !slices.Equal(now.Trusted, s.Trusted) {
		changed := advice.Try(errors.New("the keys of this server changed while this publish began; nothing was changed"), "once more")
		return exit.With(exit.Conflict, errors.Join(changed, err))
	}
	return keys.Settle(ctx, did)
}

const tryKeyInit = "ebs-release key init, when all agents can read a signed pointer (ebs-release key --help)"

// signingKey is P0's: what is written has to be signed, when who reads it wants that.
func (c p0Checks) signingKey(ctx context.Context) error {
	known := len(c.signs.Trusted) > 0
	switch {
	case c.signs.err != nil && known && c.verb == verbConverge: // it reads only
		return nil
	case c.signs.err != nil:
		return c.signs.err
	}
	found, err := c.store.Look(ctx)
	switch {
	case err != nil:
		return err
	case known:
		err := c.signs.newest(found.Pointer)
		if err == nil && c.verb == verbDoctor && len(c.signs.Signing) > 1 {
			err = advice.Try(warn("the key is being rotated: %s sign", server.IDs(c.signs.Trusted)),
				"ebs-release key rotate --finish, which says who has only the old one")
		}
		return err
	case found.Schema == pointer.Signed:
		return advice.Try(fmt.Errorf("the pointer is signed by key %s, and the release volume has no keys: it is a copy from before that",
			strings.Join(found.SignedBy(), ", ")),
			"put that key file in place (signing-key), then ebs-release init")
	case c.verb == verbConverge:
		return nil
	}
	return advice.Try(errors.New("the release volume has no keys: nobody can tell who wrote the pointer, and members believe no packs"),
		tryKeyInit)
}

// newest is an error when the pointer, which was believed, names a newer key than this server has.
func (s signing) newest(p pointer.Pointer) error {
	if len(p.Keys) == 0 || slices.Contains(s.Public(), p.Keys[0]) {
		return nil
	}
	key, err := pointer.ParsePublicKey(p.Keys[0])
	if err != nil {
		return err
	}
	return advice.Try(fmt.Errorf("the store has the newer key %s, which is not in %s: another release server has rotated the key",
		key.ID(), s.path), "copy its file here")
}

// keyPlaces is where the keys are, for a verb that only reads.
type keyPlaces struct{ volume, key string }

func placesOf(values config.Values) keyPlaces {
	return keyPlaces{values.Get("mount-point"), values.Get("signing-key")}
}

// wrong says what stands in the way of the next publish; nil also when it cannot be seen from here:
// by somebody who is not root, or where no release volume is mounted.
func (k keyPlaces) wrong(ctx context.Context, store *pointer.Store) error {
	v, err := release.Open(k.volume)
	if err != nil {
		return nil //nolint:nilerr // see above
	}
	defer func() { _ = v.Close() }()
	ring, err := server.Keys{Path: k.key, On: v}.Open()
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
