package protocol

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"ebs-release/internal/boot"
	"ebs-release/internal/pointer"
	"ebs-release/internal/status"
)

// seat is where the parts of one `up` sit: on a machine, called by an actor. What only this `up`
// can notice is no step: in any order with what others do it comes to the same.
type seat struct {
	*world
	b     *box
	a     *actor
	late  func() error  // the report that a mutant puts off
	begin func() string // what the first step does besides
}

// up starts the agent on a machine.
func (w *world) up(b *box) { w.upThen(b, nil) }

// upThen does more when the agent has begun.
func (w *world) upThen(b *box, after func()) {
	b.ups++
	b.running = w.s.spawn(fmt.Sprintf("up %d on %s", b.ups, b.id), false, func(a *actor) {
		begin := func() string {
			b.locked, b.ready, b.member = true, false, !b.pooled
			if after != nil {
				after()
			}
			return ""
		}
		if w.grain < coarse {
			if a.step("lock", begin) != nil {
				return
			}
			begin = nil
		}
		err := boot.ErrWarmed
		for ; errors.Is(err, boot.ErrWarmed); begin = nil {
			s := &seat{world: w, b: b, a: a, begin: begin}
			_, err = boot.Run(a.ctx, boot.Parts{Instance: s, Pointers: &pointers{seat: s}, Volumes: &volumes{s}, Disks: disks{s}, Mounts: mounts{s}, Gate: s, Older: w.mutant == takeOlder}, s, slog.New(slog.DiscardHandler))
			if errors.Is(err, boot.ErrWarmed) && s.rest() != nil {
				return
			}
		}
		if err == nil && w.grain >= medium {
			return
		}
		_ = a.step("unlock", func() string {
			b.locked = false
			if err != nil && !(w.back && errors.Is(err, boot.ErrOlder)) {
				w.bad = append(w.bad, fmt.Sprintf("the boot of %s failed: %v", b.id, err))
			}
			return ""
		})
	})
}

// reboot is power off and on.
func (w *world) reboot(b *box) {
	if b.running != nil {
		w.s.kill(b.running)
	}
	b.life++
	b.locked, b.ready, b.open, b.mounted, b.held = false, false, false, nil, false
	for _, v := range b.verbs {
		w.s.kill(v.a)
	}
	b.verbs, b.programs = nil, nil
	w.up(b)
	if b.follower != nil {
		w.s.kill(b.follower)
		b.memory = status.Follow{}
		w.follow(b)
	}
}

func (s *seat) alive() error {
	if s.a.dead.Load() {
		return errDead
	}
	return nil
}

func (s *seat) Identify(context.Context) (boot.Identity, error) {
	return boot.Identity{InstanceID: s.b.id, Region: region}, s.alive()
}
func (s *seat) HostKey(context.Context) (string, error)  { return "key " + s.b.id, s.alive() }
func (s *seat) Started(string, boot.Facts)               {}
func (s *seat) Ended(string, time.Duration, bool, error) {}

func (s *seat) Open(_ context.Context, f boot.Facts) error {
	if s.mutant == restsLast && s.rest() != nil {
		return errDead
	}
	return s.a.step("open the gate", func() string { s.b.open, s.b.ready, s.b.locked = true, true, s.grain < medium; return "" })
}

type pointers struct {
	*seat
	first *boot.Pointer
}

func (p *pointers) Fetch(context.Context) (boot.Pointer, error) {
	if p.first != nil && p.mutant == noReread {
		return *p.first, p.alive()
	}
	var got boot.Pointer
	err := p.a.step("fetch", func() string {
		if p.begin != nil {
			p.begin()
			p.begin = nil
		}
		now := p.pointer
		if got = p.read(now); p.first != nil && p.mutant == rereadByGeneration && now.Generation == p.first.Generation {
			got = *p.first
		}
		return fmt.Sprint(now.Generation, share(now))
	})
	p.first = &got
	if late := p.late; late != nil && err == nil {
		p.late = nil
		err = late()
	}
	return got, err
}

func (p *pointers) read(now pointer.Pointer) boot.Pointer {
	got := boot.Pointer{Generation: now.Generation, Release: now.Release, Digest: now.Digest, Snapshot: now.Snapshot}
	if p.packs {
		got.Document = fmt.Sprint(now.Generation)
	}
	if now.Rollout != nil && p.mutant != bootsOnStable {
		got.For = func(me boot.Identity) boot.Pointer {
			who := pointer.Instance{ID: me.InstanceID}
			if p.mutant == bootsOnAnothersSide {
				who.ID = before(who.ID)
			}
			return p.read(now.For(who))
		}
	}
	return got
}

type volumes struct{ *seat }

func known(d *disk) boot.Volume {
	return boot.Volume{ID: d.id, SnapshotID: d.snapshot, Attached: d.attached, Device: "/dev/xvdaa", Protected: d.protected, Reported: d.tags}
}

func (v *volumes) disk(id string) *disk {
	for _, d := range v.b.disks {
		if d.id == id {
			return d
		}
	}
	return &disk{} // gone: whatever is done to it is lost
}

func (v *volumes) Mine(context.Context, boot.Identity) (mine []boot.Volume, err error) {
	if len(v.tagged()) == 0 {
		return nil, v.alive()
	}
	err = v.a.step("mine", func() string {
		for _, d := range v.tagged() {
			mine = append(mine, known(d))
		}
		return fmt.Sprint(mine)
	})
	return mine, err
}

// Create is no step: a listing does not show what is not attached. A snapshot that the pointer
// named must be there (wrong sees to that), so a boot that does not find it has found a bug, and
// fails in the end.
func (v *volumes) Create(_ context.Context, _ boot.Identity, want boot.Wanted) (boot.Volume, error) {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	if err := v.alive(); err != nil {
		return boot.Volume{}, err
	}
	if _, ok := v.snapshots[want.SnapshotID]; !ok {
		return boot.Volume{}, fmt.Errorf("%s: %w", want.SnapshotID, boot.ErrSnapshot)
	}
	d := v.newDisk(v.b, want.SnapshotID)
	d.tags = boot.Report{Generation: want.Generation, Release: want.Release}
	return known(d), nil
}

func (v *volumes) Attach(_ context.Context, _ boot.Identity, volume boot.Volume, _ []string) (boot.Volume, error) {
	if v.losses > 0 {
		v.s.mu.Lock()
		defer v.s.mu.Unlock()
		v.losses--
		return volume, errors.Join(v.alive(), boot.ErrVolume)
	}
	attach := func() string { v.disk(volume.ID).attached = true; return "" }
	volume.Attached = true
	if v.grain >= coarse && !v.reboots { // a reboot may come between making a volume and attaching it
		v.s.mu.Lock()
		defer v.s.mu.Unlock()
		if err := v.alive(); err != nil {
			return volume, err
		}
		attach()
		return volume, nil
	}
	return volume, v.a.step("attach", attach)
}

func (v *volumes) Protect(_ context.Context, _ boot.Identity, volume boot.Volume) error {
	if err := v.alive(); err != nil {
		return err
	}
	v.disk(volume.ID).protected = true
	return nil
}

func (v *volumes) Remove(_ context.Context, _ boot.Identity, volume boot.Volume) error {
	return v.a.step("remove", func() string {
		if v.b.mounted != nil && v.b.mounted.id == volume.ID {
			v.bad = append(v.bad, volume.ID+" is removed while it is mounted")
		}
		if v.disk(volume.ID).came {
			v.bad = append(v.bad, volume.ID+" came with the instance, and is removed")
		}
		v.b.disks = slices.DeleteFunc(v.b.disks, func(d *disk) bool { return d.id == volume.ID })
		return volume.ID
	})
}

// Leave is no step: in this model every volume can be removed, by an agent that lives.
func (v *volumes) Leave(context.Context, boot.Identity, boot.Volume) error { return v.alive() }

// Newest: nobody replays a pointer in this model.
func (v *volumes) Newest(context.Context, string) (int64, string, error) { return 0, "", nil }

func (v *volumes) Report(_ context.Context, volume boot.Volume, r boot.Report) error {
	if v.mutant == reportAfterReread {
		v.late = func() error { return v.report(volume, r) }
		return v.alive()
	}
	return v.report(volume, r)
}

func (v *volumes) report(volume boot.Volume, r boot.Report) error {
	return v.a.step("report", func() string {
		v.disk(volume.ID).tags = r
		if r.Ready && v.b.told.IsZero() {
			v.b.told = time.Now()
		}
		return fmt.Sprint(r.Generation)
	})
}

type disks struct{ *seat }

func (d disks) Find(context.Context, boot.Volume) (boot.Disk, error) {
	return boot.Disk{Path: "/dev/disk"}, d.alive()
}

func (d disks) Check(_ context.Context, found boot.Disk) (boot.Disk, error) {
	found.Kind = "ext4"
	return found, d.alive()
}

// Here is asked of what EC2 calls unattached: it tells no old story in this model.
func (d disks) Here(context.Context, boot.Volume) (bool, error) { return false, d.alive() }

// Unused: no container is in this model.
func (d disks) Unused(context.Context, boot.Volume) error { return d.alive() }

type mounts struct{ *seat }

func (m mounts) Look(context.Context, []boot.Volume) (*boot.Mounted, error) {
	at := m.b.mounted
	if at == nil || m.mutant == looksNowhere {
		return nil, m.alive()
	}
	return &boot.Mounted{VolumeID: at.id, Disk: boot.Disk{Path: "/dev/disk", Kind: "ext4"}, What: at.id, Tree: content{m.seat, at}}, m.alive()
}

func (m mounts) Prepare(_ context.Context, v boot.Volume, _ boot.Disk) (boot.Prepared, error) {
	return &prepared{content: content{m.seat, (&volumes{m.seat}).disk(v.ID)}}, m.alive()
}

// Unmount waits while a follower or a push has the volume open.
func (m mounts) Unmount(context.Context) error {
	free := func() int {
		if m.b.held || len(m.b.verbs) > 0 {
			return 0
		}
		return 1
	}
	return m.a.choice("unmount", false, free, func(int) string { m.b.mounted = nil; return "" })
}

func (m mounts) Visible(context.Context, boot.Volume, boot.Disk) error { return m.alive() }

// content is a release volume. What is mounted where all see it can be changed by a push: looking
// at it is a step.
type content struct {
	*seat
	d *disk
}

func (c content) Check(_ context.Context, want boot.Wanted) (err error) {
	if c.b.mounted != c.d {
		if err := c.alive(); err != nil {
			return err
		}
		return c.check(want)
	}
	if c.drains {
		return c.checkDraining(want)
	}
	dead := c.a.step("check what is mounted", func() string { err = c.check(want); return fmt.Sprint(err) })
	return errors.Join(dead, err)
}

// check does what boot/disks does: it compares, and raises the fence. With an older pointer it is
// not the volume that is wrong.
func (c content) check(want boot.Wanted) error {
	if err := c.compare(want); err != nil {
		return err
	}
	if c.d.done == c.d.generation {
		c.d.done = want.Generation
	}
	c.d.generation = want.Generation
	return nil
}

func (c content) compare(want boot.Wanted) error {
	if c.d.generation > want.Generation {
		return fmt.Errorf("%s has generation %d, want %d: %w", c.d.id, c.d.generation, want.Generation, boot.ErrOlder)
	}
	if c.d.release != want.Release {
		return fmt.Errorf("%w: %s has generation %d, release %s; want %d, %s",
			boot.ErrMismatch, c.d.id, c.d.generation, c.d.release, want.Generation, want.Release)
	}
	return nil
}

// InReach: no pack is ever gone in this model.
func (c content) InReach(context.Context, boot.Wanted) error { return c.alive() }

func (c content) Holding(context.Context) (int64, string, bool) {
	return c.d.generation, c.d.release, c.d.done == c.d.generation
}

// prepared is a volume that nobody else sees: what is done to it is no step.
type prepared struct {
	content
	asked, checked bool // before
}

// CatchUp has a way from every release, when the pointer lists ways.
func (p *prepared) CatchUp(_ context.Context, want boot.Wanted) error {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	again := p.asked
	p.asked = true
	switch {
	case want.Document == "", again && p.mutant == keepAsItIs, p.d.release == want.Release:
		return p.alive()
	case p.d.generation > want.Generation:
		return boot.ErrOlder
	}
	if err := p.alive(); err != nil {
		return err
	}
	p.d.image = image{want.Generation, want.Release}
	p.d.trees[want.Release] = true
	return nil
}

func (p *prepared) Check(ctx context.Context, want boot.Wanted) error {
	if p.mutant == keepAsItIs && p.checked {
		return p.alive()
	}
	p.checked = true
	return p.content.Check(ctx, want)
}

// Holding: what starts after the boot reads the new release, but drain.d has told a load balancer.
func (p *prepared) Holding(context.Context) (int64, string, bool) {
	return p.d.generation, p.d.release, !p.d.drained
}

func (p *prepared) Place(context.Context) error {
	place := func() string {
		if p.b.mounted != nil {
			p.bad = append(p.bad, fmt.Sprintf("%s is mounted, and %s, too", p.b.mounted.id, p.d.id))
		}
		p.b.mounted, p.d.served = p.d, true
		if !p.d.drained || p.mutant == bootMarks {
			p.d.done, p.d.drained = p.d.generation, false
		}
		return ""
	}
	if p.b.ups > 1 || p.b.open { // else no push ever got in, and none can be under way
		return p.a.step("place", place)
	}
	place()
	return p.alive()
}

func (p *prepared) Close(context.Context) error { return p.alive() }
