package source

import (
	"context"
	"fmt"
	"log/slog"

	"ebs-release/internal/advice"
	"ebs-release/internal/boot"
	"ebs-release/internal/boot/tree"
	"ebs-release/internal/instance"
	"ebs-release/internal/pointer"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// Pointers is boot.Pointers.
type Pointers struct {
	Fetcher *pointer.Fetcher
	Trusted []string // the setting trusted-keys
	Least   int64    // the setting min-generation
	Log     *slog.Logger
}

// NewFetcher reads from the place that the setting pointer names.
func NewFetcher(place string, log *slog.Logger) (*pointer.Fetcher, error) {
	return pointer.NewFetcher(place, func(ctx context.Context) (aws.Config, error) {
		cfg, _, err := instance.Load(ctx, log)
		return cfg, err
	}, log)
}

// Fetch is of boot.Pointers.
func (p Pointers) Fetch(ctx context.Context) (boot.Pointer, error) {
	got, err := p.Fetcher.Fetch(ctx)
	if err == nil {
		err = p.accept(got)
	}
	if err != nil {
		return boot.Pointer{}, err
	}
	if missing := got.NotTrusted(p.Trusted); len(missing) > 0 {
		p.Log.WarnContext(ctx, "the store's key is being rotated, and trusted-keys does not name the new one: add it", "missing", missing)
	}
	return ReadAs(got), nil
}

// ReadAs is a pointer that was read, for package boot.
func ReadAs(got pointer.Fetched) boot.Pointer {
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
func (p Pointers) accept(got pointer.Fetched) error {
	if err := got.CheckTrusted(p.Trusted); err != nil {
		return tree.Means(advice.Try(fmt.Errorf("read pointer %s: %w", p.Fetcher.Place(), err),
			"find out who wrote it, and with which key; if it is right: add its key to trusted-keys, or take that setting away"), boot.ErrUnsigned)
	}
	if got.Generation < p.Least {
		return tree.Means(advice.Try(fmt.Errorf("read pointer %s: it says generation %d, and min-generation is %d",
			p.Fetcher.Place(), got.Generation, p.Least),
			"look for a cache or a restored release.json behind the pointer's URL, or publish again; if it is right: set min-generation to %d",
			got.Generation), boot.ErrOlder)
	}
	return nil
}
