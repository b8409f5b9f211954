package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"ebs-release/internal/advice"
	"ebs-release/internal/catchup"
	"ebs-release/internal/gc"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/snapshot"
	"ebs-release/internal/words"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// Joining: a release server takes the place of another one, or works beside it. Its volume is made
// from the newest snapshot of the store. Who may make such a snapshot is guarded by its tag, and
// the keys of this server, or else those on it, say whether the pointer is believed: the pointer
// itself is asked for nothing but which of these snapshots packs lead on from.

// startsFrom says which snapshot a new release volume is made from, and that for a person; "": it
// is blank.
func (i *Server) startsFrom(ctx context.Context) (id, says string, err error) {
	directory, err := i.openStore(ctx)
	switch {
	case err != nil:
		return "", "", err
	case directory == nil && i.Wish.Join:
		return "", "", advice.Try(fmt.Errorf("there is no pointer store at %q to join", i.PointerStore),
			"set pointer-store; for a directory, copy the store's there")
	case directory == nil:
		return "", "", nil
	}
	found, err := directory.Look(ctx)
	if err != nil || !i.Wish.Join && found.Generation == 0 {
		return "", "", err
	}
	newest, err := i.newest(ctx, directory, found.Pointer)
	switch {
	case errors.Is(err, errNone) && !i.Wish.Join: // then a blank one is all that can be had
		return "", "", nil
	case err != nil:
		return "", "", err
	case !i.Wish.Join:
		return "", "", advice.Try(fmt.Errorf("the pointer store %s is at generation %d, and has the snapshot %s: "+
			"a blank volume would begin with nothing",
			i.PointerStore, found.Generation, newest.ID),
			"ebs-release init --join")
	}
	return newest.ID, fmt.Sprintf(" from %s (generation %d)", newest.ID, newest.Generation), nil
}

var errNone = errors.New("no snapshot leads to the release of the pointer")

// newest returns the newest completed snapshot of the store from which the pointer's packs lead to
// its release.
func (i *Server) newest(ctx context.Context, directory *pointer.Store, p pointer.Pointer) (snapshot.Old, error) {
	none := snapshot.Old{}
	own, err := directory.ID(ctx)
	if err != nil {
		return none, err
	}
	if own != "" && i.Wish.Store != "" && own != i.Wish.Store {
		return none, fmt.Errorf("--store %s: the pointer store %s is store %s", i.Wish.Store, i.PointerStore, own)
	}
	id := cmp.Or(own, i.Wish.Store)
	ctx, cancel := context.WithTimeout(ctx, volumeTime)
	defer cancel()
	all, err := snapshot.All(ctx, i.Snapshots)
	if err != nil {
		return none, err
	}
	all = slices.DeleteFunc(all, func(o snapshot.Old) bool { return o.State != types.SnapshotStateCompleted || o.Generation == 0 })
	slices.SortStableFunc(all, func(a, b snapshot.Old) int { return cmp.Compare(a.Generation, b.Generation) })
	if id == "" && p.Generation == 0 {
		return none, advice.Try(fmt.Errorf("the pointer store %s is empty, so it does not say which store it is", i.PointerStore),
			"correct pointer-store, or copy the store there; when it is lost, say whose place it takes: init --join --store ID. %s", stores(all))
	}
	of := slices.DeleteFunc(slices.Clone(all), func(o snapshot.Old) bool { return o.Store != id })
	if len(of) == 0 {
		return none, advice.Try(fmt.Errorf("%w: there is no completed snapshot of store %s in this account and Region. %s",
			errNone, cmp.Or(id, "(without an id)"), stores(all)),
			"ebs-release init, which makes a blank volume; then publish the source again")
	}
	last := of[len(of)-1]
	if p.Generation == 0 {
		return last, nil
	}
	if last.Generation > p.Generation {
		return none, advice.Try(fmt.Errorf("the pointer in %s is at generation %d, and %s of the same store at %d: "+
			"the pointer is an old copy, or that publish ended before its commit", i.PointerStore, p.Generation, last.ID, last.Generation),
			"put the newer release.json back; if generation %d was never committed "+
				"(ebs-release history): aws ec2 delete-snapshot --snapshot-id %s", last.Generation, last.ID)
	}
	for _, o := range slices.Backward(of) {
		_, found := p.Way(func(digest string) bool { return digest != "" && strings.HasSuffix(o.Release, "-"+digest[:12]) })
		if found {
			return o, nil
		}
	}
	return none, advice.Try(fmt.Errorf("%w: no packs of the pointer in %s lead from any of its %s to release %s",
		errNone, i.PointerStore, words.Count(len(of), "snapshot"), p.Release),
		"ebs-release init, which makes a blank volume; then publish the source again")
}

// stores says of which stores there are snapshots.
func stores(all []snapshot.Old) string {
	newest := map[string]snapshot.Old{}
	for _, o := range all {
		newest[o.Store] = o // of the highest generation: they are in that order
	}
	var says []string
	for _, id := range slices.Sorted(maps.Keys(newest)) {
		o := newest[id]
		says = append(says, fmt.Sprintf("of store %s generation %d, release %s (%s)",
			cmp.Or(id, "(without an id)"), o.Generation, o.Release, o.ID))
	}
	if len(says) == 0 {
		return "There are no release snapshots here"
	}
	return "The newest snapshots here are: " + strings.Join(says, "; ")
}

// join brings the volume to what the pointer names, if it believes it.
func (i *Server) join(ctx context.Context, directory *pointer.Store) (err error) {
	v, err := release.Open(i.MountPoint)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	unlock, err := v.LockPublish()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	found, err := directory.Look(ctx) // while no publish here can move it on
	if err != nil {
		return err
	}
	if found.Generation == 0 {
		i.needs("nothing is published in %s: publish the release that the members report (ebs-release status), as /release/releases/ID",
			i.PointerStore)
		return nil
	}
	keys := Keys{i.SigningKey, v}
	p, err := i.believe(keys, found)
	if err != nil {
		return err
	}
	way, err := catchup.OnServer(v, directory.Objects(), gc.Wanted{Keep: 1}).To(ctx, p)
	if errors.Is(err, catchup.ErrNoWay) || errors.Is(err, catchup.ErrGone) {
		err = advice.Try(err, "publish once more on the other server; when there is none: unmount and delete this volume, "+
			"ebs-release init, and publish the source again")
	}
	if err != nil {
		return fmt.Errorf("bring %s to generation %d of the pointer in %s: %w", i.report.VolumeID, p.Generation, i.PointerStore, err)
	}
	if way.Packs > 0 {
		i.did("caught up %s", way.Says(p.Release))
	}
	fence, err := v.Generation()
	if err != nil {
		return err
	}
	current, err := v.Current()
	if err != nil {
		return err
	}
	if number := catchup.Number(p, fence, current); number > 0 {
		if err := v.Activate(ctx, p.Release, p.Digest, number); err != nil {
			return err
		}
		i.did("generation %d of store %s, release %s, is current on the volume", p.Generation, p.Store, p.Release)
	}
	return i.takeKeys(ctx, keys, p)
}

// needs adds to what a person has to do.
func (i *Server) needs(format string, args ...any) {
	if i.report.Needs != "" {
		i.report.Needs += "; "
	}
	i.report.Needs += fmt.Sprintf(format, args...)
}
