package publish

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/pointer"
	"ebs-release/internal/push"
	"ebs-release/internal/release"
	"ebs-release/internal/words"
)

// morePacks are those that members need and the pointer does not list: each is made once, for the
// first that needs it.
type morePacks struct {
	turn chan struct{}           // one is made at a time
	made map[string]pointer.Edge // by the releases that it leads from and to
}

func newMorePacks() morePacks {
	return morePacks{make(chan struct{}, 1), map[string]pointer.Edge{}}
}

// another returns a pack for a member that said that none leads on: from the newest release that
// both sides hold and that was not tried, or else from nothing. It takes as long as it takes: it is
// for all who need it, and no member's timeout.
func (ms *members) another(ctx context.Context, noWay error, next pointer.Pointer, tried map[string]bool) (pointer.Edge, error) {
	if tried[""] {
		return pointer.Edge{}, noWay
	}
	from := ""
	if none, ok := errors.AsType[*push.NoWayError](noWay); ok {
		from = ms.newestOfBoth(none.Held, next, tried)
	}
	tried[from] = true
	edge, err := ms.make(ctx, from, next)
	if err != nil {
		err = advice.Errorf("%w; and a pack for it could not be made: %w", noWay, err)
	}
	return edge, err
}

// newestOfBoth returns "" when there is none.
func (ms *members) newestOfBoth(held []release.Held, next pointer.Pointer, tried map[string]bool) (id string) {
	for _, h := range held {
		if tried[h.ID] || h.ID <= id || h.Digest == next.Digest {
			continue
		}
		if here, err := ms.Tree.ManifestDigest(h.ID); err == nil && here == h.Digest {
			id = h.ID
		}
	}
	return id
}

func (ms *members) make(ctx context.Context, from string, next pointer.Pointer) (pointer.Edge, error) {
	select {
	case ms.more.turn <- struct{}{}:
		defer func() { <-ms.more.turn }()
	case <-ctx.Done():
		return pointer.Edge{}, ctx.Err()
	}
	if edge, found := ms.more.made[from+" "+next.Release]; found {
		return edge, nil
	}
	edge, err := ms.Packs.Make(ctx, from, next.Release)
	if err != nil {
		return edge, err
	}
	ms.more.made[from+" "+next.Release] = edge
	ms.say(Event{Kind: KindNote, Text: packText(edge, from) + ", for members that no other pack leads on"})
	return edge, nil
}

func packText(e pointer.Edge, from string) string {
	if from == "" {
		return fmt.Sprintf("%s from nothing, in the store", words.Bytes(e.Bytes))
	}
	return fmt.Sprintf("%s from release %s, in the store", words.Bytes(e.Bytes), from)
}

// leadFollowers lists packs for members that nobody logs in to, where none leads on from what they
// report: from that, or, where the release volume does not have it, from nothing.
func (r *run) leadFollowers(ctx context.Context) error {
	if r.Dialer != nil {
		return nil
	}
	for _, id := range slices.Sorted(maps.Keys(r.members.releases())) {
		digest, err := r.Tree.ManifestDigest(id)
		if err != nil {
			id, digest = "", ""
		}
		if _, found := wayFrom(digest, r.next); found {
			continue
		}
		if err := r.listPack(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// mostPackAge is how old a pack may be which the commit is the first to list: gc removes one that
// no pointer lists when it is a day old.
const mostPackAge = 12 * time.Hour

// packsAreFresh is asked just before the commit.
func (r *run) packsAreFresh() error {
	for _, e := range r.next.Edges {
		listed := slices.ContainsFunc(r.before.Edges, func(o pointer.Edge) bool { return o.Pack == e.Pack })
		if age := time.Since(e.Made); !listed && age > mostPackAge {
			return advice.Try(fmt.Errorf("pack %s was made %v ago, and nothing names it: gc may remove it at any time",
				e.Pack, age.Round(time.Minute)), "publish again")
		}
	}
	return nil
}
