// Package source is where a boot reads: the pointer (Pointers: boot.Pointers), the packs (Source),
// and whose signature counts. It has nothing to do with the SOURCE of a publish.
package source

import (
	"context"
	"log/slog"

	"ebs-release/internal/boot/tree"
	"ebs-release/internal/pointer"
	"ebs-release/internal/store"
)

// Source is where the pointer and its packs are, and whose word counts.
type Source struct {
	Pointer string   `json:"pointer,omitempty"` // the setting
	Trusted []string `json:"trusted,omitempty"` // the setting trusted-keys
}

// Packs opens, once, the store where the packs are.
func (s Source) Packs(log *slog.Logger) tree.Packs {
	var from *pointer.Fetcher // it keeps what it has opened
	return func(ctx context.Context) (_ store.Reader, err error) {
		if from == nil {
			if from, err = NewFetcher(s.Pointer, log); err != nil {
				return nil, err
			}
		}
		return from.Store(ctx)
	}
}
