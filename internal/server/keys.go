package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/catchup"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
)

// Keys are what the pointer of a store is signed with. The secret halves are in a file of root's on
// the release server. The public ones are beside it, in PATH.pub: whom this server believes, also
// where it has no secret one. The release volume gets them from there, and so each snapshot and
// each member: what its owner writes on the volume, this server does not believe.
type Keys struct {
	Path string // of the secret keys
	On   *release.Volume
}

// Ring is what a server signs with, and whom it believes.
type Ring struct {
	Trusted []pointer.PublicKey // one of them signed what counts; none: the store is from before there were keys
	Signing []pointer.SecretKey // all of them sign, the newest first; none: no pointer can be written
	Since   time.Time           // a snapshot from before has none of these keys
	Newest  time.Time           // when the newest one was made
}

// Public is what the pointer and the volume say of a ring.
func (r Ring) Public() []string { return texts(r.Trusted) }

func ringOf(held []heldKey) (r Ring) {
	if len(held) > 0 {
		r.Newest = held[0].since
	}
	for i, k := range held {
		r.Trusted, r.Signing = append(r.Trusted, k.Public()), append(r.Signing, k.SecretKey)
		if i == 0 || k.since.Before(r.Since) {
			r.Since = k.since
		}
	}
	return r
}

func (k Keys) publicPath() string { return k.Path + ".pub" }

// Open returns the keys. They are none when nobody here or on the volume knows any: the store is
// from before there were keys, and its pointers are not signed. With an error there may still be
// somebody who is trusted: then the pointer can be read, and not written. Without one, nothing can
// be believed.
func (k Keys) Open() (Ring, error) {
	known, err := readPublicKeys(k.publicPath())
	if err != nil {
		return Ring{}, err
	}
	read := Ring{Trusted: known}
	held, err := readKeys(k.Path)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return read, err
	}
	if len(known) == 0 && k.On != nil { // to see whose the volume is, and no more
		if known, err = catchup.KeysOf(k.On); err != nil {
			return read, err
		}
	}
	ring := ringOf(held)
	ours := slices.ContainsFunc(ring.Trusted, func(key pointer.PublicKey) bool { return slices.Contains(known, key) })
	if ours || len(known) == 0 {
		return ring, nil
	}
	return read, k.foreign(known, ring)
}

// foreign says that there is no key here that the store believes.
func (k Keys) foreign(known []pointer.PublicKey, have Ring) error {
	of, id := "this server", ""
	if k.On != nil {
		var err error
		if id, err = k.On.StoreID(); err != nil {
			return err
		}
		of = "the release volume " + k.On.Root()
	}
	if id == "" {
		id = "without an id"
	}
	what := fmt.Sprintf("there is no key in %s", k.Path)
	if len(have.Trusted) > 0 {
		what = fmt.Sprintf("the key in %s is another one, %s", k.Path, IDs(have.Trusted))
	}
	return advice.Try(fmt.Errorf("%s belongs to store %s, whose pointer is signed by key %s, and %s", of, id, IDs(known), what),
		"put the key file of that store's server there, from its backup; when it is lost: ebs-release key init --lost")
}

// IDs are the short ids of keys, for people.
func IDs(keys []pointer.PublicKey) string {
	var ids []string
	for _, k := range keys {
		ids = append(ids, k.ID())
	}
	return strings.Join(ids, ", ")
}

// Make makes the keys that are missing, and says each on did: the secret one and the public one, in
// their files, and for a store that others can read (packs) what opens its packs, on the volume. It
// replaces none.
func (k Keys) Make(ctx context.Context, packs bool, did func(format string, args ...any)) error {
	ring, err := k.Open()
	if err == nil && len(ring.Signing) == 0 {
		err = k.create(did)
	}
	if err == nil {
		err = k.Settle(ctx, did)
	}
	if err != nil || !packs {
		return err
	}
	if have, err := k.On.PackKey(); err != nil || have != "" {
		return err
	}
	return k.makePackKey(ctx, "", did)
}

// makePackKey puts a new one before those that are to count as well.
func (k Keys) makePackKey(ctx context.Context, have string, did func(format string, args ...any)) error {
	line, err := catchup.NewPackKey(have)
	if err == nil {
		err = k.On.SetPackKey(ctx, line)
	}
	if err == nil {
		did("made the key of the packs, on the volume")
	}
	return err
}

// Replace is Make for a server whose secret key is lost: from now on the key in the file is the
// only one that it believes. It is made where there is none.
func (k Keys) Replace(ctx context.Context, did func(format string, args ...any)) error {
	if ring, err := k.Open(); err == nil && len(ring.Signing) > 0 {
		return fmt.Errorf("the key of the release volume %s is not lost: it is in %s", k.On.Root(), k.Path)
	}
	if _, err := os.Lstat(k.Path); errors.Is(err, fs.ErrNotExist) {
		if err := k.create(did); err != nil {
			return err
		}
	}
	return k.Settle(ctx, did)
}

// create makes the first key.
func (k Keys) create(did func(format string, args ...any)) error {
	key, err := newKey()
	if err == nil {
		err = k.writeKeys(os.Link, key)
	}
	if err == nil {
		did("made the key %s that the pointer is signed by, in %s: back it up", key.Public().ID(), k.Path)
	}
	return err
}

// Settle makes the public file and the volume say what the secret file says; where there is none,
// it makes the volume say what the public one says.
func (k Keys) Settle(ctx context.Context, did func(format string, args ...any)) error {
	known, err := readPublicKeys(k.publicPath())
	if err != nil {
		return err
	}
	switch held, err := readKeys(k.Path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case !slices.Equal(ringOf(held).Trusted, known):
		known = ringOf(held).Trusted
		if err := k.writePublicKeys(known); err != nil {
			return err
		}
		did("this server believes pointers that key %s signed (%s)", IDs(known), k.publicPath())
	}
	// What cannot be read there is written anew, too.
	if lines, err := k.On.Keys(); len(known) == 0 || err == nil && slices.Equal(lines, texts(known)) {
		return nil
	}
	if err := k.On.SetKeys(ctx, texts(known)); err != nil {
		return err
	}
	did("the volume believes pointers that key %s signed", IDs(known))
	return nil
}
