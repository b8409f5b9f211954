package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"ebs-release/internal/boot"
	"ebs-release/internal/device"
	"ebs-release/internal/filesystem"
	"ebs-release/internal/mount"
	"ebs-release/internal/release"
	"ebs-release/internal/status"
)

// machine is boot.Disks and boot.Mounts: the disks of this machine and its mount point.
type machine struct {
	point  string
	finder device.Finder
	log    *slog.Logger
	disk   device.Device // the one that Find or Look found last
}

func newMachine(point string, log *slog.Logger) *machine {
	return &machine{point: point, finder: device.New(log), log: log}
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
	info, err := filesystem.Check(ctx, d.Path, m.log)
	if err != nil {
		return d, err
	}
	m.log.Info("file system", "device", d.Path, "kind", info.Kind, "label", info.Label, "uuid", info.UUID, "journal_dirty", info.JournalDirty)
	d.Kind = info.KernelName()
	return d, nil
}

func (m *machine) Unused(ctx context.Context, v boot.Volume) error {
	disk, here, err := m.finder.Here(v.ID, v.Device)
	if err != nil || !here {
		return err
	}
	return patiently(ctx, func() error { return mount.Unused(disk.Path) })
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
	found := boot.Mounted{What: fmt.Sprintf("%s: %s", m.point, mounted), Disk: boot.Disk{Path: mounted.Source, Kind: mounted.Kind}, Tree: tree{release.Tree{Root: m.point}}}
	name, serial, err := m.finder.Which(mounted.Major, mounted.Minor)
	if err != nil {
		m.log.Debug("what is mounted is no disk of an EBS volume", "mounted", mounted, "error", err)
		return &found, nil
	}
	for _, v := range mine {
		if isDiskOf(v.ID, v.Device, name, serial) {
			found.VolumeID, found.Disk.Path = v.ID, m.finder.Path(name)
			m.disk = device.Device{Name: name, Path: found.Disk.Path, Major: mounted.Major, Minor: mounted.Minor, Serial: serial}
		}
	}
	return &found, nil
}

func isDiskOf(volumeID, attachedAs, name, serial string) bool {
	return serial == device.Serial(volumeID) || serial == "" && name == device.XenName(attachedAs)
}

// isMounted says whether what is mounted is the disk of a volume.
func (m *machine) isMounted(mounted mount.Mounted, volumeID, attachedAs string) bool {
	name, serial, err := m.finder.Which(mounted.Major, mounted.Minor)
	return err == nil && isDiskOf(volumeID, attachedAs, name, serial)
}

// serves says whether the volume of a status is what is mounted.
func (m *machine) serves(s status.Status) bool {
	mounted, err := mount.Look(s.MountPoint)
	return err == nil && mounted != nil && m.isMounted(*mounted, s.VolumeID, s.Device)
}

// makePoint makes the mount point when there is nothing of that name. Nobody can write into the bare directory but root: an application that
// starts without the mount does not fill it.
func (m *machine) makePoint() error {
	err := os.Mkdir(m.point, 0o555)
	if errors.Is(err, os.ErrExist) {
		return nil // a directory or not: Look says
	}
	if err == nil {
		err = os.Chmod(m.point, 0o555) // whatever the umask is
	}
	if err != nil {
		return fmt.Errorf("make the mount point: %w", err)
	}
	m.log.Info("made the mount point", "path", m.point)
	return nil
}

func (m *machine) Prepare(_ context.Context, v boot.Volume, d boot.Disk) (boot.Prepared, error) {
	if err := m.finder.Verify(m.disk, v.ID); err != nil {
		return nil, err
	}
	detached, err := mount.Prepare(d.Path, d.Kind)
	if err != nil {
		return nil, err
	}
	if major, minor := detached.Number(); major != m.disk.Major || minor != m.disk.Minor {
		return nil, errors.Join(fmt.Errorf("%s is now the disk %d:%d, it was %d:%d", d.Path, major, minor, m.disk.Major, m.disk.Minor), detached.Close())
	}
	return prepared{tree{release.Tree{Root: detached.Root()}}, detached, m.point}, nil
}

// How long a mount may be busy before that is believed: someone who only looks in (a monitor, a backup) is gone a moment later.
const (
	busyPatience = time.Second
	busyPause    = 50 * time.Millisecond
)

func (m *machine) Unmount(ctx context.Context) error {
	return patiently(ctx, func() error { return mount.Unmount(m.point) })
}

func patiently(ctx context.Context, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, busyPatience)
	defer cancel()
	for {
		err := try()
		if _, busy := errors.AsType[*mount.BusyError](err); !busy {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(busyPause):
		}
	}
}

func (m *machine) Visible(context.Context, boot.Volume, boot.Disk) error {
	return mount.Visible(m.point, m.disk.Major, m.disk.Minor)
}

// prepared is boot.Prepared: a detached mount.
type prepared struct {
	tree
	detached *mount.Detached
	point    string
}

func (p prepared) Place(context.Context) error { return p.detached.MoveTo(p.point) }

func (p prepared) Close() error { return p.detached.Close() }

// tree is boot.Tree: a release volume.
type tree struct{ release.Tree }

// Check also raises the fence on the volume to the wanted generation. It is below that when the pointer names an older snapshot in a newer
// generation (a rollback), and a late activation of something in between must be refused here as everywhere.
func (t tree) Check(ctx context.Context, want boot.Wanted) error {
	if err := t.Tree.Check(want.Release, want.Digest, want.Generation); err != nil {
		return err
	}
	return t.Activate(ctx, want.Release, want.Digest, want.Generation)
}

func (t tree) Holding() (generation int64, release string) {
	// A volume of an older setup is no tree of ours, and says nothing.
	generation, err := t.Generation()
	if err != nil {
		generation = 0
	}
	release, err = t.Current()
	if err != nil {
		release = ""
	}
	return generation, release
}
