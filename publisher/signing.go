package main

import (
	"context"

	"ebs-release/internal/config"
	"ebs-release/internal/pointer"
	"ebs-release/internal/server"
)

// sign makes the store sign what it writes, by the keys of this server. That the volume cannot be
// opened is for P0 to say.
func sign(store *pointer.Store, volume *releaseVolume, path string) server.Signing {
	v, err := volume.open()
	if err != nil {
		v = nil
	}
	s := server.Keys{Path: path, On: v}.Sign(store)
	volume.keys = s.Public()
	return s
}

// keyPlaces is where the keys are, for a verb that only reads.
type keyPlaces struct{ volume, key string }

func placesOf(values config.Values) keyPlaces {
	return keyPlaces{values.Get("mount-point"), values.Get("signing-key")}
}

// wrong says what stands in the way of the next publish.
func (k keyPlaces) wrong(ctx context.Context, store *pointer.Store) error {
	return server.Keys{Path: k.key}.Wrong(ctx, store, k.volume)
}
