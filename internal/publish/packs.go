package publish

import (
	"context"
	"errors"
	"fmt"

	"ebs-release/internal/pointer"
	"ebs-release/internal/push"
	"ebs-release/internal/words"
)

// morePacks are those that members need and the pointer does not list: each is made once, for the
// first that needs it.
type morePacks struct {
	turn chan struct{}           // one is made at a time
	made map[string]pointer.Edge // by the release that it starts from
}

func newMorePacks() morePacks {
	return morePacks{make(chan struct{}, 1), map[string]pointer.Edge{}}
}

// lead has a member fetch the release. Where no pack that the pointer lists leads on from what it
// holds, one is made: from the newest release that both sides hold, or else from nothing.
func (ms *members) lead(ctx context.Context, s Session, to push.Desired) (push.Fetched, error) {
	tried := map[string]bool{}
	for {
		fetched, err := s.Stage(ctx, to)
		none, found := errors.AsType[*push.NoWayError](err)
		if !found || tried[""] {
			return fetched, err
		}
		from := ms.newestOfBoth(none, to.Pointer, tried)
		tried[from] = true
		edge, err := ms.another(ctx, from, to.Pointer)
		if err != nil {
			return fetched, fmt.Errorf("%w; and a pack for it could not be made: %w", none, err)
		}
		to.Edges = append(to.Edges[:len(to.Edges):len(to.Edges)], edge)
	}
}

// newestOfBoth returns "" when there is none.
func (ms *members) newestOfBoth(member *push.NoWayError, next pointer.Pointer, tried map[string]bool) (id string) {
	for _, h := range member.Held {
		if tried[h.ID] || h.ID <= id || h.Digest == next.Digest {
			continue
		}
		if here, err := ms.Tree.ManifestDigest(h.ID); err == nil && here == h.Digest {
			id = h.ID
		}
	}
	return id
}

func (ms *members) another(ctx context.Context, from string, next pointer.Pointer) (pointer.Edge, error) {
	select {
	case ms.more.turn <- struct{}{}:
		defer func() { <-ms.more.turn }()
	case <-ctx.Done():
		return pointer.Edge{}, ctx.Err()
	}
	if edge, found := ms.more.made[from]; found {
		return edge, nil
	}
	edge, err := ms.Packs.Make(ctx, from, next.Release)
	if err != nil {
		return edge, err
	}
	ms.more.made[from] = edge
	text := fmt.Sprintf("%s from release %s", words.Bytes(edge.Bytes), from)
	if from == "" {
		text = fmt.Sprintf("%s from nothing", words.Bytes(edge.Bytes))
	}
	ms.say(Event{Kind: KindNote, Text: text + ", in the store, for members that no other pack leads on"})
	return edge, nil
}
