package main

import (
	"context"
	"log/slog"

	"ebs-release/internal/boot"
	"ebs-release/internal/boot/tree"
	"ebs-release/internal/config"
	"ebs-release/internal/pointer"
	"ebs-release/internal/store"
)

// source is where the pointer and its packs are, and whose word counts.
type source struct {
	Pointer string   `json:"pointer,omitempty"` // the setting
	Trusted []string `json:"trusted,omitempty"` // the setting trusted-keys
}

func sourceOf(values config.Values) source {
	return source{values.Get("pointer"), values.List("trusted-keys")}
}

// packs opens, once, the store where the packs are.
func (s source) packs(log *slog.Logger) tree.Packs {
	var from *pointer.Fetcher // it keeps what it has opened
	return func(ctx context.Context) (_ store.Reader, err error) {
		if from == nil {
			if from, err = newFetcher(s.Pointer, log); err != nil {
				return nil, err
			}
		}
		return from.Store(ctx)
	}
}

// catchUp brings the prepared volume to what is wanted.
func (w *diskWork) catchUp(ctx context.Context, want boot.Wanted, from source) error {
	v, err := tree.Open(w.prepared.Root(), from.Trusted)
	if err != nil {
		return err
	}
	defer func() { _ = v.Close() }()
	return v.CatchUp(ctx, want, from.packs(w.log), w.shared, w.log)
}
