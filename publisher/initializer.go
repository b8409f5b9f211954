package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"ebs-release/internal/device"
	"ebs-release/internal/filesystem"
	"ebs-release/internal/filesystem/mkfs"
	"ebs-release/internal/mount"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/status"

	"golang.org/x/sys/unix"
)

// volumeLabel marks a file system that init made.
const volumeLabel = "code_release"

// diskTime is how long a volume may take from attached to readable. CSI driver and others have seen
// seconds.
const diskTime = time.Minute

// initializer makes the release volume. Each step looks first, and does only what is missing.
type initializer struct {
	flags      initFlags
	mountPoint string
	uid, gid   int

	pointerStore string // empty, or not there yet: the first publish gives the volume its store
	volumes      serverVolumes
	finder       device.Finder
	say          func(string)
	report       initReport
}

// initReport is what `init --output json` prints.
type initReport struct {
	Schema     int      `json:"schema"`
	VolumeID   string   `json:"volume_id"`
	Device     string   `json:"device"`
	FileSystem string   `json:"file_system"`
	UUID       string   `json:"uuid"`
	MountPoint string   `json:"mount_point"`
	Did        []string `json:"did"` // what was not done before
}

// did is called when something was missing and is there now.
func (i *initializer) did(format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	i.report.Did = append(i.report.Did, what)
	i.say(what)
}

func (i *initializer) run(ctx context.Context) (initReport, error) {
	i.report = initReport{Schema: status.Schema, MountPoint: i.mountPoint, Did: []string{}}
	if err := i.makeMountPoint(); err != nil {
		return i.report, err
	}
	mounted, err := mount.Look(i.mountPoint)
	if err != nil {
		return i.report, err
	}
	if mounted == nil {
		err = i.bringDisk(ctx)
	} else {
		err = i.takeMounted(ctx, mounted)
	}
	if err != nil {
		return i.report, err
	}
	directory, store, err := i.findStore(ctx)
	if err != nil {
		return i.report, err
	}
	if err := i.makeTree(); err != nil {
		return i.report, err
	}
	if store, err = i.setStore(ctx, directory, store); err != nil {
		return i.report, err
	}
	changed, err := i.volumes.mark(ctx, i.report.VolumeID, store)
	if err != nil {
		return i.report, err
	}
	if changed {
		i.did("tagged %s as the release server's", i.report.VolumeID)
	}
	if i.flags.noFstab {
		return i.report, nil
	}
	changed, err = persist(i.flags.fstab, i.report.UUID, i.mountPoint, i.report.FileSystem)
	if err != nil {
		return i.report, err
	}
	if changed {
		i.did("wrote %s into %s", i.mountPoint, i.flags.fstab)
	}
	return i.report, nil
}

// makeMountPoint: nobody can write into the bare directory, so that nothing lands there while the
// volume is not mounted.
func (i *initializer) makeMountPoint() error {
	_, err := os.Lstat(i.mountPoint)
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(i.mountPoint), 0o755); err != nil {
		return fmt.Errorf("make the mount point: %w", err)
	}
	if err := os.Mkdir(i.mountPoint, 0o555); err != nil {
		return fmt.Errorf("make the mount point: %w", err)
	}
	i.did("made the directory %s", i.mountPoint)
	return nil
}

// takeMounted accepts a mount that is an earlier init's.
func (i *initializer) takeMounted(ctx context.Context, mounted *mount.Mounted) error {
	name, serial, err := i.finder.Which(mounted.Major, mounted.Minor)
	if err != nil {
		return fmt.Errorf("what is mounted at %s: %w", i.mountPoint, err)
	}
	volumeID, err := volumeOfSerial(name, serial)
	if err != nil {
		return fmt.Errorf("at %s is %s: %w", i.mountPoint, mounted, err)
	}
	path := filepath.Join(i.finder.Dev, name)
	info, err := filesystem.ProbeDevice(path)
	if err != nil {
		return err
	}
	if info.Label != volumeLabel {
		return fmt.Errorf("at %s is %s, whose label is %q: init mounts only what it made (label %s); unmount it, or use another --mount-point",
			i.mountPoint, mounted, info.Label, volumeLabel)
	}
	if (i.flags.volumeID != "" && i.flags.volumeID != volumeID) || (i.flags.device != "" && i.flags.device != path) {
		return fmt.Errorf("at %s is %s (%s) already, not %s%s", i.mountPoint, volumeID, path, i.flags.volumeID, i.flags.device)
	}
	if err := i.volumes.madeFrom(ctx, volumeID, i.flags.snapshot); err != nil {
		return err
	}
	i.is(volumeID, path, info)
	return nil
}

func (i *initializer) is(volumeID, path string, info filesystem.Info) {
	i.report.VolumeID, i.report.Device, i.report.FileSystem, i.report.UUID = volumeID, path, string(info.Kind), info.UUID
}

// bringDisk ends with a release volume mounted.
func (i *initializer) bringDisk(ctx context.Context) error {
	disk, volumeID, err := i.disk(ctx)
	if err != nil {
		return err
	}
	if err := i.volumes.check(ctx, volumeID); err != nil {
		return err
	}
	info, err := filesystem.ProbeDevice(disk.Path)
	switch {
	case errors.Is(err, filesystem.ErrBlank):
		kind := filesystem.Kind(i.flags.fileSystem)
		if err := mkfs.Make(ctx, disk.Path, kind, volumeLabel); err != nil {
			return err
		}
		if info, err = filesystem.ProbeDevice(disk.Path); err != nil {
			return err
		}
		i.did("made %s on %s", kind, disk.Path)
	case err != nil:
		return fmt.Errorf("%s (%s) is not blank, and will not be formatted: %w", disk.Path, volumeID, err)
	case info.Label != volumeLabel:
		return fmt.Errorf("%s (%s) is not blank, and will not be formatted: it holds %s with the label %q, UUID %s",
			disk.Path, volumeID, info.Kind, info.Label, info.UUID)
	}
	if disk.Serial != "" { // the disk must still be the one that was looked at
		if err := i.finder.Verify(disk, volumeID); err != nil {
			return err
		}
	}
	if err := mount.Mount(disk.Path, info.KernelName(), i.mountPoint); err != nil {
		return info.WhyNotMounted(err)
	}
	if err := mount.Visible(i.mountPoint, disk.Major, disk.Minor); err != nil {
		return err
	}
	i.did("mounted %s at %s", disk.Path, i.mountPoint)
	i.is(volumeID, disk.Path, info)
	return nil
}

// disk finds or makes the volume, and finds its disk on this machine.
func (i *initializer) disk(ctx context.Context) (device.Device, string, error) {
	if i.flags.device != "" {
		return i.givenDevice(ctx)
	}
	volumeID := i.flags.volumeID
	if volumeID == "" {
		found, err := i.volumes.find(ctx)
		if err != nil {
			return device.Device{}, "", err
		}
		volumeID = found
		if found != "" {
			if err := i.volumes.madeFrom(ctx, found, i.flags.snapshot); err != nil {
				return device.Device{}, "", err
			}
		}
	}
	if volumeID == "" {
		made, err := i.volumes.create(ctx, i.flags)
		if err != nil {
			return device.Device{}, "", err
		}
		volumeID = made.ID
		from := ""
		if i.flags.snapshot != "" {
			from = " from " + i.flags.snapshot
		}
		i.did("created %s, %d GiB %s%s in %s", volumeID, made.SizeGiB, i.flags.volumeType, from, i.volumes.owner.Zone)
	}
	// The kernel's word first: EC2 may say for a while that it is not attached, and an attach then
	// ends with VolumeInUse (row 87).
	if here, found, err := i.finder.Here(volumeID, ""); err == nil && found {
		return here, volumeID, nil
	}
	name, attached, err := i.volumes.attach(ctx, volumeID)
	if err != nil {
		return device.Device{}, "", err
	}
	if attached {
		i.did("attached %s as %s", volumeID, name)
	}
	ctx, cancel := context.WithTimeout(ctx, diskTime)
	defer cancel()
	disk, err := i.finder.Find(ctx, volumeID, name)
	return disk, volumeID, err
}

// givenDevice finds the volume below a disk that a person named.
func (i *initializer) givenDevice(ctx context.Context) (device.Device, string, error) {
	var node unix.Stat_t
	if err := unix.Stat(i.flags.device, &node); err != nil {
		return device.Device{}, "", fmt.Errorf("--device %s: %w", i.flags.device, err)
	}
	if node.Mode&unix.S_IFMT != unix.S_IFBLK {
		return device.Device{}, "", fmt.Errorf("--device %s is not a disk", i.flags.device)
	}
	name, serial, err := i.finder.Which(unix.Major(node.Rdev), unix.Minor(node.Rdev))
	if err != nil {
		return device.Device{}, "", fmt.Errorf("--device %s: %w", i.flags.device, err)
	}
	volumeID, err := volumeOfSerial(name, serial)
	if err != nil {
		return device.Device{}, "", fmt.Errorf("--device %s: %w", i.flags.device, err)
	}
	ctx, cancel := context.WithTimeout(ctx, diskTime)
	defer cancel()
	disk, err := i.finder.Find(ctx, volumeID, "")
	return disk, volumeID, err
}

// findStore says which store the volume is of, or is going to be; "": a new one. A volume that was
// named, or made from a snapshot that was named, brings its store along to a pointer store that has
// no id: this server takes the place of another one.
func (i *initializer) findStore(ctx context.Context) (*pointer.Directory, string, error) {
	tag, err := i.volumes.store(ctx, i.report.VolumeID)
	if err != nil {
		return nil, "", err
	}
	file, err := release.Tree{Root: i.mountPoint}.StoreID()
	if err != nil {
		return nil, "", err
	}
	o := ownership{directory: i.pointerStore, volumeID: i.report.VolumeID, file: file, tag: tag}
	on := cmp.Or(file, tag)
	if i.flags.store != "" && i.flags.store != on {
		return nil, "", fmt.Errorf("--store %s: %s belongs to %s", i.flags.store, i.report.VolumeID, cmp.Or(on, "no store"))
	}
	if info, err := os.Stat(i.pointerStore); i.pointerStore == "" || err != nil || !info.IsDir() {
		return nil, "", nil // publish says what is wrong with it
	}
	directory, err := pointer.NewFolder(i.pointerStore)
	if err != nil {
		return nil, "", err
	}
	if o.own, err = directory.ID(ctx); err != nil {
		return nil, "", err
	}
	takes := i.flags.store != "" || i.flags.snapshot != "" || i.flags.volumeID != "" || i.flags.device != ""
	if o.own == "" && takes {
		o.own = on
	}
	store, err := o.decide()
	return directory, store, err
}

// setStore writes whose volume it is.
func (i *initializer) setStore(ctx context.Context, directory *pointer.Directory, store string) (string, error) {
	if directory == nil {
		return "", nil
	}
	tree := release.Tree{Root: i.mountPoint}
	own, err := directory.ID(ctx)
	if err != nil {
		return "", err
	}
	on, err := tree.StoreID()
	if err != nil || own != "" && own == on {
		return own, err
	}
	if store, err = writeStore(ctx, store, directory, tree); err == nil {
		i.did("the volume and %s belong to store %s", i.pointerStore, store)
	}
	return store, err
}

// makeTree makes the directories of a release tree, or gives them to another owner.
func (i *initializer) makeTree() error {
	tree := release.Tree{Root: i.mountPoint}
	var st unix.Stat_t
	if _, err := tree.Releases(); err == nil && unix.Stat(i.mountPoint, &st) == nil && int(st.Uid) == i.uid && int(st.Gid) == i.gid {
		return nil
	}
	if err := tree.Init(i.uid, i.gid); err != nil {
		return err
	}
	i.did("made the release tree, for user id %d", i.uid)
	return nil
}
