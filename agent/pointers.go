package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"ebs-release/internal/advice"
	"ebs-release/internal/boot"
	"ebs-release/internal/boot/tree"
	"ebs-release/internal/config"
	"ebs-release/internal/generation"
	"ebs-release/internal/pointer"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// pointers is boot.Pointers.
type pointers struct {
	fetcher *pointer.Fetcher
	trusted []string // the setting trusted-keys
	least   int64    // the setting min-generation
	log     *slog.Logger
}

func newPointers(values config.Values, log *slog.Logger) (pointers, error) {
	fetcher, err := newFetcher(values.Get("pointer"), log)
	return pointers{fetcher, values.List("trusted-keys"), int64(values.Int("min-generation")), log}, err
}

// newFetcher reads from the place that the setting pointer names.
func newFetcher(place string, log *slog.Logger) (*pointer.Fetcher, error) {
	return pointer.NewFetcher(place, func(ctx context.Context) (aws.Config, error) {
		cfg, _, err := loadAWS(ctx, log)
		return cfg, err
	}, log)
}

func (p pointers) Fetch(ctx context.Context) (boot.Pointer, error) {
	got, err := p.fetcher.Fetch(ctx)
	if err == nil {
		err = p.accept(got)
	}
	if err != nil {
		return boot.Pointer{}, err
	}
	if missing := got.NotTrusted(p.trusted); len(missing) > 0 {
		p.log.WarnContext(ctx, "the store's key is being rotated, and trusted-keys does not name the new one: add it", "missing", missing)
	}
	return readAs(got), nil
}

// readAs is a pointer that was read, for package boot.
func readAs(got pointer.Fetched) boot.Pointer {
	read := bootPointer(got.Pointer, got.Document)
	read.For = func(me boot.Identity) boot.Pointer { return bootPointer(got.For(tree.InstanceOf(me)), got.Document) }
	return read
}

func bootPointer(p pointer.Pointer, document []byte) boot.Pointer {
	read := boot.Pointer{Store: p.Store, Generation: p.Generation, Release: p.Release, Digest: p.Digest, Snapshot: p.Snapshot}
	if p.Schema == pointer.Signed {
		read.Document, read.Behind = string(document), p.Holds().Digest != p.Digest
	}
	return read
}

// accept refuses what no volume has to be asked about.
func (p pointers) accept(got pointer.Fetched) error {
	if err := got.CheckTrusted(p.trusted); err != nil {
		return tree.Means(advice.Try(fmt.Errorf("read pointer %s: %w", p.fetcher.Place(), err),
			"find out who wrote it, and with which key; if it is right: add its key to trusted-keys, or take that setting away"), boot.ErrUnsigned)
	}
	if got.Generation < p.least {
		return tree.Means(advice.Try(fmt.Errorf("read pointer %s: it says generation %d, and min-generation is %d",
			p.fetcher.Place(), got.Generation, p.least),
			"look for a cache or a restored release.json behind the pointer's URL, or publish again; if it is right: set min-generation to %d",
			got.Generation), boot.ErrOlder)
	}
	return nil
}

// checkTrustedKeys checks the setting trusted-keys.
func checkTrustedKeys(value string) error {
	for _, item := range (config.Values{{Key: "", Value: value}}).List("") {
		if err := pointer.CheckTrusted(item); err != nil {
			return err
		}
	}
	return nil
}

// checkLeast checks the setting min-generation.
func checkLeast(value string) error {
	if value == "0" {
		return nil
	}
	if _, err := generation.Parse(value); err != nil {
		return errors.New("want 0 (none), or a generation")
	}
	return nil
}
