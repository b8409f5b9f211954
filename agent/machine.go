package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"ebs-release/internal/advice"
	"ebs-release/internal/boot"
	"ebs-release/internal/device"
	"ebs-release/internal/mount"
	"ebs-release/internal/release"
	"ebs-release/internal/status"
)

// machine is boot.Disks and boot.Mounts: the disks of this machine and its mount point.
type machine struct {
	point  string
	source source
	finder device.Finder
	notes  notes
	log    *slog.Logger
	disk   device.Device // the one that Find or Look found last
}

func newMachine(point string, from source, log *slog.Logger) *machine {
	return &machine{point: point, source: from, finder: device.New(log), notes: notesFolder, log: log}
}

func (m *machine) Find(ctx context.Context, v boot.Volume) (boot.Disk, error) {
	found, err := m.finder.Find(ctx, v.ID, v.Device)
	if err != nil {
		return boot.Disk{}, err
	}
	m.disk = found
	m.finder.RaiseTimeout(found)
	return boot.Disk{Path: found.Path}, nil
}

func (m *machine) Check(ctx context.Context, d boot.Disk) (boot.Disk, error) {
	checked, err := askChild(ctx, m.log, diskRequest{Do: doCheck, Device: d.Path})
	if err != nil {
		return d, err
	}
	info := checked.Info
	m.log.Info("file system", "device", d.Path, "kind", info.Kind, "label", info.Label, "uuid", info.UUID, "journal_dirty", info.JournalDirty)
	d.Kind = info.KernelName()
	return d, nil
}

func (m *machine) Here(_ context.Context, v boot.Volume) (bool, error) {
	_, here, err := m.finder.Here(v.ID, v.Device)
	return here, err
}

func (m *machine) Unused(ctx context.Context, v boot.Volume) error {
	disk, here, err := m.finder.Here(v.ID, v.Device)
	if err != nil || !here {
		return err
	}
	_, err = askChild(ctx, m.log, diskRequest{Do: doUnused, Device: disk.Path})
	return err
}

func (m *machine) Look(_ context.Context, mine []boot.Volume) (*boot.Mounted, error) {
	if err := m.makePoint(); err != nil {
		return nil, err
	}
	return m.look(mine)
}

func (m *machine) look(mine []boot.Volume) (*boot.Mounted, error) {
	mounted, err := mount.Look(m.point)
	if err != nil || mounted == nil {
		return nil, err
	}
	found := boot.Mounted{What: fmt.Sprintf("%s: %s", m.point, mounted),
		Disk: boot.Disk{Path: mounted.Source, Kind: mounted.Kind}, Tree: mountedTree{m}}
	name, serial, err := m.finder.Which(mounted.Major, mounted.Minor)
	if err != nil {
		m.log.Debug("what is mounted is no disk of an EBS volume", "mounted", mounted, "error", err)
		return &found, nil
	}
	found.OfEBS = strings.HasPrefix(serial, "vol") || serial == "" && strings.HasPrefix(name, "xvd") // NVMe, Xen
	for _, v := range mine {
		if device.IsDisk(name, serial, v.ID, v.Device) {
			found.VolumeID, found.Disk.Path = v.ID, m.finder.Path(name)
			m.disk = device.Device{Name: name, Path: found.Disk.Path, Major: mounted.Major, Minor: mounted.Minor, Serial: serial}
		}
	}
	return &found, nil
}

// serves says whether the volume of a status is what is mounted.
func (m *machine) serves(s status.Status) bool {
	mounted, err := mount.Look(s.MountPoint)
	return err == nil && mounted != nil && m.finder.Below(mounted.Major, mounted.Minor, s.VolumeID, s.Device)
}

func (m *machine) makePoint() error {
	made, err := mount.MakePoint(m.point)
	if err == nil && made {
		m.log.Info("made the mount point", "path", m.point)
	}
	return err
}

func (m *machine) Prepare(ctx context.Context, v boot.Volume, d boot.Disk) (boot.Prepared, error) {
	w, err := startWorker(m.log)
	if err != nil {
		return nil, err
	}
	if err := m.finder.Verify(m.disk, v.ID); err != nil {
		return nil, errors.Join(err, w.close(ctx))
	}
	made, err := w.do(ctx, diskRequest{Do: doPrepare, Device: d.Path, Kind: d.Kind})
	if err == nil && (made.Major != m.disk.Major || made.Minor != m.disk.Minor) {
		err = fmt.Errorf("%s is now the disk %d:%d, it was %d:%d", d.Path, made.Major, made.Minor, m.disk.Major, m.disk.Minor)
	}
	if err != nil {
		if closeErr := w.close(ctx); closeErr != nil {
			m.log.Warn("cannot let go of the disk", "device", d.Path, "error", closeErr)
		}
		return nil, err
	}
	return prepared{w, m.point, m.source, release.Origin{VolumeID: v.ID, Brought: v.Brought}}, nil
}

func (m *machine) Unmount(ctx context.Context) error {
	_, err := askChild(ctx, m.log, diskRequest{Do: doUnmount, Point: m.point})
	return err
}

func (m *machine) Visible(context.Context, boot.Volume, boot.Disk) error {
	return mount.Visible(m.point, m.disk.Major, m.disk.Minor)
}

// prepared is boot.Prepared: a detached mount, which a child holds.
type prepared struct {
	worker *worker
	point  string
	source source
	origin release.Origin
}

func (p prepared) Check(ctx context.Context, want boot.Wanted) error {
	_, err := p.worker.do(ctx, diskRequest{Do: doCheckTree, Want: want, From: p.source})
	return err
}

func (p prepared) Holding(ctx context.Context) (generation int64, release string, done bool) {
	a, err := p.worker.do(ctx, diskRequest{Do: doHolding})
	if err != nil {
		p.worker.log.Warn("cannot read what the volume holds", "error", err)
	}
	return a.Generation, a.Release, a.Done
}

// CatchUp takes time for as long as there is something to fetch. Late words of the child are no
// silence: the disk answers.
func (p prepared) CatchUp(ctx context.Context, want boot.Wanted) error {
	a, err := p.worker.do(ctx, diskRequest{Do: doCatchUp, Want: want, From: p.source})
	if a.Late {
		return advice.Parse(a.Error)
	}
	return err
}

func (p prepared) Place(ctx context.Context) error {
	_, err := p.worker.do(ctx, diskRequest{Do: doPlace, Point: p.point, Origin: p.origin})
	return err
}

func (p prepared) Close(ctx context.Context) error { return p.worker.close(ctx) }

// mountedTree is boot.Tree: what is mounted at the mount point.
type mountedTree struct{ m *machine }

func (t mountedTree) Check(ctx context.Context, want boot.Wanted) error {
	_, err := askChild(ctx, t.m.log, diskRequest{Do: doCheckTree, Point: t.m.point, Want: want, From: t.m.source})
	return err
}

func (t mountedTree) InReach(ctx context.Context, want boot.Wanted) error {
	_, err := askChild(ctx, t.m.log, diskRequest{Do: doInReach, Point: t.m.point, Want: want, From: t.m.source})
	return err
}

func (t mountedTree) Holding(ctx context.Context) (generation int64, release string, done bool) {
	a, err := askChild(ctx, t.m.log, diskRequest{Do: doHolding, Point: t.m.point})
	if err != nil {
		t.m.log.Warn("cannot read what the volume holds", "error", err)
	}
	return a.Generation, a.Release, a.Done
}
