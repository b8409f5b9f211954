package protocol

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"ebs-release/internal/catchup"
	"ebs-release/internal/exit"
	"ebs-release/internal/gc"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
	"ebs-release/internal/release"
)

// The release volume of the server is its own, and a lock keeps it to one publish at a time: no
// steps, unless two verbs work on it.

// here is something on the release volume.
func (d *desk) here(what string, do func() error) (err error) {
	if !d.together {
		return errors.Join(d.alive(), do())
	}
	dead := d.a.step(what+" on the release volume", func() string {
		err = do()
		return fmt.Sprint(err, d.content)
	})
	return errors.Join(dead, err)
}

func (d *desk) Current() (id string, err error) {
	err = d.here("current", func() error { id = d.content.release; return nil })
	return id, err
}

func (d *desk) Generation() (n int64, err error) {
	err = d.here("fence", func() error { n = d.content.generation; return nil })
	return n, err
}

func (d *desk) ManifestDigest(id string) (string, error) { return d.trees[id], d.alive() }

func (d *desk) Ingest(_ context.Context, source string, _ time.Time, _ gc.Wanted) (release.Ingested, error) {
	if err := d.alive(); err != nil {
		return release.Ingested{}, err
	}
	id, digest := "r"+source, "d"+source
	d.trees[id] = digest
	return release.Ingested{ID: id, Digest: digest, Previous: d.content.release}, nil
}

func (d *desk) Activate(_ context.Context, id, _ string, generation int64) error {
	if err := d.alive(); err != nil {
		return err
	}
	return d.here("activate "+id, func() error { return d.content.activate(id, generation, false) })
}

func (d *desk) CheckActive(id string, generation int64) error {
	if d.content != (image{generation, id}) {
		return fmt.Errorf("%v is active, want %s at %d", d.content, id, generation)
	}
	return d.alive()
}

// LockPublish is P0's, claim is P1's: the same lock.
func (d *desk) LockPublish() (func() error, error) {
	if !d.together || d.mutant == noVolumeLock || d.mutant == noVolumeLockNorLook {
		return func() error { return nil }, d.alive()
	}
	return d.lockVolume()
}

func (d *desk) claim(context.Context) (string, func() error, error) {
	unlock, err := d.lockVolume()
	return "", unlock, err
}

func (d *desk) lockVolume() (unlock func() error, err error) {
	err = d.here("lock", func() error {
		if d.publishing != "" {
			return exit.With(exit.Conflict, release.ErrPublishing)
		}
		d.publishing = d.name
		return nil
	})
	return func() error { return d.here("unlock", func() error { d.publishing = ""; return nil }) }, err
}

// Make is of publish.Packs, and no step: nobody knows a pack before the pointer lists it.
func (d *desk) Make(_ context.Context, from, to string) (pointer.Edge, error) {
	return pointer.Edge{From: d.trees[from], To: d.trees[to], Release: to, Bytes: 1, Made: time.Now()}, d.alive()
}

// CatchUp is of publish.Tree, and no step either: the packs that a pointer lists stay.
func (d *desk) CatchUp(_ context.Context, to pointer.Pointer, _ gc.Wanted) (way catchup.Way, err error) {
	_, found := to.Way(func(digest string) bool { return slices.Contains(slices.Collect(maps.Values(d.trees)), digest) })
	if !found {
		return way, errors.Join(catchup.ErrNoWay, d.alive())
	}
	if d.mutant != notCaughtUp {
		d.trees[to.Release] = to.Digest
	}
	return way, d.alive()
}

type snapshots struct{ *desk }

// Create and WaitCompleted are no steps: nobody else knows the snapshot before the pointer names
// it, or the history has it. What Create does on the volume is one, where two verbs work there:
// nobody writes between its look under the freeze and the snapshot.
func (s snapshots) Create(_ context.Context, r publish.SnapshotRequest) (id string, _ time.Duration, err error) {
	if s.together {
		err = s.here("freeze and snapshot", func() (err error) { id, err = s.create(r); return err })
		return id, 0, err
	}
	s.s.mu.Lock() // P5 may have ended by a clock alone
	defer s.s.mu.Unlock()
	id, err = s.create(r)
	return id, 0, err
}

func (s snapshots) create(r publish.SnapshotRequest) (string, error) {
	if err := errors.Join(s.alive(), r.Frozen()); err != nil && s.mutant != noVolumeLockNorLook {
		return "", err
	}
	id := fmt.Sprintf("snap-%d%s", r.Holds.Generation, s.name)
	s.world.snapshots[id] = s.content
	s.listed = append(s.listed, publish.Snapshot{ID: id, Holds: r.Holds, Pending: true})
	return id, nil
}

// List shows what EBS has not completed as pending, or completes all of it now.
func (s snapshots) List(context.Context) (all []publish.Snapshot, err error) {
	if !s.leaves { // whoever makes one names it
		return nil, s.alive()
	}
	ways := func() int {
		if slices.ContainsFunc(s.listed, func(l publish.Snapshot) bool { return l.Pending }) {
			return 2
		}
		return 1
	}
	err = s.a.choice("list snapshots", false, ways, func(way int) string {
		all = slices.Clone(s.listed)
		for i := range all {
			all[i].Completed = all[i].Completed || way == 1
			all[i].Pending = !all[i].Completed
		}
		s.listed = slices.Clone(all)
		return fmt.Sprint(all)
	})
	return all, err
}

func (s snapshots) WaitCompleted(context.Context, string, func(string)) error { return s.alive() }

func (s snapshots) Delete(_ context.Context, id string) error {
	return s.a.step("delete "+id, func() string { delete(s.world.snapshots, id); return "" })
}
