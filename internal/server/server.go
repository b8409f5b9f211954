// Package server makes, replaces and takes over the release volume of a release server, says which
// store it belongs to (ownership.go), and keeps the keys that sign the pointer (keys.go,
// signing.go).
package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/device"
	"ebs-release/internal/filesystem"
	"ebs-release/internal/filesystem/mkfs"
	"ebs-release/internal/mount"
	"ebs-release/internal/release"
	"ebs-release/internal/status"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"golang.org/x/sys/unix"
)

// diskTime is how long a volume may take from attached to readable. CSI driver and others have seen
// seconds.
const diskTime = time.Minute

// Wish is what a release volume shall be.
type Wish struct {
	SizeGiB    int32  // of a new volume
	Type       string // of a new volume: gp3
	FileSystem string // to make: ext4 or xfs
	Encrypt    bool   // a new volume, also when the account does not
	KMSKey     string // to encrypt it with; empty: the account's

	// One of these at most says which volume; none: the one that an earlier Init made, or a blank
	// one.
	Device, VolumeID string
	Join             bool // the one that an earlier Init made, or one from the newest snapshot of the store

	Store string // the pointer store takes the place of this one, whose directory is lost; empty: of none
	Fstab string // to write the mount into; empty: into none
}

// Check says whether a wish can be one.
func (w Wish) Check() error {
	named := 0
	for _, is := range []bool{w.Device != "", w.VolumeID != "", w.Join} {
		if is {
			named++
		}
	}
	switch {
	case w.FileSystem != string(filesystem.Ext4) && w.FileSystem != string(filesystem.XFS):
		return fmt.Errorf("--file-system is %q, want ext4 or xfs", w.FileSystem)
	case w.SizeGiB < 1 || w.SizeGiB > 65536:
		return fmt.Errorf("--size is %d, want 1 to 65536 GiB", w.SizeGiB)
	case named > 1:
		return errors.New("--device, --volume and --join: want one of them")
	case w.VolumeID != "" && !strings.HasPrefix(w.VolumeID, "vol-"):
		return fmt.Errorf("--volume is %q, want a volume id: vol-…", w.VolumeID)
	}
	return nil
}

// Server makes the release volume of this machine.
type Server struct {
	Wish       Wish
	MountPoint string
	UID, GID   int // who the release tree belongs to

	PointerStore string                                    // empty, or not there yet: the first publish gives the volume its store
	LoadAWS      func(context.Context) (aws.Config, error) // for one in S3
	SigningKey   string                                    // the file of the secret key
	Volumes      Volumes
	Snapshots    ec2.DescribeSnapshotsAPIClient // of the account
	Finder       device.Finder
	Say          func(string) // told each thing that was done
	report       Report
}

// Report is what `init --output json` prints.
type Report struct {
	Schema     int      `json:"schema"`
	VolumeID   string   `json:"volume_id"`
	Device     string   `json:"device"`
	FileSystem string   `json:"file_system"`
	UUID       string   `json:"uuid"`
	MountPoint string   `json:"mount_point"`
	Did        []string `json:"did"`             // what was not done before
	Needs      string   `json:"needs,omitempty"` // what a person has to do before this server can publish
}

// did is called when something was missing and is there now.
func (i *Server) did(format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	i.report.Did = append(i.report.Did, what)
	i.Say(what)
}

// Init makes the volume and mounts it. Each step looks first, and does only what is missing, so it
// can be called again after any failure; a disk that is not blank is never formatted.
func (i *Server) Init(ctx context.Context) (Report, error) {
	i.report = Report{Schema: status.Schema, MountPoint: i.MountPoint, Did: []string{}}
	var mounted *mount.Mounted
	_, err := os.Lstat(i.MountPoint)
	if err == nil {
		mounted, err = mount.Look(i.MountPoint)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return i.report, err
	}
	if mounted == nil {
		err = i.bringDisk(ctx)
	} else {
		err = i.takeMounted(mounted)
	}
	if err != nil {
		return i.report, err
	}
	directory, store, err := i.findStore(ctx)
	if err != nil {
		return i.report, err
	}
	makes, err := i.findKeys(ctx, directory)
	if err != nil {
		return i.report, err
	}
	if err := i.makeTree(); err != nil {
		return i.report, err
	}
	if store, err = i.setStore(ctx, directory, store); err != nil {
		return i.report, err
	}
	if makes {
		if err := i.makeKeys(ctx); err != nil {
			return i.report, err
		}
	}
	if i.Wish.Join && directory != nil {
		if err := i.join(ctx, directory); err != nil {
			return i.report, err
		}
	}
	changed, err := i.Volumes.mark(ctx, i.report.VolumeID, store)
	if err != nil {
		return i.report, err
	}
	if changed {
		i.did("tagged %s as the release server's", i.report.VolumeID)
	}
	if i.Wish.Fstab == "" {
		return i.report, nil
	}
	changed, err = persist(i.Wish.Fstab, i.report.UUID, i.MountPoint, i.report.FileSystem)
	if err != nil {
		return i.report, err
	}
	if changed {
		i.did("wrote %s into %s", i.MountPoint, i.Wish.Fstab)
	}
	return i.report, nil
}

// makeMountPoint: nobody can write into the bare directory, so that nothing lands there while the
// volume is not mounted.
func (i *Server) makeMountPoint() error {
	_, err := os.Lstat(i.MountPoint)
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(i.MountPoint), 0o755); err != nil {
		return fmt.Errorf("make the mount point: %w", err)
	}
	if err := os.Mkdir(i.MountPoint, 0o555); err != nil {
		return fmt.Errorf("make the mount point: %w", err)
	}
	i.did("made the directory %s", i.MountPoint)
	return nil
}

// takeMounted accepts a mount that is an earlier init's.
func (i *Server) takeMounted(mounted *mount.Mounted) error {
	name, serial, err := i.Finder.Which(mounted.Major, mounted.Minor)
	if err != nil {
		return fmt.Errorf("what is mounted at %s: %w", i.MountPoint, err)
	}
	volumeID, err := volumeOfSerial(name, serial)
	if err != nil {
		return fmt.Errorf("at %s is %s: %w", i.MountPoint, mounted, err)
	}
	path := filepath.Join(i.Finder.Dev, name)
	info, err := filesystem.ProbeDevice(path)
	if err != nil {
		return err
	}
	if info.Label != filesystem.ReleaseLabel {
		return fmt.Errorf("at %s is %s, whose label is %q: init mounts only what it made (label %s); unmount it, or use another --mount-point",
			i.MountPoint, mounted, info.Label, filesystem.ReleaseLabel)
	}
	if (i.Wish.VolumeID != "" && i.Wish.VolumeID != volumeID) || (i.Wish.Device != "" && i.Wish.Device != path) {
		return fmt.Errorf("at %s is %s (%s) already, not %s%s", i.MountPoint, volumeID, path, i.Wish.VolumeID, i.Wish.Device)
	}
	i.is(volumeID, path, info)
	return nil
}

func (i *Server) is(volumeID, path string, info filesystem.Info) {
	i.report.VolumeID, i.report.Device, i.report.FileSystem, i.report.UUID = volumeID, path, string(info.Kind), info.UUID
}

// bringDisk ends with a release volume mounted.
func (i *Server) bringDisk(ctx context.Context) error {
	disk, volumeID, err := i.disk(ctx)
	if err != nil {
		return err
	}
	if err := i.Volumes.check(ctx, volumeID); err != nil {
		return err
	}
	info, err := filesystem.ProbeDevice(disk.Path)
	switch {
	case errors.Is(err, filesystem.ErrBlank) && i.Wish.Join:
		return advice.Try(fmt.Errorf("%s is the release volume of this server already, and blank: there is nothing on it to join with",
			volumeID),
			"detach and delete it, then ebs-release init --join")
	case errors.Is(err, filesystem.ErrBlank):
		kind := filesystem.Kind(i.Wish.FileSystem)
		if err := mkfs.Make(ctx, disk.Path, kind, filesystem.ReleaseLabel); err != nil {
			return err
		}
		if info, err = filesystem.ProbeDevice(disk.Path); err != nil {
			return err
		}
		i.did("made %s on %s", kind, disk.Path)
	case err != nil:
		return fmt.Errorf("%s (%s) is not blank, and will not be formatted: %w", disk.Path, volumeID, err)
	case info.Label != filesystem.ReleaseLabel:
		return fmt.Errorf("%s (%s) is not blank, and will not be formatted: it holds %s with the label %q, UUID %s",
			disk.Path, volumeID, info.Kind, info.Label, info.UUID)
	}
	if disk.Serial != "" { // the disk must still be the one that was looked at
		if err := i.Finder.Verify(disk, volumeID); err != nil {
			return err
		}
	}
	if err := i.makeMountPoint(); err != nil {
		return err
	}
	if err := mount.Mount(disk.Path, info.KernelName(), i.MountPoint); err != nil {
		return info.WhyNotMounted(err)
	}
	if err := mount.Visible(i.MountPoint, disk.Major, disk.Minor); err != nil {
		return err
	}
	i.did("mounted %s at %s", disk.Path, i.MountPoint)
	i.is(volumeID, disk.Path, info)
	return nil
}

// disk finds or makes the volume, and finds its disk on this machine.
func (i *Server) disk(ctx context.Context) (device.Device, string, error) {
	if i.Wish.Device != "" {
		return i.givenDevice(ctx)
	}
	volumeID := i.Wish.VolumeID
	if volumeID == "" {
		found, err := i.Volumes.find(ctx)
		if err != nil {
			return device.Device{}, "", err
		}
		volumeID = found
	}
	if volumeID == "" {
		snapshot, from, err := i.startsFrom(ctx)
		if err != nil {
			return device.Device{}, "", err
		}
		made, err := i.Volumes.create(ctx, i.Wish, snapshot)
		if err != nil {
			return device.Device{}, "", err
		}
		volumeID = made.ID
		i.did("created %s, %d GiB %s%s in %s", volumeID, made.SizeGiB, i.Wish.Type, from, i.Volumes.Owner.Zone)
	}
	// The kernel's word first: EC2 may say for a while that it is not attached, and an attach then
	// ends with VolumeInUse (row 87).
	if here, found, err := i.Finder.Here(volumeID, ""); err == nil && found {
		return here, volumeID, nil
	}
	name, attached, err := i.Volumes.attach(ctx, volumeID)
	if err != nil {
		return device.Device{}, "", err
	}
	if attached {
		i.did("attached %s as %s", volumeID, name)
	}
	ctx, cancel := context.WithTimeout(ctx, diskTime)
	defer cancel()
	disk, err := i.Finder.Find(ctx, volumeID, name)
	return disk, volumeID, err
}

// givenDevice finds the volume below a disk that a person named.
func (i *Server) givenDevice(ctx context.Context) (device.Device, string, error) {
	var node unix.Stat_t
	if err := unix.Stat(i.Wish.Device, &node); err != nil {
		return device.Device{}, "", fmt.Errorf("--device %s: %w", i.Wish.Device, err)
	}
	if node.Mode&unix.S_IFMT != unix.S_IFBLK {
		return device.Device{}, "", fmt.Errorf("--device %s is not a disk", i.Wish.Device)
	}
	name, serial, err := i.Finder.Which(unix.Major(node.Rdev), unix.Minor(node.Rdev))
	if err != nil {
		return device.Device{}, "", fmt.Errorf("--device %s: %w", i.Wish.Device, err)
	}
	volumeID, err := volumeOfSerial(name, serial)
	if err != nil {
		return device.Device{}, "", fmt.Errorf("--device %s: %w", i.Wish.Device, err)
	}
	ctx, cancel := context.WithTimeout(ctx, diskTime)
	defer cancel()
	disk, err := i.Finder.Find(ctx, volumeID, "")
	return disk, volumeID, err
}

// makeTree makes the directories of a release tree, or gives them to another owner.
func (i *Server) makeTree() error {
	v, err := release.Open(i.MountPoint)
	if err != nil {
		return err
	}
	defer func() { _ = v.Close() }()
	var st unix.Stat_t
	if _, err := v.Releases(); err == nil && unix.Stat(i.MountPoint, &st) == nil && int(st.Uid) == i.UID && int(st.Gid) == i.GID {
		return nil
	}
	if err := v.Init(i.UID, i.GID); err != nil {
		return err
	}
	i.did("made the release tree, for user id %d", i.UID)
	return nil
}
