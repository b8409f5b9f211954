package cloud

import (
	"context"
	"net/netip"
	"strings"
)

// Hardware is what the account switches: disks and machines. EC2's states, rules and latencies live
// in Account; Hardware only does what it is told.
//
// The account calls it without holding any lock, so a machine that boots inside Launch may call the
// API before Launch has returned. Calls for one volume or one instance come one after the other,
// calls for different ones side by side; several volumes may be made from one snapshot at a time.
// Calls are made once, in an order that makes sense (no Attach before CreateVolume and Launch have
// returned, but for InstanceSpec.Disks; no DeleteVolume while attached, no DeleteSnapshot while a
// volume is being made from it). ctx ends when the account is closed, and for Launch, Start, Stop
// and Reboot when the instance is terminated meanwhile: Terminate follows, after a Launch that
// failed, too. An error is logged; a volume or snapshot that could not be made ends in state
// "error", an instance that could not be launched in "terminated".
type Hardware interface {
	// CreateVolume makes a disk of sizeGiB, blank, or with the bytes of snapshotID when that is not
	// "". It returns when the disk can be attached.
	CreateVolume(ctx context.Context, volumeID string, sizeGiB int32, snapshotID string) error
	DeleteVolume(ctx context.Context, volumeID string) error
	// Initialized is how much of a volume was loaded from its snapshot, in percent.
	Initialized(volumeID string) int

	// CreateSnapshot takes a point in time: the bytes as they are when it returns. It is called
	// inside the CreateSnapshot request, before the answer ("pending"), because EBS snapshots
	// capture the data as of the request. It must be quick.
	CreateSnapshot(ctx context.Context, snapshotID, volumeID string) error
	DeleteSnapshot(ctx context.Context, snapshotID string) error

	// Attach makes the disk show up in the instance: /sys/block/nvmeXn1/device/serial =
	// SerialOf(volume id), and /dev/nvmeXn1.
	Attach(ctx context.Context, a AttachSpec) error
	// Detach takes the disk out of the instance's /sys and /dev; its data is kept. A disk that
	// never showed up there is no error. When the disk is mounted and force is false it may return
	// ErrBusy, as a guest that does not let go: the account says `busy` and tries again every
	// second.
	Detach(ctx context.Context, volumeID, instanceID string, force bool) error

	// Launch makes the machine and switches it on; it returns when the machine has power, not when
	// it has booted. The account says `pending` until after it returned: instances boot while EC2
	// still calls them pending (failures.md row 1).
	Launch(ctx context.Context, inst InstanceSpec) error
	Stop(ctx context.Context, instanceID string) error   // power off; disks stay attached
	Start(ctx context.Context, instanceID string) error  // power on again: a new boot with the same address and the same disks
	Reboot(ctx context.Context, instanceID string) error // a new boot with the same disks
	// Hibernate keeps what is in memory and switches off; after the next Start all goes on where it
	// was. ReplaceRoot boots the machine from a new root disk; address and disks stay.
	Hibernate(ctx context.Context, instanceID string) error
	ReplaceRoot(ctx context.Context, inst InstanceSpec) error
	// Terminate switches the machine off and forgets it. Its disks have not been detached by then;
	// they are gone from the machine with it.
	Terminate(ctx context.Context, instanceID string) error
}

// InstanceSpec says what Launch shall start. The account chooses the address (from Options.Subnet),
// as EC2 does.
type InstanceSpec struct {
	ID       string // i-0123456789abcdef0
	Address  netip.Addr
	Subnet   netip.Prefix
	Zone     string // us-east-1a
	Type     string // m5.large
	ImageID  string // ami-…: Hardware may choose the kind of machine by it
	KeyName  string
	Role     string // IAM role of the instance profile, "" without one
	UserData []byte // decoded
	Group    string // Auto Scaling group, "" without one

	// Disks are the volumes of its block device mappings, but the root's: there before it has power.
	// CreateVolume has returned for each.
	Disks []AttachSpec
}

// AttachSpec says what Attach shall show. The last three fields are defects that a Fault asked for;
// zero values mean a sound disk.
type AttachSpec struct {
	VolumeID   string
	InstanceID string
	DeviceName string // the name given to AttachVolume (/dev/xvdaa): NVMe instances do not use it as a kernel name

	// SizeZero: show the disk with size 0 (failures.md row 9). A second Attach of the same volume
	// without it gives the disk its size.
	SizeZero bool
	// Serial: show this serial instead of the volume's own (failures.md row 8). "-" shows an empty
	// one.
	Serial string
}

// SerialOf is the NVMe serial of a volume: its id without the dash (EBS User Guide, "Map Amazon EBS
// volumes to NVMe device names").
func SerialOf(volumeID string) string { return strings.ReplaceAll(volumeID, "-", "") }
