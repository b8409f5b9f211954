package catchup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"ebs-release/internal/manifest"
	"ebs-release/internal/pack"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/words"
)

// ErrNoPack says that no pack of the pointer holds what a damaged file should.
var ErrNoPack = errors.New("no pack of the store holds that content")

// Heal puts what the pointer's packs hold in the place of damaged files, and returns how many it
// has healed. A pack has whole files, those that its first release lacks: which of them one has,
// only a look into it tells, so the small ones come first. The pointer is one that Believe
// returned.
func (v *Volume) Heal(ctx context.Context, p pointer.Pointer, bad []release.Damage) (healed int, err error) {
	h, err := v.NewHealing(bad)
	if err != nil {
		return 0, err
	}
	defer h.Close()
	edges := slices.SortedFunc(slices.Values(p.Edges), func(a, b pointer.Edge) int { return cmp.Compare(a.Bytes, b.Bytes) })
	var failed error
	for _, e := range edges {
		if h.Missing() == 0 || ctx.Err() != nil {
			break
		}
		if err := v.healFrom(ctx, e, h); err != nil {
			failed = errors.Join(failed, err)
		}
	}
	healed, err = h.Replace(ctx)
	if n := h.Missing(); err == nil && n > 0 {
		if err = failed; err == nil {
			err = fmt.Errorf("%s: %w (looked into %s)", words.Count(n, "damaged file"), ErrNoPack, words.Count(len(edges), "pack"))
		}
	}
	return healed, err
}

// healFrom takes what is wanted out of one pack.
func (v *Volume) healFrom(ctx context.Context, e pointer.Edge, h *release.Healing) error {
	if err := v.HasRoom(2 * e.Bytes); err != nil { // and for what is in it
		return fmt.Errorf("keep pack %s: %w", e.Pack, err)
	}
	return v.withPack(ctx, e, func(opened *pack.Opened) error {
		if err := takeWanted(ctx, opened, h); err != nil {
			return fmt.Errorf("pack %s: %w", e.Pack, err)
		}
		return nil
	})
}

// takeWanted reads a pack as far as something in it is wanted.
func takeWanted(ctx context.Context, from *pack.Opened, h *release.Healing) error {
	type part struct {
		size   int64
		wanted *manifest.Entry
	}
	var parts []part
	last := 0
	for c, err := range from.Changes() {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if !c.HasContent() {
			continue
		}
		p := part{size: c.Entry.Size}
		if h.Wants(&c.Entry) {
			wanted := c.Entry
			p.wanted = &wanted
			last = len(parts) + 1
		}
		parts = append(parts, p)
	}
	for _, p := range parts[:last] {
		e := p.wanted
		if e == nil {
			e = &manifest.Entry{Size: p.size}
		}
		content, err := from.Content(e)
		if err != nil {
			return err
		}
		if p.wanted != nil && h.Wants(e) { // not twice
			err = h.Take(ctx, e, content)
		} else {
			_, err = io.Copy(io.Discard, readUntil(ctx, content))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readUntil reads until ctx ends.
func readUntil(ctx context.Context, from io.Reader) io.Reader {
	return reader(func(into []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return from.Read(into)
	})
}
