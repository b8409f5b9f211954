package boot

import (
	"context"
	"errors"
	"time"
)

// Identity is who this instance is.
type Identity struct {
	InstanceID   string
	InstanceType string
	Zone         string
	Region       string
}

// Pointer is what the pointer document says.
type Pointer struct {
	Store      string // whose it is; empty: from before stores had ids
	Generation int64  // 0: a plain line, with nothing to verify against
	Release    string
	Digest     string
	Snapshot   func(region string) (string, error)
	Document   string // as it was read, for whoever has the volume; empty: nothing but the above
	Behind     bool   // the snapshot holds an older release, from which packs lead on

	// For is what it says to one instance, while a rollout gives some of them another release; nil:
	// the same to all.
	For func(Identity) Pointer
}

// Wanted is what this member shall serve: the pointer, for this instance and its Region.
type Wanted struct {
	Store      string // whose release it is; empty: anybody's
	Generation int64  // 0: only the snapshot is known
	Release    string
	Digest     string
	SnapshotID string
	Document   string   // of the Pointer
	Behind     bool     // of the Pointer
	Who        Identity // whose target it is
}

// sameTarget says whether a member that serves w serves o. Snapshots come and go, and documents are
// written anew, without a new target.
func (w Wanted) sameTarget(o Wanted) bool {
	return w.Store == o.Store && w.Generation == o.Generation && w.Release == o.Release && w.Digest == o.Digest &&
		(w.Generation > 0 || w.SnapshotID == o.SnapshotID)
}

// Volume is a volume that was made for this instance and mount point.
type Volume struct {
	ID         string
	SnapshotID string
	Attached   bool   // to this instance
	Device     string // the name of the attachment: /dev/xvdaa; empty: EC2 has not said
	Protected  bool   // EC2 deletes it with the instance
	Brought    bool   // EC2 attached it with the launch: it is not ours to protect, to tag or to remove
	Unlisted   bool   // EC2 does not list it: its disk says whose it is. Nothing is removed for that
	Leaving    bool   // in error, on its way off, or left behind by an earlier boot: of no use
	Store      string // whose releases it holds, by its tag; empty: not said
	Reported   Report // what its tags say: a hint, a push may have moved the volume on
}

// Report is what a member tells the publisher, by tags on its volume, or on itself where EC2
// brought that, or in the store.
type Report struct {
	Ready      bool
	Pending    bool // the programs that follow an activation have not succeeded: the application may still serve the release before
	Generation int64
	Release    string
	HostKey    string // of its sshd: "ssh-ed25519 AAAA…"; empty when it has none yet

	// Above, when it is higher than Generation: up to there another volume has reported, which EC2
	// brought and which stays attached. That must not count any more (up --older).
	Above int64
}

// Disk is the block device that a volume became.
type Disk struct {
	Path string // /dev/nvme1n1
	Kind string // what check found, by the kernel's name: ext4, xfs
}

// Facts are what is known at some moment of a boot, for people and for the application.
type Facts struct {
	InstanceID string
	Generation int64
	Release    string
	SnapshotID string
	VolumeID   string
	Device     string
	Brought    bool // as in Volume
	Pending    bool // as in Report
}

// What the methods of the parts wrap.
var (
	// ErrSnapshot, of Create: the snapshot is not there or not completed. The pointer may have
	// moved on.
	ErrSnapshot = errors.New("the snapshot cannot be used")
	// ErrVolume, of Attach: EC2 made the volume, and then it failed, vanished or was deleted.
	// Another one may do.
	ErrVolume = errors.New("the volume is of no use")
	// ErrMismatch, of Tree.Check: the volume was looked at, and holds something else than what is
	// wanted. Of CatchUp: it cannot be brought to what is wanted either. Any other error of these
	// means that nobody knows: nothing is unmounted or deleted for that.
	ErrMismatch = errors.New("it is not what is wanted")
	// ErrOlder, of Tree.Check and CatchUp: a higher generation than the wanted one was activated on
	// the volume. It is the pointer that is wrong.
	ErrOlder = errors.New("the pointer that was read is an old one")
	// ErrUnsigned, of Tree.Check and CatchUp: it is the pointer that is wrong, again.
	ErrUnsigned = errors.New("the pointer is not signed by a key that this volume trusts")
	// ErrGone, of CatchUp: the pointer may have moved on.
	ErrGone = errors.New("a pack that the pointer names is gone")
	// ErrStore, of CatchUp: it says nothing of the volume.
	ErrStore = errors.New("the store does not give what the pointer names")
	// ErrWarmed, of Run: this instance is in a warm pool, and serves nothing.
	ErrWarmed = errors.New("this instance is in the warm pool of its group")
	// ErrThrottled, of Volumes, with the error of its ctx: that ended while EC2 refused its calls for
	// a request limit. The stage is begun again.
	ErrThrottled = errors.New("EC2 takes no more calls of this account at the moment")
	// ErrDenied, of Report: the role of this instance has no right to, or the instance has no room
	// for more tags. A volume of its own may be reported.
	ErrDenied = errors.New("this member may not report")
	// ErrDisk, of CatchUp, where an error may be one of the network: this one is of the volume.
	// Another volume may do.
	ErrDisk = errors.New("the disk fails")
)

// Parts are what a boot needs of the world.
type Parts struct {
	Instance Instance
	Pointers Pointers
	Volumes  Volumes
	Disks    Disks
	Mounts   Mounts
	Gate     Gate

	// Older: the operator wants what the pointer names, although a volume here holds something
	// newer, or does not trust it.
	Older bool
}

// Instance is the machine that boots.
type Instance interface {
	Identify(ctx context.Context) (Identity, error)
	HostKey(ctx context.Context) (string, error)
	// Warmed says whether it is in a warm pool, or on its way into one.
	Warmed(ctx context.Context) (bool, error)
}

// Pointers is where the pointer is fetched from. Fetch tries until it has a valid one, or ctx ends.
type Pointers interface {
	Fetch(ctx context.Context) (Pointer, error)
}

// Volumes is EBS. Every method ends with its ctx.
type Volumes interface {
	// Mine lists the volumes made for this instance and mount point.
	Mine(ctx context.Context, me Identity) ([]Volume, error)
	// Create asks for a volume, which need not be available yet. The same call after a crash gives
	// the same volume, perhaps attached already; never one that Remove took away. A Volume with an
	// ID exists, whatever the error.
	Create(ctx context.Context, me Identity, want Wanted) (Volume, error)
	// Attach attaches under a free name that is none of skip, as soon as the volume is available.
	// Whether the disk is here, Disks.Find says.
	Attach(ctx context.Context, me Identity, v Volume, skip []string) (Volume, error)
	Protect(ctx context.Context, me Identity, v Volume) error
	// Remove detaches and deletes.
	Remove(ctx context.Context, me Identity, v Volume) error
	// Leave marks a volume that cannot be removed now: nobody takes it on, it speaks for no member,
	// and gc, a later boot or the end of the instance removes it.
	Leave(ctx context.Context, me Identity, v Volume) error
	Report(ctx context.Context, v Volume, r Report) error
	// Newest is the highest generation of a store of which there is a snapshot that was made after
	// its commit, and that snapshot's id; 0: there is none.
	Newest(ctx context.Context, store string) (generation int64, id string, err error)
}

// Disks finds and checks block devices.
type Disks interface {
	// Brought looks at the EBS disks that nobody uses, and at what is at the mount point, for volumes
	// that hold releases of the wanted store. It writes nothing to them.
	Brought(ctx context.Context, want Wanted) ([]Found, error)
	// Here says whether the volume is a disk of this machine now: one look.
	Here(ctx context.Context, v Volume) (bool, error)
	Find(ctx context.Context, v Volume) (Disk, error)
	// Check makes sure that there is a file system that can be mounted, and fills in Kind. It never
	// makes one.
	Check(ctx context.Context, d Disk) (Disk, error)
	// Unused is nil when nothing on this machine uses the volume's disk, or there is no such disk.
	// Another mount namespace (a container) may hold a file system that is mounted nowhere here any
	// more.
	Unused(ctx context.Context, v Volume) error
}

// Mounts is the mount point.
type Mounts interface {
	// Look says what is at the mount point: nil when it is free. Anything that is not free, and not
	// exactly one mount, is an error.
	Look(ctx context.Context, mine []Volume) (*Mounted, error)
	// Prepare mounts the disk where nobody else sees it.
	Prepare(ctx context.Context, v Volume, d Disk) (Prepared, error)
	// Unmount takes the mount at the mount point away. In use, here or in another mount namespace:
	// an error that names the processes, and the mount stays.
	Unmount(ctx context.Context) error
	// Visible reads back that this disk is what everybody sees at the mount point.
	Visible(ctx context.Context, v Volume, d Disk) error
}

// Mounted is what is at the mount point.
type Mounted struct {
	VolumeID string // one of mine; empty: something else
	OfEBS    bool   // it is an EBS volume, mine or not
	Disk     Disk
	What     string // for people: /release: tmpfs (…)
	Tree     Served
}

// Served is what is at the mount point.
type Served interface {
	Tree
	// InReach is nil when the store has the packs that bring it to what is wanted, and each is what
	// the pointer says. It reads all of them. Errors are those of CatchUp.
	InReach(ctx context.Context, want Wanted) error
}

// Prepared is a mounted file system that nobody else sees.
type Prepared interface {
	Tree
	// CatchUp brings the volume to what is wanted, by packs from the store, and ends first what was
	// cut off of an earlier one. nil: it did so, there was nothing to do, or this pointer knows no
	// such way; what the volume holds, Check says. It wraps ErrMismatch, ErrOlder, ErrUnsigned,
	// ErrGone or ErrDisk where one of them is meant, and context.DeadlineExceeded only when the
	// disk does not answer. Any other error (the store does not answer) leaves the volume to the
	// next start. It may be cut off anywhere.
	CatchUp(ctx context.Context, want Wanted) error
	// Place makes it visible at the mount point.
	Place(ctx context.Context) error
	// Close lets go; what is not placed is unmounted.
	Close(ctx context.Context) error
}

// Tree is the content of a release volume.
type Tree interface {
	// Check is nil when the volume holds what is wanted: release, digest and generation. Else an
	// ErrMismatch, an ErrOlder or an ErrUnsigned, when it could be looked at.
	Check(ctx context.Context, want Wanted) error
	// Holding says what is current on it; zero values when it does not say.
	// done: the programs that follow an activation have succeeded for that; of a mount that nobody
	// saw: no program took the application out of service before.
	Holding(ctx context.Context) (generation int64, release string, done bool)
}

// Gate is what waits for the boot: systemd, and by ebs-release.target the application. A rollout's
// gate, which is a command, has nothing to do with it.
type Gate interface {
	Open(ctx context.Context, f Facts) error
}

// Progress is told what goes on. Its methods are not called at the same time.
type Progress interface {
	Started(stage string, f Facts)
	// Ended comes after Started; skipped: there was nothing to do.
	Ended(stage string, took time.Duration, skipped bool, err error)
}
