package disks

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"ebs-release/internal/boot"
	"ebs-release/internal/boot/tree"
	"ebs-release/internal/device"
	"ebs-release/internal/filesystem"
	"ebs-release/internal/mount"
	"ebs-release/internal/notes"
)

// Brought is of boot.Disks. Most machines have no disk to look at but the root's, which has
// partitions: then no child is asked. Disks are looked at side by side, each by a child of its own:
// one that does not answer keeps nobody from what the others say.
func (m *Machine) Brought(ctx context.Context, want boot.Wanted) ([]boot.Found, error) {
	mounted, err := mount.Look(m.Point)
	if err != nil && !errors.Is(err, mount.ErrNoPoint) { // what boot.Mounts.Look complains of; a first boot may have no mount point yet
		return nil, nil
	}
	var ids []string
	var requests []diskRequest
	if mounted != nil {
		_, serial, err := m.Finder.Which(mounted.Major, mounted.Minor)
		id := device.VolumeID(serial)
		if err != nil || id == "" {
			return nil, nil
		}
		ids, requests = []string{id}, []diskRequest{{Point: m.Point}}
	} else { // whatever the pointer is: one that is not signed is not for a volume that has served
		disks, err := m.Finder.All()
		if err != nil {
			return nil, err
		}
		for _, d := range disks {
			ids, requests = append(ids, device.VolumeID(d.Serial)), append(requests, diskRequest{Device: d.Path})
		}
	}
	looks, silent := make([]*boot.Found, len(ids)), make([]error, len(ids))
	var group sync.WaitGroup
	for i, r := range requests {
		group.Go(func() {
			r.Do, r.Want, r.From = doCame, want, m.Source
			looks[i], silent[i] = m.look(ctx, ids[i], r)
		})
	}
	group.Wait()
	var found []boot.Found
	for _, f := range looks {
		if f != nil {
			found = append(found, *f)
		}
	}
	return found, errors.Join(silent...)
}

// look has a child look at one disk; nil: it is none that EC2 brought, or that an agent says it has
// made. An error: it did not say.
func (m *Machine) look(ctx context.Context, id string, r diskRequest) (*boot.Found, error) {
	a, err := askChild(ctx, m.Log, r)
	c := a.Came
	if c == nil {
		if err != nil {
			err = fmt.Errorf("%s: %w", id, err)
		}
		return nil, err
	}
	is := c.Origin.VolumeID == id
	noted := !is && m.notes.Has(notes.Served, id)
	if r.Device == "" && !is && !noted { // an agent that knew nothing of origins placed what is mounted and says none
		return nil, nil
	}
	return &boot.Found{
		Volume: boot.Volume{ID: id, Attached: true, Protected: true, Brought: true, Store: r.Want.Store},
		// One that says nothing has not served yet: EC2 brought it, or a boot was cut off that had
		// made it.
		Made:   is && !c.Origin.Brought || !is && !noted && m.notes.Has(notes.Made, r.Want.Who.InstanceID),
		Served: is && c.Origin.Brought || noted, Generation: c.Generation, Unfit: err,
	}, nil
}

// came looks at one disk. What is not ours is passed over.
func (w *diskWork) came(r diskRequest) (*tree.Came, error) {
	c, err := w.cameOn(r)
	if errors.Is(err, errNotOurs) {
		return nil, nil
	}
	return &c, err
}

var errNotOurs = errors.New("no release volume")

// cameOn looks at one disk: by its label first, which costs one read. Nothing else is ever mounted
// here, as it may be somebody's data.
func (w *diskWork) cameOn(r diskRequest) (c tree.Came, err error) {
	if r.Device == "" {
		v, err := w.open(r.Point, r.From.Trusted)
		if err != nil {
			return c, err
		}
		defer func() { _ = v.Close() }()
		return v.Suits(r.Want)
	}
	info, err := filesystem.ProbeDevice(r.Device)
	switch {
	case errors.Is(err, filesystem.ErrDamaged), errors.Is(err, filesystem.ErrTruncated):
		return c, err
	case err != nil || info.Label != filesystem.ReleaseLabel || mount.Unused(r.Device) != nil:
		return c, errNotOurs
	}
	peek, err := mount.Peek(r.Device, info.KernelName())
	if err != nil {
		return c, info.WhyNotMounted(err)
	}
	defer func() { _ = peek.Close() }()
	v, err := tree.Open(peek.Root(), r.From.Trusted)
	if err != nil {
		return c, err
	}
	defer func() { _ = v.Close() }()
	return v.Suits(r.Want)
}
