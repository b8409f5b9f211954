// Package disks is the disks of this machine and its mount point, as a boot, the status and a push
// work on them: through a child process, which can be given up.
//
// Machine is what a boot sees (boot.Disks and boot.Mounts), Receive what a push sees. Both ask a
// worker (worker.go), which is the parent's end; Work (work.go) is the child's: the hidden verb
// disk-work of the agent. A mount that is not placed yet lives as long as its child.
package disks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"ebs-release/internal/advice"
	"ebs-release/internal/boot"
	"ebs-release/internal/boot/source"
	"ebs-release/internal/device"
	"ebs-release/internal/mount"
	"ebs-release/internal/notes"
	"ebs-release/internal/release"
	"ebs-release/internal/status"
)

// Machine is boot.Disks and boot.Mounts: the disks of this machine and its mount point.
type Machine struct {
	Point  string
	Source source.Source
	Finder device.Finder
	notes  notes.Dir
	Log    *slog.Logger
	disk   device.Device // the one that Find or Look found last
}

// New is the disks of this machine, and a mount point.
func New(point string, from source.Source, log *slog.Logger) *Machine {
	return &Machine{Point: point, Source: from, Finder: device.New(log), notes: notes.Folder, Log: log}
}

// Find is of boot.Disks.
func (m *Machine) Find(ctx context.Context, v boot.Volume) (boot.Disk, error) {
	found, err := m.Finder.Find(ctx, v.ID, v.Device)
	if err != nil {
		return boot.Disk{}, err
	}
	m.disk = found
	m.Finder.RaiseTimeout(found)
	return boot.Disk{Path: found.Path}, nil
}

// Check is of boot.Disks.
func (m *Machine) Check(ctx context.Context, d boot.Disk) (boot.Disk, error) {
	checked, err := askChild(ctx, m.Log, diskRequest{Do: doCheck, Device: d.Path})
	if err != nil {
		return d, err
	}
	info := checked.Info
	m.Log.Info("file system", "device", d.Path, "kind", info.Kind, "label", info.Label, "uuid", info.UUID, "journal_dirty", info.JournalDirty)
	d.Kind = info.KernelName()
	return d, nil
}

// Here is of boot.Disks.
func (m *Machine) Here(_ context.Context, v boot.Volume) (bool, error) {
	_, here, err := m.Finder.Here(v.ID, v.Device)
	return here, err
}

// Unused is of boot.Disks.
func (m *Machine) Unused(ctx context.Context, v boot.Volume) error {
	disk, here, err := m.Finder.Here(v.ID, v.Device)
	if err != nil || !here {
		return err
	}
	_, err = askChild(ctx, m.Log, diskRequest{Do: doUnused, Device: disk.Path})
	return err
}

// Look is of boot.Mounts.
func (m *Machine) Look(_ context.Context, mine []boot.Volume) (*boot.Mounted, error) {
	if err := m.makePoint(); err != nil {
		return nil, err
	}
	return m.Mounted(mine)
}

// Mounted is Look without making the mount point.
func (m *Machine) Mounted(mine []boot.Volume) (*boot.Mounted, error) {
	mounted, err := mount.Look(m.Point)
	if err != nil || mounted == nil {
		return nil, err
	}
	found := boot.Mounted{What: fmt.Sprintf("%s: %s", m.Point, mounted),
		Disk: boot.Disk{Path: mounted.Source, Kind: mounted.Kind}, Tree: mountedTree{m}}
	name, serial, err := m.Finder.Which(mounted.Major, mounted.Minor)
	if err != nil {
		m.Log.Debug("what is mounted is no disk of an EBS volume", "mounted", mounted, "error", err)
		return &found, nil
	}
	found.OfEBS = strings.HasPrefix(serial, "vol") || serial == "" && strings.HasPrefix(name, "xvd") // NVMe, Xen
	for _, v := range mine {
		if device.IsDisk(name, serial, v.ID, v.Device) {
			found.VolumeID, found.Disk.Path = v.ID, m.Finder.Path(name)
			m.disk = device.Device{Name: name, Path: found.Disk.Path, Major: mounted.Major, Minor: mounted.Minor, Serial: serial}
		}
	}
	return &found, nil
}

// Serves says whether the volume of a status is what is mounted.
func (m *Machine) Serves(s status.Status) bool {
	mounted, err := mount.Look(s.MountPoint)
	return err == nil && mounted != nil && m.Finder.Below(mounted.Major, mounted.Minor, s.VolumeID, s.Device)
}

func (m *Machine) makePoint() error {
	made, err := mount.MakePoint(m.Point)
	if err == nil && made {
		m.Log.Info("made the mount point", "path", m.Point)
	}
	return err
}

// Prepare is of boot.Mounts.
func (m *Machine) Prepare(ctx context.Context, v boot.Volume, d boot.Disk) (boot.Prepared, error) {
	w, err := startWorker(m.Log)
	if err != nil {
		return nil, err
	}
	if err := m.Finder.Verify(m.disk, v.ID); err != nil {
		return nil, errors.Join(err, w.close(ctx))
	}
	made, err := w.do(ctx, diskRequest{Do: doPrepare, Device: d.Path, Kind: d.Kind})
	if err == nil && (made.Major != m.disk.Major || made.Minor != m.disk.Minor) {
		err = fmt.Errorf("%s is now the disk %d:%d, it was %d:%d", d.Path, made.Major, made.Minor, m.disk.Major, m.disk.Minor)
	}
	if err != nil {
		if closeErr := w.close(ctx); closeErr != nil {
			m.Log.Warn("cannot let go of the disk", "device", d.Path, "error", closeErr)
		}
		return nil, err
	}
	return prepared{w, m.Point, m.Source, release.Origin{VolumeID: v.ID, Brought: v.Brought}}, nil
}

// Unmount is of boot.Mounts.
func (m *Machine) Unmount(ctx context.Context) error {
	_, err := askChild(ctx, m.Log, diskRequest{Do: doUnmount, Point: m.Point})
	return err
}

// Visible is of boot.Mounts.
func (m *Machine) Visible(context.Context, boot.Volume, boot.Disk) error {
	return mount.Visible(m.Point, m.disk.Major, m.disk.Minor)
}

// prepared is boot.Prepared: a detached mount, which a child holds.
type prepared struct {
	worker *worker
	point  string
	source source.Source
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
type mountedTree struct{ m *Machine }

func (t mountedTree) Check(ctx context.Context, want boot.Wanted) error {
	_, err := askChild(ctx, t.m.Log, diskRequest{Do: doCheckTree, Point: t.m.Point, Want: want, From: t.m.Source})
	return err
}

func (t mountedTree) InReach(ctx context.Context, want boot.Wanted) error {
	_, err := askChild(ctx, t.m.Log, diskRequest{Do: doInReach, Point: t.m.Point, Want: want, From: t.m.Source})
	return err
}

func (t mountedTree) Holding(ctx context.Context) (generation int64, release string, done bool) {
	a, err := askChild(ctx, t.m.Log, diskRequest{Do: doHolding, Point: t.m.Point})
	if err != nil {
		t.m.Log.Warn("cannot read what the volume holds", "error", err)
	}
	return a.Generation, a.Release, a.Done
}
