package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/snapshot"
	"ebs-release/internal/volume"
)

// One volume, one store: the store has an id, which lies in the pointer store, in the pointer, on
// the release volume (as a file, and as a tag), on its snapshots, and so on what members make of
// them. Two stores on one volume would ship each other's releases and delete each other's
// snapshots.

// anyStore stands for the id of a store that has none yet, where EC2 is only asked whether it would
// allow something.
const anyStore = "0000000000000000"

// ownership is all that says whose a release volume is.
type ownership struct {
	directory string   // the pointer store
	own       string   // its id; "": none yet
	volumeID  string   // empty: not known
	file, tag string   // what the volume says, in two places; "": nothing
	snapshots []string // the stores that snapshots of the volume are of
}

// decide returns the id that the store has with this volume; "": neither has one yet, and nothing
// speaks against a new one.
func (o ownership) decide() (string, error) {
	vol := cmp.Or(o.volumeID, "the release volume")
	on := cmp.Or(o.file, o.tag)
	switch {
	case o.file != "" && o.tag != "" && o.file != o.tag:
		return "", fmt.Errorf("%s belongs to store %s by the file .ebs-release/store on it, and to store %s by its tag %s. "+
			"Try: correct the tag, if somebody set it", vol, o.file, o.tag, volume.TagStore)
	case on != "" && o.own == "":
		return "", fmt.Errorf("%s belongs to store %s, and the pointer store %s is not that store. Try: correct pointer-store; "+
			"or, if the directory of store %s is lost and this one takes its place, `ebs-release init --store %s`", vol, on, o.directory, on, on)
	case on != "" && o.own != on:
		return "", fmt.Errorf("%s belongs to store %s, and the pointer store %s is store %s. "+
			"Try: correct pointer-store or mount-point, or give this store a volume of its own: unmount this one, and run `ebs-release init`",
			vol, on, o.directory, o.own)
	case on != "":
		return on, nil
	}
	for _, other := range o.snapshots {
		if other != "" && other != o.own {
			return "", fmt.Errorf("%s says no store, but it has snapshots of store %s, and the pointer store %s is %s. "+
				"Try: correct pointer-store, or give this store a volume of its own", vol, other, o.directory, cmp.Or(o.own, "none yet"))
		}
	}
	return o.own, nil
}

// ownership looks at the pointer store and at the volume, whose tag the caller has seen.
func (c preflight) ownership(ctx context.Context, tag string) (o ownership, err error) {
	o = ownership{directory: c.values.Get("pointer-store"), volumeID: c.maker.VolumeID, tag: tag}
	if o.own, err = c.store.ID(ctx); err != nil {
		return o, err
	}
	o.file, err = c.tree.StoreID()
	return o, err
}

// storeOf says which store the volume is of, or refuses it. It changes nothing.
func (c preflight) storeOf(ctx context.Context, tag string) (string, error) {
	o, err := c.ownership(ctx, tag)
	if err != nil {
		return "", err
	}
	if o.file == "" && o.tag == "" { // once in the life of a volume
		old, err := c.maker.List(ctx)
		if err != nil {
			return "", err
		}
		for _, s := range old {
			o.snapshots = append(o.snapshots, s.Store)
		}
	}
	return o.decide()
}

// sameStore is storeOf without EC2.
func (c preflight) sameStore(ctx context.Context) error {
	o, err := c.ownership(ctx, "")
	if err == nil {
		_, err = o.decide()
	}
	return err
}

// claim keeps every other publish out of the volume until release, and writes whose it is, where
// that is not written yet.
func (p *parts) claim(ctx context.Context) (store string, unlock func() error, err error) {
	unlock, err = p.tree.LockPublish()
	if errors.Is(err, release.ErrPublishing) {
		return "", nil, exit.With(exit.Conflict, fmt.Errorf("%w; nothing was changed", err))
	}
	if err != nil {
		return "", nil, err
	}
	if store, err = p.take(ctx); err != nil {
		return "", nil, errors.Join(err, unlock())
	}
	p.maker.Store = store
	return store, unlock, nil
}

func (p *parts) take(ctx context.Context) (string, error) {
	v, err := p.checks.volumes.Describe(ctx, p.maker.VolumeID)
	if err != nil {
		return "", err
	}
	store, err := p.checks.storeOf(ctx, v.Tags[volume.TagStore])
	if err != nil {
		return "", err
	}
	if store, err = writeStore(ctx, store, p.store, p.tree); err != nil {
		return "", err
	}
	if v.Tags[volume.TagStore] == "" {
		err = p.checks.volumes.Tag(ctx, v.ID, map[string]string{volume.TagStore: store})
	}
	return store, err
}

// writeStore writes the id to the pointer store and to the volume; "" makes one. The pointer store
// comes first: a crash in between leaves a store with an id and a volume without one, which is
// claimed by that id the next time.
func writeStore(ctx context.Context, store string, directory *pointer.Directory, tree release.Tree) (string, error) {
	if store == "" {
		random := make([]byte, 8)
		_, _ = rand.Read(random) // it never fails
		store = hex.EncodeToString(random)
	}
	if err := directory.SetID(ctx, store); err != nil {
		return "", err
	}
	return store, tree.SetStore(ctx, store)
}

// ownSnapshots are those that gc may look at: of this store by their tag; and of those that have
// none, from before stores had ids, the ones that this store's history names.
func (s *inventory) ownSnapshots() {
	known := map[string]bool{}
	for _, e := range s.history {
		for _, id := range e.Snapshots {
			known[id] = true
		}
	}
	s.snapshots = slices.DeleteFunc(s.snapshots, func(o snapshot.Old) bool {
		if o.Store == "" {
			return !known[o.ID]
		}
		return o.Store != s.store
	})
}
