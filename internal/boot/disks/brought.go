package disks

import (
	"context"
	"errors"

	"ebs-release/internal/boot"
	"ebs-release/internal/boot/tree"
	"ebs-release/internal/device"
	"ebs-release/internal/filesystem"
	"ebs-release/internal/mount"
	"ebs-release/internal/notes"
	"ebs-release/internal/words"
)

// suspect is a disk to look at for a release that EC2 brought.
type suspect struct {
	VolumeID string `json:"volume"`
	Device   string `json:"device,omitempty"` // empty: it is at the mount point
}

// cameAnswer is what was seen on one of them.
type cameAnswer struct {
	VolumeID string
	tree.Came
	Error   string `json:",omitempty"` // why it cannot become what is wanted
	Meaning string `json:",omitempty"`
}

// Brought is of boot.Disks. Most machines have no disk to look at but the root's, which has
// partitions: then no child is asked.
func (m *Machine) Brought(ctx context.Context, want boot.Wanted) ([]boot.Found, error) {
	mounted, err := mount.Look(m.Point)
	if err != nil && !errors.Is(err, mount.ErrNoPoint) { // what boot.Mounts.Look complains of; a first boot may have no mount point yet
		return nil, nil
	}
	request := diskRequest{Do: doCame, Want: want, From: m.Source}
	if mounted != nil {
		_, serial, err := m.Finder.Which(mounted.Major, mounted.Minor)
		id := device.VolumeID(serial)
		if err != nil || id == "" {
			return nil, nil
		}
		request.Point, request.Suspects = m.Point, []suspect{{VolumeID: id}}
	} else { // whatever the pointer is: one that is not signed is not for a volume that has served
		disks, err := m.Finder.All()
		if err != nil {
			return nil, err
		}
		for _, d := range disks {
			request.Suspects = append(request.Suspects, suspect{device.VolumeID(d.Serial), d.Path})
		}
	}
	if len(request.Suspects) == 0 {
		return nil, nil
	}
	a, err := askChild(ctx, m.Log, request)
	if err != nil {
		return nil, err
	}
	var found []boot.Found
	for _, c := range a.Came {
		is := c.Origin.VolumeID == c.VolumeID
		noted := !is && m.notes.Has(notes.Served, c.VolumeID)
		f := boot.Found{
			Volume: boot.Volume{ID: c.VolumeID, Attached: true, Protected: true, Brought: true, Store: want.Store},
			// One that says nothing has not served yet: EC2 brought it, or a boot was cut off that had
			// made it.
			Made:   is && !c.Origin.Brought || !is && !noted && m.notes.Has(notes.Made, want.Who.InstanceID),
			Served: is && c.Origin.Brought || noted, Generation: c.Generation,
			Unfit: diskAnswer{Error: c.Error, Meaning: c.Meaning}.err(),
		}
		if mounted == nil || is || noted { // an agent that knew nothing of origins placed what says none
			found = append(found, f)
		}
	}
	return found, nil
}

// came looks at disks, one after the other. What is not ours is passed over.
func (w *diskWork) came(r diskRequest) (all []cameAnswer) {
	for _, s := range r.Suspects {
		c, err := w.cameOn(s, r)
		if errors.Is(err, errNotOurs) {
			continue
		}
		a := cameAnswer{VolumeID: s.VolumeID, Came: c}
		if err != nil {
			a.Error, a.Meaning = words.OneLine(err), meaning(err)
		}
		all = append(all, a)
	}
	return all
}

var errNotOurs = errors.New("no release volume")

// cameOn looks at one disk: by its label first, which costs one read. Nothing else is ever mounted
// here, as it may be somebody's data.
func (w *diskWork) cameOn(s suspect, r diskRequest) (c tree.Came, err error) {
	if s.Device == "" {
		v, err := w.open(r.Point, r.From.Trusted)
		if err != nil {
			return c, err
		}
		defer func() { _ = v.Close() }()
		return v.Suits(r.Want)
	}
	info, err := filesystem.ProbeDevice(s.Device)
	switch {
	case errors.Is(err, filesystem.ErrDamaged), errors.Is(err, filesystem.ErrTruncated):
		return c, err
	case err != nil || info.Label != filesystem.ReleaseLabel || mount.Unused(s.Device) != nil:
		return c, errNotOurs
	}
	peek, err := mount.Peek(s.Device, info.KernelName())
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
