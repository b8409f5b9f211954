package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"ebs-release/internal/advice"
	"ebs-release/internal/catchup"
	"ebs-release/internal/manifest"
	"ebs-release/internal/pointer"
)

// A rotation is what the file of the secret keys says: two keys, of which the new one is the first.
// Both sign and both travel, so that who knows only the old one goes on. The file is replaced in
// one step, and Settle brings all else there: what was cut off anywhere goes on by the same call.

// Rotate makes a new key that signs beside the old one, unless that was done; and for a store that
// others can read (packs) a new one of the packs, which are encrypted for both.
func (k Keys) Rotate(ctx context.Context, packs bool, did func(format string, args ...any)) error {
	held, err := k.held()
	if err == nil && len(held) == 1 && packs { // first: with the signing key it is done
		err = k.rotatePackKey(ctx, did)
	}
	if err == nil && len(held) == 1 {
		var key heldKey
		if key, err = newKey(); err == nil {
			err = k.writeKeys(os.Rename, key, held[0])
		}
		if err == nil {
			did("made the key %s, which signs beside %s, in %s: back it up", key.Public().ID(), held[0].Public().ID(), k.Path)
		}
	}
	if err != nil {
		return err
	}
	return k.Settle(ctx, did)
}

func (k Keys) rotatePackKey(ctx context.Context, did func(format string, args ...any)) error {
	have, err := k.On.PackKey()
	if err != nil {
		return err
	}
	if _, begun := catchup.NewestPackKey(have); begun {
		return nil
	}
	return k.makePackKey(ctx, have, did)
}

// Finish drops the old keys. That nobody needs it any more is for the caller to see.
func (k Keys) Finish(ctx context.Context, did func(format string, args ...any)) error {
	held, err := k.held()
	if err == nil && len(held) > 1 {
		if err = k.writeKeys(os.Rename, held[0]); err == nil {
			did("dropped the key %s, in %s: back it up", IDs(ringOf(held[1:]).Trusted), k.Path)
		}
	}
	if err != nil {
		return err
	}
	if err := k.Settle(ctx, did); err != nil {
		return err
	}
	have, err := k.On.PackKey()
	if newest, rotating := catchup.NewestPackKey(have); err == nil && rotating {
		if err = k.On.SetPackKey(ctx, newest); err == nil {
			did("dropped the old key of the packs, on the volume")
		}
	}
	return err
}

// Compromised makes a new key in the place of all others, and for a store that others can read
// (packs) a new one of the packs. Done once more it does that once more, but for one that was cut
// off.
func (k Keys) Compromised(ctx context.Context, packs bool, did func(format string, args ...any)) error {
	cut, err := k.cutOff()
	if err != nil {
		return err
	}
	if !cut {
		held, err := k.held()
		if err != nil {
			return err
		}
		if packs { // first: with the signing key it is done
			if err := k.makePackKey(ctx, "", did); err != nil {
				return err
			}
		}
		key, err := newKey()
		if err == nil {
			err = k.writeKeys(os.Rename, key)
		}
		if err != nil {
			return err
		}
		did("made the key %s, in %s: back it up; %s is believed here no more", key.Public().ID(), k.Path, IDs(ringOf(held).Trusted))
	}
	return k.Settle(ctx, did)
}

// cutOff: the secret file has the new key, and the public one not yet.
func (k Keys) cutOff() (bool, error) {
	known, err := readPublicKeys(k.publicPath())
	if err != nil || len(known) == 0 {
		return false, err
	}
	held, err := readKeys(k.Path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return !slices.ContainsFunc(held, func(h heldKey) bool { return slices.Contains(known, h.Public()) }), err
}

// held are the secret keys of a server that can sign.
func (k Keys) held() ([]heldKey, error) {
	ring, err := k.Open()
	if err == nil && len(ring.Signing) == 0 {
		err = advice.Try(fmt.Errorf("the release volume %s has no keys", k.On.Root()), "ebs-release key init")
	}
	if err != nil {
		return nil, err
	}
	return readKeys(k.Path)
}

// Behind says whether who holds a generation, or is made of a snapshot of it, may know only older
// keys than the pointer's.
func Behind(p pointer.Pointer, generation int64) bool { return generation < p.KeysSince }

// PacksBehind says whether who is on a release may have come there by a pack from before the newest
// key, and so know only an older one of the packs.
func (r Ring) PacksBehind(release string) bool {
	made, ok := manifest.IDTime(release)
	return !ok || made.Before(r.Newest)
}
