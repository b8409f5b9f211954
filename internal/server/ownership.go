package server

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"

	"ebs-release/internal/advice"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/volume"
)

// One volume, one store: the store has an id, which lies in the pointer store, in the pointer, on
// the release volume (as a file, and as a tag), on its snapshots, and so on what members make of
// them. Two stores on one volume would ship each other's releases and delete each other's
// snapshots.

// Ownership is all that says whose a release volume is.
type Ownership struct {
	Directory string   // the pointer store
	Own       string   // its id; "": none yet
	VolumeID  string   // empty: not known
	File, Tag string   // what the volume says, in two places; "": nothing
	Snapshots []string // the stores that snapshots of the volume are of
}

// Decide returns the id that the store has with this volume; "": neither has one yet, and nothing
// speaks against a new one.
func (o Ownership) Decide() (string, error) {
	vol := cmp.Or(o.VolumeID, "the release volume")
	on := cmp.Or(o.File, o.Tag)
	switch {
	case o.File != "" && o.Tag != "" && o.File != o.Tag:
		return "", advice.Try(fmt.Errorf("%s belongs to store %s by the file .ebs-release/store on it, and to store %s by its tag %s",
			vol, o.File, o.Tag, volume.TagStore),
			"correct the tag, if somebody set it")
	case on != "" && o.Own == "":
		return "", advice.Try(fmt.Errorf("%s belongs to store %s, and the pointer store %s is not that store", vol, on, o.Directory),
			"correct pointer-store; or, if the directory of store %s is lost and this one takes its place, `ebs-release init --store %s`", on, on)
	case on != "" && o.Own != on:
		return "", advice.Try(fmt.Errorf("%s belongs to store %s, and the pointer store %s is store %s", vol, on, o.Directory, o.Own),
			"correct pointer-store or mount-point, or give this store a volume of its own: unmount this one, and run `ebs-release init`")
	case on != "":
		return on, nil
	}
	for _, other := range o.Snapshots {
		if other != "" && other != o.Own {
			return "", advice.Try(fmt.Errorf("%s says no store, but it has snapshots of store %s, and the pointer store %s is %s",
				vol, other, o.Directory, cmp.Or(o.Own, "none yet")),
				"correct pointer-store, or give this store a volume of its own")
		}
	}
	return o.Own, nil
}

// WriteStore writes the id to the pointer store and to the volume; "" makes one. The pointer store
// comes first: a crash in between leaves a store with an id and a volume without one, which is
// claimed by that id the next time.
func WriteStore(ctx context.Context, store string, directory *pointer.Store, on *release.Volume) (string, error) {
	if store == "" {
		random := make([]byte, 8)
		_, _ = rand.Read(random) // it never fails
		store = hex.EncodeToString(random)
	}
	if err := directory.SetID(ctx, store); err != nil {
		return "", err
	}
	return store, on.SetStore(ctx, store)
}

// openStore opens the pointer store; nil: it is not there yet, and publish says what is wrong with
// it.
func (i *Server) openStore(ctx context.Context) (*pointer.Store, error) {
	if info, err := os.Stat(i.PointerStore); !pointer.InS3(i.PointerStore) && (i.PointerStore == "" || err != nil || !info.IsDir()) {
		return nil, nil //nolint:nilerr,nilnil // see above
	}
	return pointer.Open(ctx, i.PointerStore, i.LoadAWS)
}

// findStore says which store the volume is of, or is going to be; "": a new one. A volume that was
// named, or made from a snapshot, brings its store along to a pointer store that has no id: this
// server takes the place of another one.
func (i *Server) findStore(ctx context.Context) (*pointer.Store, string, error) {
	tag, err := i.Volumes.store(ctx, i.report.VolumeID)
	if err != nil {
		return nil, "", err
	}
	v, err := release.Open(i.MountPoint)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = v.Close() }()
	file, err := v.StoreID()
	if err != nil {
		return nil, "", err
	}
	o := Ownership{Directory: i.PointerStore, VolumeID: i.report.VolumeID, File: file, Tag: tag}
	on := cmp.Or(file, tag)
	if i.Wish.Store != "" && i.Wish.Store != on {
		return nil, "", fmt.Errorf("--store %s: %s belongs to %s", i.Wish.Store, i.report.VolumeID, cmp.Or(on, "no store"))
	}
	directory, err := i.openStore(ctx)
	if err != nil || directory == nil {
		return nil, "", err
	}
	if o.Own, err = directory.ID(ctx); err != nil {
		return nil, "", err
	}
	takes := i.Wish.Store != "" || i.Wish.Join || i.Wish.VolumeID != "" || i.Wish.Device != ""
	if o.Own == "" && takes {
		o.Own = on
	}
	store, err := o.Decide()
	return directory, store, err
}

// setStore writes whose volume it is.
func (i *Server) setStore(ctx context.Context, directory *pointer.Store, store string) (string, error) {
	if directory == nil {
		return "", nil
	}
	v, err := release.Open(i.MountPoint)
	if err != nil {
		return "", err
	}
	defer func() { _ = v.Close() }()
	own, err := directory.ID(ctx)
	if err != nil {
		return "", err
	}
	on, err := v.StoreID()
	if err != nil || own != "" && own == on {
		return own, err
	}
	if store, err = WriteStore(ctx, store, directory, v); err == nil {
		i.did("the volume and %s belong to store %s", i.PointerStore, store)
	}
	return store, err
}
