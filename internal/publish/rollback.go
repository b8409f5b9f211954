package publish

import (
	"context"
	"fmt"

	"ebs-release/internal/advice"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
)

// Target is the release that a rollback goes back to.
type Target struct {
	Generation int64 // that it was published as; 0: not known
	Release    string
	Digest     string
	SnapshotID string // a snapshot in which it is current; "": make one
}

// Rollback makes an older release current: a new generation of a tree that is still on the release
// volume, and that most members still hold, so that they fetch little or nothing. choose is called
// under the lock with the pointer as it is. A snapshot that choose names is used again: the
// generation on it is lower than the pointer's, and the agent raises it when it boots from there.
func (p *Publisher) Rollback(ctx context.Context, choose func(context.Context, pointer.Pointer) (Target, error)) (Outcome, error) {
	var target Target
	r := newRun(p, "")
	r.goesBack = true
	r.force = true // what is current is bad: at least what boots from here on gets another one
	return r.do(ctx, []phase{
		{"P0", "check", (*run).checkAndHook},
		{"P1", "choose", func(r *run, ctx context.Context) (err error) {
			if err = r.claim(ctx); err != nil {
				return err
			}
			if target, err = choose(ctx, r.before); err != nil {
				return err
			}
			return r.goBack(ctx, target)
		}},
		{"P2", "pack", func(r *run, ctx context.Context) error {
			if target.SnapshotID == "" {
				return r.pack(ctx)
			}
			if _, err := r.leadHere(ctx); err != nil { // for members that boot with what they have
				r.say(Event{Kind: KindWarning, Text: fmt.Sprintf("members that boot with an older volume will replace it: %v", err)})
			}
			r.asked = true                       // whether it is still there
			r.startsWith(target.SnapshotID, nil) // not to be deleted when this fails
			r.say(Event{Kind: KindNote, Text: fmt.Sprintf("%s of generation %d serves again", target.SnapshotID, target.Generation)})
			return nil
		}},
		{"P3", "stage", (*run).stage},
		{"P4", "commit", (*run).commit},
		{"P5", "converge", (*run).converge},
		{"P6", "snapshot", (*run).snapshotLater},
		{"P7", "report", (*run).report},
	})
}

// goBack is P1 of a rollback: the older release is the next one.
func (r *run) goBack(ctx context.Context, target Target) error {
	if err := r.Tree.Untouched(ctx, target.Release); err != nil {
		return advice.Try(err, "publish its source again, or go back to another release (ebs-release history)")
	}
	previous, err := r.Tree.Current()
	if err != nil {
		return fmt.Errorf("read which release is current on the release volume: %w", err)
	}
	r.tree = release.Ingested{ID: target.Release, Digest: target.Digest, Previous: previous, Reused: true}
	r.next.Release, r.next.Digest = target.Release, target.Digest
	r.say(Event{Kind: KindNote, Text: fmt.Sprintf("back to release %s (generation %d)", target.Release, target.Generation)})
	return nil
}

// Preview is what a publish would meet.
type Preview struct {
	Before  pointer.Pointer // the pointer as it is
	Behind  bool            // the release volume does not have its release: a publish begins by catching up
	Next    int64           // the generation that would be next
	Members []Member
}

// Preview is P0 alone: it takes the lock for as long as it looks, tries everything that could fail
// later but for the operator's programs, which may change what they like, and changes nothing.
func (p *Publisher) Preview(ctx context.Context) (Preview, error) {
	r := newRun(p, "")
	r.looks = true
	outcome, err := r.do(ctx, []phase{{"P0", "check", (*run).check}})
	behind := r.before.Generation > 0 && !r.hasHere(r.before.Release, r.before.Digest)
	return Preview{r.before, behind, r.next.Generation, outcome.Members}, err
}

// ResultRolledBack is how a publish ended that did not converge and went back by itself.
const ResultRolledBack = "rolled-back"
