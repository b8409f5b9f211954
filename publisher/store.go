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
	if err = p.signs.Settle(ctx, v, told); err == nil {
		store, err = p.take(ctx, v)
	}
	if err != nil {
		return "", nil, errors.Join(err, unlock())
	}
	p.maker.Store = store
	return store, unlock, nil
}

func (p *parts) take(ctx context.Context, on *release.Volume) (string, error) {
	v, err := p.checks.Volumes.Describe(ctx, p.maker.VolumeID)
	if err != nil {
		return "", err
	}
	store, err := p.checks.StoreOf(ctx, v.Tags[volume.TagStore])
	if err != nil {
		return "", err
	}
	if store, err = server.WriteStore(ctx, store, p.store, on); err != nil {
		return "", err
	}
	if v.Tags[volume.TagStore] == "" {
		err = p.checks.Volumes.Tag(ctx, v.ID, map[string]string{volume.TagStore: store})
	}
	return store, err
}
