// Package receive is the agent's end of a push: it answers what package push asks, on one
// connection. What is said is package wire's.
//
// Conversation has the connection, in the process that ssh has started. Receiver does the work on
// the volume, in a child of that process, as a disk may hang: boot/disks, Receive, is between them.
// The flip itself is package activation's.
package receive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"ebs-release/internal/activation"
	"ebs-release/internal/advice"
	"ebs-release/internal/catchup"
	"ebs-release/internal/exit"
	"ebs-release/internal/gc"
	"ebs-release/internal/hook"
	"ebs-release/internal/manifest"
	"ebs-release/internal/pointer"
	"ebs-release/internal/push/wire"
	"ebs-release/internal/release"
	"ebs-release/internal/store"
	"ebs-release/internal/words"
)

// Receiver is the Worker of a release volume.
type Receiver struct {
	// Ready opens the release volume, or fails while a boot is under way: the boot may be looking
	// at the volume. It is called for each request, as an `up` may start between two of them; the
	// volume is closed after the request.
	Ready    func() (*release.Volume, error)
	Packs    func(context.Context) (store.Reader, error)     // the store that this member reads
	Who      func(context.Context) (pointer.Instance, error) // this member, while a rollout is open
	Keep     int                                             // releases on the volume, when the publisher says nothing of it
	Programs activation.Programs                             // the operator's
}

// Do is Worker's.
func (r *Receiver) Do(ctx context.Context, q wire.Request) (answer any, err error) {
	v, err := r.Ready()
	if err != nil {
		return nil, err
	}
	defer func() { _ = v.Close() }()
	switch q.Do {
	case wire.Stage:
		return r.stage(ctx, v, q)
	case wire.Activate:
		return r.activate(ctx, v, q)
	case wire.Verify:
		return Verify(ctx, v, q.Release, q.Digest, q.Generation)
	default:
		return nil, exit.With(exit.Usage, fmt.Errorf("an unknown request, %q: this agent is older than the publisher", q.Do))
	}
}

// stage catches up beside what is served, by the packs that the publisher names, and has the
// programs of stage.d look at what came. It is believed as it is: who may log in as the owner of
// the tree may write all of it.
func (r *Receiver) stage(ctx context.Context, v *release.Volume, q wire.Request) (any, error) {
	wanted, err := r.wanted(q)
	if err == nil {
		err = v.CheckStore(q.Store)
	}
	for i, e := range q.Edges {
		if edgeErr := e.Check(); edgeErr != nil && err == nil {
			err = exit.With(exit.Usage, fmt.Errorf("pack %d of the request: %w", i+1, edgeErr))
		}
	}
	if err != nil {
		return nil, err
	}
	to := catchup.Volume{Volume: v, Packs: r.Packs, Served: true, Wanted: wanted, Secret: q.PackKey}
	way, err := to.To(ctx, pointer.Pointer{Generation: q.Generation, Release: q.Release, Digest: q.Digest, Edges: q.Edges})
	answer := wire.Staged{Schema: wire.Schema, State: wire.StatePresent, Release: q.Release, Packs: way.Packs, Bytes: way.Bytes}
	damaged := errors.Is(err, release.ErrBase)
	if err == nil {
		err = activation.Stage(ctx, v, r.Programs, activation.Target{Release: q.Release, Digest: q.Digest, Generation: q.Generation})
	}
	if !damaged && !errors.Is(err, catchup.ErrNoWay) && !errors.Is(err, catchup.ErrGone) {
		return answer, activation.Fenced(err)
	}
	answer.State, answer.Reason = wire.StateNoWay, words.OneLine(err)
	if answer.Held, err = v.Holds(); damaged {
		answer.Held = slices.DeleteFunc(answer.Held, func(h release.Held) bool { return h.ID == way.From })
	}
	return answer, err
}

// activate answers without a Hook only once all programs have succeeded.
func (r *Receiver) activate(ctx context.Context, v *release.Volume, q wire.Request) (any, error) {
	active := wire.Activated{Schema: wire.Schema, State: wire.StateActive, Generation: q.Generation, Release: q.Release}
	err := v.CheckStore(q.Store)
	if err == nil {
		err = activation.Fenced(v.CheckFence(q.Generation))
	}
	if err == nil { // before the programs, which may reboot: the pointer is signed by these by now
		err = catchup.SetKeys(ctx, v, q.Keys, q.PackKey)
	}
	if err == nil {
		err = r.checkSide(ctx, v, q)
	}
	if err == nil {
		err = activation.Run(ctx, v, r.Programs, activation.Target{Release: q.Release, Digest: q.Digest, Generation: q.Generation})
	}
	if failed, ok := errors.AsType[*hook.Failure](err); ok {
		active.Hook, err = &wire.Hook{Name: failed.Name, Code: failed.Code, Line: failed.Line}, nil
	}
	return active, err
}

// wanted is what a request says of what to keep.
func (r *Receiver) wanted(q wire.Request) (gc.Wanted, error) {
	if q.Keep < 0 || len(q.Committed) > max(q.Keep, 2) {
		return gc.Wanted{}, exit.With(exit.Usage, fmt.Errorf("a request to keep %d releases that names %d", q.Keep, len(q.Committed)))
	}
	for _, id := range q.Committed {
		if !manifest.ValidID(id) {
			return gc.Wanted{}, exit.With(exit.Usage, fmt.Errorf("a request to keep %.40q, which is no release", id))
		}
	}
	wanted := gc.Wanted{Keep: cmp.Or(q.Keep, r.Keep), Committed: q.Committed}
	if q.Pointer != "" {
		p, err := pointer.Parse([]byte(q.Pointer))
		if err != nil {
			return gc.Wanted{}, exit.With(exit.Usage, fmt.Errorf("the pointer of the request: %w", err))
		}
		wanted.Held = p.Both()
	}
	return wanted, nil
}

// checkSide holds the publisher's word against the signed pointer, while a rollout is open: what
// this member becomes now is what it would become at a boot.
func (r *Receiver) checkSide(ctx context.Context, v *release.Volume, q wire.Request) error {
	if q.Pointer == "" {
		return nil
	}
	p, err := catchup.Believe(v, []byte(q.Pointer), nil)
	if err == nil {
		err = v.CheckStore(p.Store)
	}
	if err != nil {
		return fmt.Errorf("the pointer of the request: %w", err)
	}
	me, err := r.Who(ctx)
	if err != nil {
		return fmt.Errorf("see on which side of the rollout this member is: %w", err)
	}
	if to := p.For(me); to.Generation != q.Generation || to.Release != q.Release || to.Digest != q.Digest {
		return exit.With(exit.Conflict, advice.Try(fmt.Errorf("the pointer gives generation %d, release %s to %s in %s, and the publisher wants"+
			" generation %d, release %s here", to.Generation, to.Release, me.ID, me.Zone, q.Generation, q.Release),
			"ebs-release converge"))
	}
	return nil
}

// Prune is Worker's.
func (r *Receiver) Prune(ctx context.Context, q wire.Request) error {
	v, err := r.Ready()
	if err != nil {
		return err
	}
	defer func() { _ = v.Close() }()
	wanted, err := r.wanted(q)
	if err == nil {
		_, err = v.Prune(ctx, wanted)
	}
	return err
}

// Verify reads every file of a release, whose manifest has to have a digest; "": any. With a
// generation, that and this release have to be what is active here, by the fence and by where
// `current` leads; 0: the release need not be the current one.
func Verify(ctx context.Context, v *release.Volume, id, digest string, generation int64) (wire.Verified, error) {
	answer := wire.Verified{Schema: wire.Schema, State: wire.StateVerified, Release: id, Generation: generation}
	if generation != 0 {
		if err := v.CheckActive(id, generation); err != nil {
			return answer, err
		}
	}
	have, err := v.ManifestDigest(id)
	if err != nil {
		return answer, err
	}
	if digest != "" && have != digest {
		return answer, fmt.Errorf("the manifest of release %s has digest %s, want %s", id, have, digest)
	}
	manifest, err := v.Manifest(id)
	if err != nil {
		return answer, err
	}
	answer.Digest = have
	answer.Files, answer.Bytes = manifest.Size()
	return answer, v.Verify(ctx, id)
}
