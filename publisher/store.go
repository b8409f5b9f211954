package main

import (
	"context"
	"errors"
	"fmt"

	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/server"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// anyStore stands for the id of a store that has none yet, where EC2 is only asked whether it would
// allow something.
const anyStore = "0000000000000000"

// openStore opens the pointer store. load is asked only where it is in S3.
func openStore(ctx context.Context, place string, load func() (aws.Config, error)) (*pointer.Store, error) {
	opened, err := pointer.Open(ctx, place, func(context.Context) (aws.Config, error) { return load() })
	if pointer.InS3(place) { // the setting was checked: it is the keys, or the Region
		return opened, err
	}
	return opened, exit.With(exit.Usage, err)
}

// later loads the configuration of the SDK when it is needed.
func later(ctx context.Context) func() (aws.Config, error) {
	return func() (aws.Config, error) { return loadAWS(ctx) }
}

// ownership looks at the pointer store and at the volume, whose tag the caller has seen.
func (c p0Checks) ownership(ctx context.Context, tag string) (o server.Ownership, err error) {
	o = server.Ownership{Directory: c.values.Get("pointer-store"), VolumeID: c.maker.VolumeID, Tag: tag}
	if o.Own, err = c.store.ID(ctx); err != nil {
		return o, err
	}
	o.File, err = with(c.volume, (*release.Volume).StoreID)
	return o, err
}

// storeOf says which store the volume is of, or refuses it. It changes nothing.
func (c p0Checks) storeOf(ctx context.Context, tag string) (string, error) {
	o, err := c.ownership(ctx, tag)
	if err != nil {
		return "", err
	}
	if o.File == "" && o.Tag == "" { // once in the life of a volume
		old, err := c.maker.List(ctx)
		if err != nil {
			return "", err
		}
		for _, s := range old {
			o.Snapshots = append(o.Snapshots, s.Store)
		}
	}
	return o.Decide()
}

// sameStore is storeOf without EC2.
func (c p0Checks) sameStore(ctx context.Context) error {
	o, err := c.ownership(ctx, "")
	if err == nil {
		_, err = o.Decide()
	}
	return err
}

// claim keeps every other publish out of the volume until release, and writes whose it is, where
// that is not written yet.
func (p *parts) claim(ctx context.Context) (store string, unlock func() error, err error) {
	v, err := p.volume.open()
	if err != nil {
		return "", nil, err
	}
	if unlock, err = lockPublish(v); err != nil {
		return "", nil, err
	}
	told := func(format string, args ...any) { p.warn("P1", fmt.Sprintf(format, args...)) }
	if err = p.signs.settle(ctx, v, told); err == nil {
		store, err = p.take(ctx, v)
	}
	if err != nil {
		return "", nil, errors.Join(err, unlock())
	}
	p.maker.Store = store
	return store, unlock, nil
}

func (p *parts) take(ctx context.Context, on *release.Volume) (string, error) {
	v, err := p.checks.volumes.Describe(ctx, p.maker.VolumeID)
	if err != nil {
		return "", err
	}
	store, err := p.checks.storeOf(ctx, v.Tags[volume.TagStore])
	if err != nil {
		return "", err
	}
	if store, err = server.WriteStore(ctx, store, p.store, on); err != nil {
		return "", err
	}
	if v.Tags[volume.TagStore] == "" {
		err = p.checks.volumes.Tag(ctx, v.ID, map[string]string{volume.TagStore: store})
	}
	return store, err
}
