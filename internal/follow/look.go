package follow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/catchup"
	"ebs-release/internal/gc"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/status"
	"ebs-release/internal/store"
	"ebs-release/internal/trouble"
	"ebs-release/internal/words"
)

const (
	mostTime  = 4 * time.Hour // for one way to a release, programs included
	packTries = 5             // of a pack; then the pointer is asked again, which may have moved on
	mostMoves = 10            // of the pointer while one look brings the member to it
)

// errMoved: the pointer names something else by now, or something else is current here.
var errMoved = fmt.Errorf("the pointer, or what is current here, moved more than %d times while this member caught up", mostMoves)

// look is one look. pause is how long the next one may wait.
func (f *Follower) look(ctx context.Context) (pause time.Duration, err error) {
	moved, err := f.ask(ctx)
	if err != nil {
		f.unread++
		pause = backoff(f.Interval, f.unread)
		if said, ok := errors.AsType[*store.Error](err); ok {
			pause = max(pause, said.Wait+said.Wait/4) // Run takes away a fifth at most
		}
		return pause, f.settle(ctx, err)
	}
	f.unread = 0
	if moved {
		f.failures, f.unusable = 0, base{}
	} else if time.Now().Before(f.due) {
		return f.Interval, f.err
	}
	f.err = f.settle(ctx, f.reach(ctx))
	next := fullEvery
	if f.err != nil {
		f.failures++
		next = backoff(f.Interval, f.failures)
	}
	if _, waits := errors.AsType[waiting](f.err); waits || errors.Is(f.err, errMoved) {
		next = 0
	}
	f.due = time.Now().Add(next - next/10) // looks are a little less than an interval apart
	return f.Interval, f.err
}

// ask reads the pointer, and says whether it is another one than that of the last time.
func (f *Follower) ask(ctx context.Context) (moved bool, err error) {
	got, version, err := f.Store.Look(ctx, f.version)
	switch {
	case errors.Is(err, store.ErrUnmodified):
	case err != nil:
		return false, err
	default:
		moved = !bytes.Equal(got.Document, f.document)
		f.document, f.version = got.Document, version
		f.state.Generation, f.state.Release, f.state.Rollout = got.Generation, got.Release, status.Rollout{}
		f.aim = got.Highest()
	}
	f.state.Looked = time.Now().UTC().Truncate(time.Second)
	return moved, nil
}

// reach brings the volume to what the pointer names, whatever that is by then.
func (f *Follower) reach(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, mostTime)
	defer cancel()
	v, id, err := f.Member.Volume(ctx)
	if err != nil {
		return waiting{err}
	}
	defer func() { _ = v.Close() }()
	on, err := v.Current()
	if err != nil {
		return err
	}
	if b := f.unusable; b.volume == id && b.release == on && time.Now().Before(b.rests) {
		return f.err
	}
	err = errMoved
	for tries := 0; errors.Is(err, errMoved) && tries < mostMoves; tries++ {
		var to target
		if to, err = f.believe(ctx, v, id); err == nil {
			err = f.bring(ctx, v, id, to)
		}
	}
	if _, ran := errors.AsType[badPrograms](err); err != nil && !ran {
		f.owed = f.owed || isDrained(v)
	}
	if errors.Is(err, release.ErrBase) {
		f.unusable = base{id, on, time.Now().Add(baseRest)}
		err = advice.Try(err, "ebs-release-agent up, which makes another volume")
	}
	return err
}

// isDrained also finds what nobody here knows of: drain.d may have begun after the follower that
// asked for it was killed.
func isDrained(v *release.Volume) bool {
	drained, err := v.Drained()
	return err == nil && drained
}

// target is the pointer as it counts for this member, and what the volume keeps for a rollout.
type target struct {
	pointer.Pointer

	held map[string]string
}

// believe refuses what no key of this volume has signed, what is of another store, and what goes
// back. All of that is asked of the pointer as a whole, but for the fence.
func (f *Follower) believe(ctx context.Context, v *release.Volume, id string) (target, error) {
	refuse := func(err error, try string) (target, error) {
		return target{}, advice.Try(fmt.Errorf("the pointer %s is refused: %w", f.Store.Place(), err), "%s", try)
	}
	const cached = "look for a cache or a restored release.json behind the pointer's URL, or publish again"
	said, err := pointer.Parse(f.document)
	if err == nil {
		err = v.CheckStore(said.Store) // first: nothing of two stores can be compared
	}
	if err != nil {
		return refuse(err, "look at `pointer` in the agent's settings")
	}
	p, err := catchup.Believe(v, f.document, f.Trusted)
	if err == nil && len(f.Trusted) == 0 {
		var keys []pointer.PublicKey
		if keys, err = catchup.KeysOf(v); err == nil && len(keys) == 0 {
			err = fmt.Errorf("%w: %s has none", pointer.ErrUnsigned, v.Root())
		}
	}
	switch {
	case err != nil:
		return refuse(err, "find out who wrote it, and with which key")
	case p.Generation < f.Least:
		return refuse(fmt.Errorf("it says generation %d, and min-generation is %d", p.Generation, f.Least), cached)
	}
	to, err := f.own(ctx, p)
	if err != nil {
		return target{}, err
	}
	if err := v.CheckFence(to.Generation); err != nil {
		return refuse(err, cached)
	}
	fence, err := v.Generation()
	if err != nil {
		return target{}, err
	}
	now, before := status.Believed{VolumeID: id, Generation: p.Generation, Revision: p.Revision, Fence: fence}, f.state.Believed
	if id == before.VolumeID && fence >= before.Fence && now.OlderThan(before) {
		return refuse(fmt.Errorf("it goes back to generation %d, revision %d, from generation %d, revision %d",
			p.Generation, p.Revision, before.Generation, before.Revision), cached)
	}
	f.state.Believed = now
	f.keep()
	return to, nil
}

// own is what a pointer that is signed says to this member.
func (f *Follower) own(ctx context.Context, p pointer.Pointer) (target, error) {
	if p.Rollout == nil {
		f.aim = p.Generation
		return target{Pointer: p}, nil
	}
	me, err := f.Member.Who(ctx)
	if err != nil {
		return target{}, fmt.Errorf("see on which side of the rollout of generation %d this member is: %w", p.Rollout.Generation, err)
	}
	to := target{p.For(me), p.Both()}
	f.aim = to.Generation
	f.state.Generation, f.state.Release, f.state.Rollout = to.Generation, to.Release, Side(p, me)
	return to, nil
}

// Side is on which side of a pointer's rollout an instance is; a zero one: there is no rollout.
func Side(p pointer.Pointer, of pointer.Instance) status.Rollout {
	if p.Rollout == nil {
		return status.Rollout{}
	}
	return status.Rollout{Generation: p.Rollout.Generation, Release: p.Rollout.Release, HasIt: p.Rollout.Includes(of)}
}

// bring makes the pointer's release current, with all that follows from that. errMoved: it is not
// the pointer's any more.
func (f *Follower) bring(ctx context.Context, v *release.Volume, id string, p target) error {
	current, err := v.Current()
	if err != nil {
		return err
	}
	if current != p.Release {
		err = f.flip(ctx, v, current, p)
	} else if fence, of, fenceErr := v.Fence(); fenceErr != nil || fence != p.Generation || of != p.Release {
		err = v.Raise(ctx, p.Release, p.Digest, p.Generation) // nothing changes for the application
	}
	if errors.Is(err, release.ErrNotCurrent) { // another verb was faster, and has put that into service
		f.drained = flipTo{}
		return errMoved
	}
	if err != nil {
		return err
	}
	f.state.Believed.Fence = p.Generation
	if err := catchup.SetKeys(ctx, v, p.Keys, ""); err != nil {
		return err
	}
	failed := f.runPrograms(ctx, v)
	if ctx.Err() != nil { // that they were left alone says nothing of them
		return ctx.Err()
	}
	if errors.Is(failed, errMoved) { // nor does this
		return failed
	}
	if err := f.report(ctx, v, id, p.Pointer); err != nil {
		return errors.Join(failed, err)
	}
	if failed != nil {
		return failed
	}
	if _, err := v.Prune(ctx, f.wanted(p)); err != nil {
		return fmt.Errorf("remove old releases: %w", err)
	}
	return nil
}

// wanted is what to keep: the rule of who pushes, by what the signed pointer tells of the history.
func (f *Follower) wanted(p target) gc.Wanted {
	return gc.Wanted{Keep: f.Keep, Committed: p.Committed(), Held: p.held}
}

// flip catches up beside what is served, asks once more, and flips.
func (f *Follower) flip(ctx context.Context, v *release.Volume, current string, p target) error {
	began := time.Now()
	to := catchup.Volume{Volume: v, Packs: f.Store.Store, Tries: packTries, Served: true, Wanted: f.wanted(p)}
	way, err := to.To(ctx, p.Pointer)
	next := flipTo{p.Generation, p.Release}
	if err == nil && f.staged != next {
		if err = f.Member.Stage(ctx, p.Pointer); err == nil {
			f.staged = next
		} else if _, refuses := errors.AsType[Refusal](err); refuses {
			err = refused{err}
		}
	}
	if err := f.still(ctx, err); err != nil {
		return err
	}
	// A pointer that moves while they run, as it often does in a rollout, need not name anything else
	// for this member.
	if f.drained != next {
		drained, err := f.Member.Drain(ctx, p.Pointer)
		if drained {
			f.owed = true
			if err == nil {
				f.drained = next
			}
			err = f.still(ctx, err)
		}
		if err != nil {
			return err
		}
	}
	from := release.From{Release: current, Drained: current != "" && f.drained == next}
	if err := v.ActivateFrom(ctx, from, p.Release, p.Digest, p.Generation); err != nil {
		return err
	}
	f.Log.Info(fmt.Sprintf("generation %d is current: release %s, by %s, %s, in %s", p.Generation, p.Release,
		words.Count(way.Packs, "pack"), words.Bytes(way.Bytes), time.Since(began).Round(time.Millisecond)))
	return nil
}

// still asks once more: errMoved, and otherwise err, or that nobody knows whether it moved.
func (f *Follower) still(ctx context.Context, err error) error {
	moved, readErr := f.ask(ctx)
	switch {
	case readErr == nil && moved:
		return errMoved
	case err != nil:
		return err
	}
	return readErr
}

// settle is for a look that failed: what is served goes on being served, so what drain.d has taken
// out of service is put into service again. err stays the error of the look.
func (f *Follower) settle(ctx context.Context, err error) error {
	if err == nil || !f.owed && f.unread == 0 || ctx.Err() != nil {
		return err
	}
	v, _, openErr := f.Member.Volume(ctx)
	if openErr != nil { // the boot is not over: a later look
		return err
	}
	defer func() { _ = v.Close() }()
	if !f.owed && !isDrained(v) {
		return err
	}
	if failed := f.runPrograms(ctx, v); failed != nil {
		f.owed = true
		if errors.Is(failed, errMoved) { // the next look goes there
			f.due = time.Time{}
		}
		return advice.Errorf("%w; and %w", err, failed)
	}
	return err
}

// runPrograms runs them until they have succeeded for what is active now. Those that were under way
// already may have been for what was active before: then once more.
func (f *Follower) runPrograms(ctx context.Context, v *release.Volume) error {
	f.owed, f.drained = false, flipTo{}
	for range 2 {
		done, err := v.ProgramsDone()
		if err != nil || done {
			return err
		}
		left := f.left
		err = f.whileItStays(ctx, f.Member.RunPrograms)
		if err != nil && (!left || ctx.Err() != nil || errors.Is(err, errMoved)) {
			return badPrograms{fmt.Errorf("programs: %w", err)}
		}
	}
	if done, err := v.ProgramsDone(); err != nil || done {
		return err
	}
	return advice.Try(errors.New("programs of activate.d: they ended well, and left no mark"), "journalctl -u ebs-release-activate")
}

// whileItStays waits for programs, but not beyond the pointer's next move: they may wait for an
// application that does not come up, and what is published to replace it must not.
func (f *Follower) whileItStays(ctx context.Context, run func(context.Context) error) error {
	waits, leave := context.WithCancel(ctx)
	defer leave()
	ended := make(chan error, 1)
	go func() { ended <- run(waits) }()
	looks := time.NewTicker(f.Interval)
	defer looks.Stop()
	for {
		select {
		case err := <-ended:
			f.left = false
			return err
		case <-looks.C:
		}
		if moved, err := f.ask(ctx); err == nil && moved {
			leave()
			f.left = <-ended != nil
			return errMoved
		}
	}
}

// report follows from the mark alone.
func (f *Follower) report(ctx context.Context, v *release.Volume, id string, p pointer.Pointer) error {
	if err := v.CheckActive(p.Release, p.Generation); errors.Is(err, release.ErrFenced) { // a push was faster
		return nil
	} else if err != nil {
		return err
	}
	done, err := v.ProgramsDone()
	if err != nil {
		return err
	}
	r := status.Reported{VolumeID: id, Generation: p.Generation, Release: p.Release, Ready: done}
	if f.reported(r) {
		return nil
	}
	if err := f.Member.Report(ctx, r); err != nil {
		f.quiet = time.Now().Add(complainRest)
		return fmt.Errorf("report: %w", err)
	}
	f.state.Reported, f.state.Told = r, trouble.Trouble{} // in a store it is where the trouble was
	f.keep()
	return nil
}
