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
	trusted []pointer.PublicKey // whom the store believes; none: its pointers are not signed
	err     error               // why the pointer cannot be written
}

// sign makes the store sign what it writes and believe only what is signed, where the release
// volume has keys. That it cannot be opened is for P0 to say.
func sign(store *pointer.Store, volume *releaseVolume, path string) signing {
	v, err := volume.open()
	if err != nil {
		return signing{}
	}
	secret, trusted, err := server.Keys{Path: path, On: v}.Open()
	store.SignWith(secret, trusted...)
	return signing{trusted, err}
}

// unchanged makes sure that a publish does not go on with keys of before. A `key init` that ran
// since then has the lock of the volume no more.
func (s signing) unchanged(v *release.Volume) error {
	lines, err := v.Keys()
	if err == nil && !slices.EqualFunc(lines, s.trusted, func(line string, k pointer.PublicKey) bool { return line == k.String() }) {
		err = exit.With(exit.Conflict, advice.Try(
			errors.New("the keys of the release volume changed while this publish began; nothing was changed"), "once more"))
	}
	return err
}

const tryKeyInit = "ebs-release key init, when all agents can read a signed pointer (ebs-release key --help)"

// signingKey is P0's: what is written has to be signed, when who reads it wants that.
func (c preflight) signingKey(ctx context.Context) error {
	known := len(c.signs.trusted) > 0
	switch {
	case c.signs.err != nil && known && c.verb == verbConverge: // it reads only
		return nil
	case c.signs.err != nil || known:
		return c.signs.err
	}
	found, err := c.store.Look(ctx)
	switch {
	case err != nil:
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
	_, trusted, err := server.Keys{Path: k.key, On: v}.Open()
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("nothing can be published: %w", err)
	}
	if len(trusted) == 0 {
		return nil
	}
	found, err := store.Look(ctx)
	if err != nil || found.Generation == 0 {
		return err
	}
	if err := found.CheckSignature(trusted); err != nil {
		return advice.Try(fmt.Errorf("nothing can be published: %w", err),
			"look who wrote it (ebs-release key show); when it is right: ebs-release key sign")
	}
	return nil
}
