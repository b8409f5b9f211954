// Package disk is the lab's EBS hardware: volumes and snapshots are sparse files, an attached
// volume is a loop device.
//
// A snapshot is a reflink of its volume's file and a volume from a snapshot another one: both take
// milliseconds and no space, whatever their size, and a snapshot is a point in time even while
// someone writes.
package disk

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

const gib = 1 << 30

// Store holds the files of one lab. Its methods may be called side by side; calls for one volume
// come one after the other.
type Store struct {
	label string
	image *image // nil: plain files in a directory
	root  *os.Root

	mu      sync.Mutex
	devices []*Device // handed out and perhaps still in use
	cold    *Cold     // nil: no volume is
	colds   map[string]*coldDisk

	freezing sync.Mutex
	frozen   *freeze // nil: it is not
}

// Open makes an empty store that keeps its data below dir, in a file without a name. Without
// mkfs.xfs it uses a directory in dir, and snapshots are copies. label names the lab in the records
// of its loop devices.
func Open(ctx context.Context, dir, label string, log *slog.Logger) (*Store, error) {
	s := &Store{label: label, colds: map[string]*coldDisk{}}
	directory, err := os.MkdirTemp(dir, "disks-*")
	if err != nil {
		return nil, fmt.Errorf("disk store: %w", err)
	}
	s.image, err = newImage(ctx, dir, label+"/store")
	switch {
	case err == nil:
		directory = s.image.path()
	case ctx.Err() != nil:
		return nil, fmt.Errorf("disk store: %w", err)
	default:
		log.Warn("disk store without reflinks: snapshots are copies, and not a point in time while someone writes", "error", err)
	}
	s.root, err = os.OpenRoot(directory)
	if err == nil {
		err = errors.Join(s.root.Mkdir("volumes", 0o700), s.root.Mkdir("snapshots", 0o700))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("disk store: %w", err), s.Close(ctx))
	}
	return s, nil
}

// Close forgets all volumes and snapshots. It waits until ctx ends for devices that are still
// mounted, and names those that stay.
func (s *Store) Close(ctx context.Context) error {
	thawed := s.Thaw()
	s.mu.Lock()
	defer s.mu.Unlock()
	errs := []error{thawed}
	for _, d := range s.devices {
		d.Close() // a second Close says so; what counts is that the device goes
		errs = append(errs, d.Gone(ctx))
	}
	s.devices = nil
	if s.root != nil {
		errs = append(errs, s.root.Close())
	}
	if s.image != nil {
		errs = append(errs, s.image.close(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close disk store: %w", err)
	}
	return nil
}

// CreateVolume makes a blank disk, or one with the bytes of snapshotID when that is not "".
func (s *Store) CreateVolume(volumeID string, sizeGiB int32, snapshotID string) error {
	if err := s.createVolume(volumeID, int64(sizeGiB)*gib, snapshotID); err != nil {
		return fmt.Errorf("create disk %s: %w", volumeID, err)
	}
	return nil
}

func (s *Store) createVolume(volumeID string, size int64, snapshotID string) error {
	if snapshotID != "" {
		if err := s.cloneFile(volumePath(volumeID), snapshotPath(snapshotID)); err != nil {
			return err
		}
	}
	f, err := s.root.OpenFile(volumePath(volumeID), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() > size {
		return fmt.Errorf("%d bytes are less than the %d of %s", size, info.Size(), snapshotID)
	}
	if snapshotID != "" {
		s.cool(volumeID, size)
	}
	return f.Truncate(size)
}

// DeleteVolume deletes the disk.
func (s *Store) DeleteVolume(volumeID string) error {
	s.mu.Lock()
	delete(s.colds, volumeID)
	s.mu.Unlock()
	return s.root.Remove(volumePath(volumeID))
}

// CreateSnapshot keeps the bytes of the volume as they are now.
func (s *Store) CreateSnapshot(snapshotID, volumeID string) error {
	if err := s.cloneFile(snapshotPath(snapshotID), volumePath(volumeID)); err != nil {
		return fmt.Errorf("snapshot %s of %s: %w", snapshotID, volumeID, err)
	}
	return nil
}

// DeleteSnapshot deletes the snapshot; volumes made from it keep their bytes.
func (s *Store) DeleteSnapshot(snapshotID string) error {
	return s.root.Remove(snapshotPath(snapshotID))
}

// OpenRaw opens the bytes of a volume, attached or not: what is written there, a disk has damaged.
func (s *Store) OpenRaw(volumeID string) (*os.File, error) { return s.open(volumeID) }

// OpenVolume opens the bytes of a volume that no device shows: for a virtual machine, and for tests
// that want a damaged one. It waits until ctx ends for a device of it that was closed and is still
// mounted.
func (s *Store) OpenVolume(ctx context.Context, volumeID string) (*os.File, error) {
	s.mu.Lock()
	devices := slices.Clone(s.devices)
	s.mu.Unlock()
	for _, d := range devices {
		if d.volume == volumeID {
			if err := d.Gone(ctx); err != nil {
				return nil, fmt.Errorf("open disk %s: %w", volumeID, err)
			}
		}
	}
	return s.open(volumeID)
}

func (s *Store) open(volumeID string) (*os.File, error) {
	return s.root.OpenFile(volumePath(volumeID), os.O_RDWR, 0)
}

// Attach shows the volume as a block device.
func (s *Store) Attach(volumeID string) (*Device, error) {
	f, err := s.open(volumeID)
	if err != nil {
		return nil, fmt.Errorf("attach disk %s: %w", volumeID, err)
	}
	defer f.Close() // the device holds it from here on
	// Direct I/O: else every block of a release is cached once more for each member.
	var flags uint32
	if s.image != nil {
		flags = unix.LO_FLAGS_DIRECT_IO
	}
	var d *Device
	if cold := s.coldOf(volumeID); cold != nil {
		d, err = s.attachCold(f, volumeID, cold)
	} else {
		d, err = attach(f, s.label+"/"+volumeID, flags)
	}
	if err != nil {
		return nil, fmt.Errorf("attach disk %s: %w", volumeID, err)
	}
	d.volume = volumeID
	s.mu.Lock()
	defer s.mu.Unlock()
	s.devices = append(slices.DeleteFunc(s.devices, func(old *Device) bool { return !old.inUse() }), d)
	return d, nil
}

func (s *Store) cloneFile(to, from string) (err error) {
	src, err := s.root.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := s.root.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer dst.Close()
	if err := clone(dst, src); err != nil {
		return errors.Join(err, s.root.Remove(to))
	}
	return nil
}

func volumePath(id string) string   { return "volumes/" + id }
func snapshotPath(id string) string { return "snapshots/" + id }
