// Package warm reads all files of the release that is served, once, after the boot: side by side,
// from the disk itself, and compares each with its sha256 in the same read. A volume that EBS loads
// from a snapshot is fast from then on, and what it holds is proven. (Warm pools, and "warmed" in
// package boot, are another thing.)
//
// It holds no lock while it reads, and lets go of the volume within a second when a boot or another
// release comes. Of the next release it reads only what it has not read yet. Killed, it begins
// again. A file that the disk has damaged is healed from the store's packs; where they do not have
// it, it is named, and goes on being served: an outage would be worse, and only the operator knows
// what the file is for.
package warm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/catchup"
	"ebs-release/internal/release"
	"ebs-release/internal/status"
	"ebs-release/internal/words"

	smithytime "github.com/aws/smithy-go/time"
)

// Place is what is served: a release on a volume. The zero value is nothing.
type Place struct{ VolumeID, Release string }

// ErrNotYet is of Member.Report: the programs of the release have not succeeded yet, or another one
// is on its way.
var ErrNotYet = errors.New("the programs have not succeeded yet, or another release came")

// Member is this machine.
type Member interface {
	// Serves says what is served now, without waiting for a disk; nothing as long as a boot is under
	// way.
	Serves() Place
	// Volume opens the release volume, and says its id.
	Volume(ctx context.Context) (v *release.Volume, id string, err error)
	// Heal puts what the store has in the place of damaged files.
	Heal(ctx context.Context, v *release.Volume, bad []release.Damage) (healed int, err error)
	// Report tells the publisher.
	Report(ctx context.Context, v status.Verified) error
	// Tell keeps how far it is, for people.
	Tell(w status.Warm) error
}

// Timing of a Warmer.
type Timing struct {
	Look   time.Duration // between two looks at what is served, while it is read
	Idle   time.Duration // the same, when all is read
	Stall  time.Duration // without a read that ends: the disk does not answer
	Grace  time.Duration // for reads to end that are not wanted any more
	Spread time.Duration // reports of a fleet are spread over it
	Retry  time.Duration // until a report or a healing that failed is tried again
}

// DefaultTiming is for a real instance.
func DefaultTiming() Timing {
	return Timing{
		Look: 500 * time.Millisecond, Idle: 5 * time.Second, Stall: 30 * time.Second, Grace: 500 * time.Millisecond,
		Spread: 20 * time.Second, Retry: 10 * time.Minute,
	}
}

// Warmer has the parts that it works with, and what it knows.
type Warmer struct {
	Member Member
	Log    *slog.Logger
	Timing Timing

	proof       *release.Proof // of the volume in now
	done        Place          // that was read to its end
	now         status.Warm
	again       time.Time // when something is tried again; zero: nothing is
	due         time.Time // when the publisher is told, if it was not
	interrupted bool      // the last pass was: something else is served
	warned      string
}

// Run reads what is served, whenever that is another release, until ctx ends.
func (w *Warmer) Run(ctx context.Context) {
	for ctx.Err() == nil {
		at := w.Member.Serves()
		switch {
		case at == Place{}:
		case at != w.done, !w.again.IsZero() && time.Now().After(w.again):
			if err := w.pass(ctx, at); err != nil {
				w.trouble(ctx, err)
			}
		case time.Now().After(w.due):
			w.report(ctx)
		}
		pause := w.Timing.Idle
		if w.interrupted {
			pause = w.Timing.Look
		}
		if smithytime.SleepWithContext(ctx, pause) != nil {
			return
		}
	}
}

// found is what a pass came to.
type found struct {
	bad    []release.Damage
	sum    int
	healed int
	heal   error // why not all of it was healed; nil also where there was nothing to heal
	err    error // it did not come to its end
}

// pass reads one release, to its end or until another one is served.
func (w *Warmer) pass(ctx context.Context, at Place) error {
	w.interrupted = false
	v, id, err := w.Member.Volume(ctx)
	if err != nil {
		return err
	}
	current, err1 := v.Current()
	generation, err2 := v.Generation()
	if err := errors.Join(err1, err2); err != nil || (Place{id, current}) != at {
		w.interrupted = err == nil
		return errors.Join(err, v.Close())
	}
	if w.proof == nil || w.now.VolumeID != id {
		w.proof = release.NewProof()
	}
	w.now = status.Warm{
		VolumeID: id, Generation: generation, Release: current, Started: time.Now().UTC(), Verified: w.now.Verified,
	}
	reads, cancel := context.WithCancel(ctx)
	defer cancel()
	p := &pass{release: current, proof: w.proof, ended: make(chan found, 1)}
	go func() {
		f := p.read(reads, w.Member, v, w.Log)
		_ = v.Close()
		p.ended <- f
	}()
	return w.watch(ctx, at, p, cancel)
}

// pass is one release that is being read.
type pass struct {
	release string
	proof   *release.Proof
	healing atomic.Bool // it waits for the store
	ended   chan found
}

// read proves a release, and heals what the disk has damaged.
func (p *pass) read(ctx context.Context, member Member, v *release.Volume, log *slog.Logger) (f found) {
	f.bad, f.sum, f.err = v.Prove(ctx, p.release, p.proof)
	if f.err != nil || f.sum == 0 {
		return f
	}
	for _, d := range f.bad[:min(len(f.bad), mostNamed)] {
		log.Error("damaged file", "release", p.release, "file", d.Path, "error", d.Why)
	}
	p.healing.Store(true)
	defer p.healing.Store(false)
	for more := true; more; { // Prove keeps so many, and there may be more
		var healed int
		if healed, f.heal = member.Heal(ctx, v, f.bad); healed == 0 {
			return f
		}
		before, kept := f.sum, len(f.bad)
		f.bad, f.sum, f.err = v.Prove(ctx, p.release, p.proof) // only what is new, and what is damaged
		f.healed += max(before-f.sum, 0)
		more = f.err == nil && 0 < f.sum && f.sum < before && before > kept
	}
	log.Info(fmt.Sprintf("healed %s from the packs of the store", words.Count(f.healed, "file")), "release", p.release)
	return f
}

// mostNamed is how many damaged files are named.
const mostNamed = 20

// watch tells how far a pass is, and ends it when something else is served. A disk that does not
// answer keeps its readers: they are left behind, and end when it does.
func (w *Warmer) watch(ctx context.Context, at Place, p *pass, cancel func()) error {
	tick := time.NewTicker(w.Timing.Look)
	defer tick.Stop()
	var last release.Progress
	moved, told := time.Now(), time.Time{}
	for {
		select {
		case f := <-p.ended:
			return w.end(ctx, at, f)
		case <-ctx.Done():
		case <-tick.C:
		}
		if ctx.Err() != nil || w.Member.Serves() != at {
			cancel()
			select {
			case <-p.ended:
			case <-time.After(w.Timing.Grace):
				w.proof = nil
			}
			w.interrupted = true
			return nil
		}
		now := p.proof.Progress()
		switch {
		case now != last || p.healing.Load():
			last, moved, w.now.Trouble = now, time.Now(), ""
		case time.Since(moved) > w.Timing.Stall && w.now.Trouble == "":
			w.trouble(ctx, advice.Try(fmt.Errorf("the disk does not answer: nothing was read for %s", w.Timing.Stall),
				"aws ec2 describe-volume-status --volume-ids %s", at.VolumeID))
		}
		if time.Since(told) >= tellEvery {
			told = time.Now()
			w.progress(now)
			w.tell()
		}
	}
}

// tellEvery is how old what people see may be.
const tellEvery = time.Second

func (w *Warmer) progress(p release.Progress) {
	w.now.Files, w.now.AllFiles, w.now.Bytes, w.now.AllBytes = p.Files, p.AllFiles, p.Bytes, p.AllBytes
	w.now.Updated = time.Now().UTC()
}

// end keeps what a pass came to.
func (w *Warmer) end(ctx context.Context, at Place, f found) error {
	if f.err != nil {
		return f.err
	}
	if w.Member.Serves() != at { // what was missing may have gone with its release
		w.interrupted = true
		return nil
	}
	w.progress(w.proof.Progress())
	v := status.Verified{
		VolumeID: at.VolumeID, Generation: w.now.Generation, Release: at.Release, When: time.Now().UTC(),
		Files: w.now.AllFiles, Bytes: w.now.AllBytes, Bad: f.sum, Healed: f.healed,
	}
	for _, d := range f.bad[:min(len(f.bad), mostNamed)] {
		v.Named = append(v.Named, words.Printable(d.String()))
	}
	w.done, w.again, w.now.Verified, w.now.Trouble = at, time.Time{}, &v, ""
	took := w.now.Updated.Sub(w.now.Started).Round(time.Millisecond)
	w.Log.Info(fmt.Sprintf("read %s, %s in %s", words.Count(int(v.Files), "file"), words.Bytes(v.Bytes), took),
		"release", at.Release, "damaged", v.Bad, "healed", v.Healed)
	if v.Bad > 0 {
		w.now.Trouble = words.OneLine(w.notHealed(f))
		w.Log.Error(w.now.Trouble, "release", at.Release)
	}
	w.tell()
	w.due = time.Now().Add(rand.N(w.Timing.Spread + 1)) // members that booted together do not report together
	return nil
}

// notHealed says why files stay damaged, and has it tried again where that may help.
func (w *Warmer) notHealed(f found) error {
	err := f.heal
	if err != nil && !errors.Is(err, catchup.ErrNoPack) {
		w.again = time.Now().Add(w.Timing.Retry)
	}
	if err == nil {
		err = errors.New("a program has changed them, or what is damaged is no file's content: neither is healed")
	}
	return advice.Try(fmt.Errorf("%s damaged, the first: %s: %w", words.Count(f.sum, "file"), f.bad[0], err),
		"replace this instance; ebs-release-agent verify names what is wrong")
}

func (w *Warmer) report(ctx context.Context) {
	err := w.Member.Report(ctx, *w.now.Verified)
	switch {
	case err == nil:
		w.due = never()
	case errors.Is(err, ErrNotYet):
		w.due = time.Now()
	case ctx.Err() == nil: // an older policy may not allow the tag: EC2 has other things to do
		w.due = time.Now().Add(w.Timing.Retry)
		w.Log.Info("the publisher could not be told that all files were read", "error", err)
	}
}

// never is when nothing is due any more.
func never() time.Time { return time.Now().AddDate(100, 0, 0) }

// trouble keeps what is wrong, and logs it once.
func (w *Warmer) trouble(ctx context.Context, err error) {
	if err == nil || ctx.Err() != nil {
		return
	}
	if w.now.Trouble = words.OneLine(err); w.now.Trouble != w.warned {
		w.warned = w.now.Trouble
		w.Log.Warn(w.now.Trouble)
	}
	w.tell()
}

func (w *Warmer) tell() {
	if err := w.Member.Tell(w.now); err != nil {
		w.Log.Debug("cannot keep how far it is", "error", err)
	}
}
