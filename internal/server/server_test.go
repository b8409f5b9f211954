package server

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/device"
	"ebs-release/internal/filesystem"
	"ebs-release/internal/instance"
	"ebs-release/internal/mount"
	"ebs-release/internal/test/scratch"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"
	"golang.org/x/sys/unix"
)

// account is that of a release server: an EC2 with volumes, whose disks are loop devices that show
// up under other names in directories of the test.
type account struct {
	volume.EC2 // nil: a call that init does not make
	t          *testing.T
	sys, dev   string
	loop       string // the disk of the next volume
	volumes    map[string]*types.Volume
	taken      map[string]bool // device names
	snapshots  []types.Snapshot
	refused    error // what DescribeSnapshots ends with
	pending    int   // how often AttachVolume says that the instance is not running yet
	calls      []string
}

func newAccount(t *testing.T, size int64) *account {
	t.Helper()
	return &account{t: t, sys: t.TempDir(), dev: t.TempDir(), loop: scratch.Disk(t, size), volumes: map[string]*types.Volume{}, taken: map[string]bool{}}
}

func (s *account) server(wish Wish) *Server {
	who := instance.Identity{InstanceID: "i-server", AvailabilityZone: "eu-central-1a", Region: "eu-central-1"}
	point := filepath.Join(s.dev, "..", "release") // beside the directories of this test
	point = filepath.Clean(point)
	if wish.FileSystem == "" {
		wish.FileSystem = "ext4"
	}
	if wish.Fstab == "" {
		wish.Fstab = filepath.Join(s.sys, "fstab")
	}
	wish.SizeGiB, wish.Type = 1, "gp3"
	quick := volume.Timing{FirstLook: time.Millisecond, Poll: time.Millisecond, SlowPoll: time.Millisecond, Vanished: time.Second}
	return &Server{
		Wish: wish, MountPoint: point, UID: 1234, GID: 1234, SigningKey: filepath.Join(s.sys, "etc", "signing.key"),
		Volumes:   Volumes{volume.New(s, quick, slog.New(slog.DiscardHandler)), Owner(who, point), nil},
		Snapshots: s,
		Finder:    device.Finder{Sys: s.sys, Dev: s.dev, Log: slog.New(slog.DiscardHandler)},
		Say:       func(string) {},
	}
}

func (s *account) unmount(i *Server) {
	s.t.Helper()
	if err := unix.Unmount(i.MountPoint, 0); err != nil {
		s.t.Error(err)
	}
}

// plug makes a volume's disk appear as nvme1n1.
func (s *account) plug(id string) {
	var node unix.Stat_t
	if err := unix.Stat(s.loop, &node); err != nil {
		s.t.Fatal(err)
	}
	if err := unix.Mknod(filepath.Join(s.dev, "nvme1n1"), unix.S_IFBLK|0o600, int(node.Rdev)); err != nil {
		s.t.Fatal(err)
	}
	sectors, err := os.ReadFile("/sys/block/" + filepath.Base(s.loop) + "/size")
	if err != nil {
		s.t.Fatal(err)
	}
	for name, text := range map[string]string{
		"dev": fmt.Sprintf("%d:%d\n", unix.Major(node.Rdev), unix.Minor(node.Rdev)), "size": string(sectors), "device/serial": device.Serial(id) + "\n",
	} {
		path := filepath.Join(s.sys, "nvme1n1", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			s.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *account) DescribeVolumes(_ context.Context, in *ec2.DescribeVolumesInput, _ ...func(*ec2.Options)) (*ec2.DescribeVolumesOutput, error) {
	out := &ec2.DescribeVolumesOutput{}
	for _, id := range in.VolumeIds {
		v := s.volumes[id]
		if v == nil {
			return nil, &smithy.GenericAPIError{Code: "InvalidVolume.NotFound"}
		}
		out.Volumes = append(out.Volumes, *v)
		if v.State == types.VolumeStateCreating { // next time it is there
			v.State = types.VolumeStateAvailable
		}
	}
	for _, v := range s.volumes {
		matches := len(in.Filters) > 0
		for _, f := range in.Filters {
			matches = matches && tag(v.Tags, strings.TrimPrefix(*f.Name, "tag:")) == f.Values[0]
		}
		if matches {
			out.Volumes = append(out.Volumes, *v)
		}
	}
	return out, nil
}

func (s *account) DescribeSnapshots(context.Context, *ec2.DescribeSnapshotsInput, ...func(*ec2.Options)) (*ec2.DescribeSnapshotsOutput, error) {
	return &ec2.DescribeSnapshotsOutput{Snapshots: s.snapshots}, s.refused
}

func (s *account) CreateVolume(_ context.Context, in *ec2.CreateVolumeInput, _ ...func(*ec2.Options)) (*ec2.CreateVolumeOutput, error) {
	s.calls = append(s.calls, "create")
	if aws.ToString(in.ClientToken) == "" {
		s.t.Error("CreateVolume without a client token")
	}
	id := fmt.Sprintf("vol-%017x", len(s.volumes)+1)
	s.volumes[id] = &types.Volume{VolumeId: &id, State: types.VolumeStateCreating, AvailabilityZone: in.AvailabilityZone, SnapshotId: in.SnapshotId, Tags: in.TagSpecifications[0].Tags}
	return &ec2.CreateVolumeOutput{VolumeId: &id, State: types.VolumeStateCreating}, nil
}

func (s *account) AttachVolume(_ context.Context, in *ec2.AttachVolumeInput, _ ...func(*ec2.Options)) (*ec2.AttachVolumeOutput, error) {
	s.calls = append(s.calls, "attach "+*in.Device)
	switch {
	case s.pending > 0:
		s.pending--
		return nil, &smithy.GenericAPIError{Code: "IncorrectState", Message: "Instance 'i-server' is not 'running'."}
	case s.taken[*in.Device]:
		return nil, &smithy.GenericAPIError{Code: "InvalidParameterValue", Message: "Invalid value '" + *in.Device + "' for unixDevice. Attachment point " + *in.Device + " is already in use"}
	}
	v := s.volumes[*in.VolumeId]
	v.State = types.VolumeStateInUse
	v.Attachments = []types.VolumeAttachment{{InstanceId: in.InstanceId, Device: in.Device}}
	s.plug(*in.VolumeId)
	return &ec2.AttachVolumeOutput{State: types.VolumeAttachmentStateAttaching}, nil
}

func (s *account) CreateTags(_ context.Context, in *ec2.CreateTagsInput, _ ...func(*ec2.Options)) (*ec2.CreateTagsOutput, error) {
	s.calls = append(s.calls, "tag")
	v := s.volumes[in.Resources[0]]
	v.Tags = append(v.Tags, in.Tags...)
	return &ec2.CreateTagsOutput{}, nil
}

func TestInitMakesTheReleaseVolumeOnce(t *testing.T) {
	for kind, size := range map[string]int64{"ext4": 32 << 20, "xfs": 320 << 20} {
		t.Run(kind, func(t *testing.T) {
			s := newAccount(t, size)
			s.pending, s.taken["/dev/xvdaa"] = 1, true
			i := s.server(Wish{FileSystem: kind})
			report, err := i.Init(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.unmount(i) })
			mounted, err := mount.Look(i.MountPoint)
			if err != nil || mounted == nil || mounted.Kind != kind || !strings.HasPrefix(mounted.Options, "rw,nosuid,nodev") {
				t.Fatalf("mounted: %+v, %v", mounted, err)
			}
			if calls := strings.Join(s.calls, ", "); calls != "create, attach /dev/xvdaa, attach /dev/xvdaa, attach /dev/xvdab" {
				t.Errorf("calls: %s", calls)
			}
			if report.FileSystem != kind || report.VolumeID == "" || len(report.Did) < 6 {
				t.Errorf("%+v", report)
			}
			info, err := filesystem.ProbeDevice(filepath.Join(s.dev, "nvme1n1"))
			if err != nil || info.Label != "code_release" || info.UUID != report.UUID {
				t.Errorf("%+v, %v", info, err)
			}
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(i.MountPoint, "releases"), &st); err != nil || st.Uid != 1234 {
				t.Errorf("owner %d, %v", st.Uid, err)
			}
			if err := os.WriteFile(filepath.Join(i.MountPoint, "keep"), nil, 0o600); err != nil {
				t.Fatal(err)
			}

			again, err := s.server(Wish{FileSystem: kind}).Init(t.Context())
			if err != nil || len(again.Did) != 0 || again.VolumeID != report.VolumeID || again.UUID != report.UUID {
				t.Errorf("a second init: %+v, %v", again, err)
			}

			// The instance was rebooted: nothing is mounted, and nothing may be lost.
			s.unmount(i)
			again, err = s.server(Wish{FileSystem: kind}).Init(t.Context())
			if err != nil || len(again.Did) != 1 || again.VolumeID != report.VolumeID {
				t.Errorf("after a reboot: %+v, %v", again, err)
			}
			if _, err := os.Stat(filepath.Join(i.MountPoint, "keep")); err != nil {
				t.Error(err)
			}
			if len(s.volumes) != 1 {
				t.Errorf("%d volumes", len(s.volumes))
			}
		})
	}
}

func TestInitGoesOnWhereAnEarlierOneStopped(t *testing.T) {
	s := newAccount(t, 32<<20)
	i := s.server(Wish{})
	if _, err := i.Volumes.create(t.Context(), i.Wish, ""); err != nil { // and then the power went
		t.Fatal(err)
	}
	if _, err := i.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer s.unmount(i)
	if len(s.volumes) != 1 {
		t.Errorf("%d volumes", len(s.volumes))
	}
}

func TestInitNeverFormatsWhatIsNotBlank(t *testing.T) {
	for _, tc := range []struct {
		name string
		fill func(t *testing.T, loop string)
		want string
	}{
		{"a file system", func(t *testing.T, loop string) { command(t, "mkfs.ext4", "-q", "-L", "data", loop) }, `label "data"`},
		{"a few bytes", func(t *testing.T, loop string) {
			f, err := os.OpenFile(loop, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt([]byte("precious"), 70000); err != nil {
				t.Fatal(err)
			}
		}, "not blank"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newAccount(t, 32<<20)
			tc.fill(t, s.loop)
			sum := command(t, "sha256sum", s.loop)
			id := "vol-00000000000000009"
			s.volumes[id] = &types.Volume{VolumeId: &id, State: types.VolumeStateAvailable, AvailabilityZone: aws.String("eu-central-1a")}
			_, err := s.server(Wish{VolumeID: id}).Init(t.Context())
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "will not be formatted") {
				t.Errorf("%v", err)
			}
			if command(t, "sha256sum", s.loop) != sum {
				t.Error("the disk was written to")
			}
		})
	}
}

func TestInitRefuses(t *testing.T) {
	blank := func(role string) (*types.Volume, string) {
		id := "vol-00000000000000009"
		v := &types.Volume{VolumeId: &id, State: types.VolumeStateAvailable, AvailabilityZone: aws.String("eu-central-1a")}
		if role != "" {
			v.Tags = []types.Tag{{Key: aws.String("ebs-release:role"), Value: &role}}
		}
		return v, id
	}
	t.Run("a volume of an agent", func(t *testing.T) {
		s := newAccount(t, 32<<20)
		v, id := blank("member")
		s.volumes[id] = v
		_, err := s.server(Wish{VolumeID: id}).Init(t.Context())
		if err == nil || !strings.Contains(err.Error(), "belongs to an agent") {
			t.Errorf("%v", err)
		}
		if _, err := filesystem.ProbeDevice(s.loop); err == nil {
			t.Error("it was formatted")
		}
	})
	t.Run("a volume in another zone", func(t *testing.T) {
		s := newAccount(t, 32<<20)
		v, id := blank("")
		v.AvailabilityZone = aws.String("eu-central-1b")
		s.volumes[id] = v
		if _, err := s.server(Wish{VolumeID: id}).Init(t.Context()); err == nil || !strings.Contains(err.Error(), "eu-central-1b") {
			t.Errorf("%v", err)
		}
	})
	t.Run("a volume of another instance", func(t *testing.T) {
		s := newAccount(t, 32<<20)
		v, id := blank("")
		v.Attachments = []types.VolumeAttachment{{InstanceId: aws.String("i-other")}}
		s.volumes[id] = v
		if _, err := s.server(Wish{VolumeID: id}).Init(t.Context()); err == nil || !strings.Contains(err.Error(), "is attached to i-other") {
			t.Errorf("%v", err)
		}
	})
	t.Run("joining with a blank volume", func(t *testing.T) {
		s := newAccount(t, 32<<20)
		v, id := blank("server")
		v.Tags = append(v.Tags, types.Tag{Key: aws.String("ebs-release:instance"), Value: aws.String("i-server")})
		s.volumes[id] = v
		i := s.server(Wish{Join: true})
		v.Tags = append(v.Tags, types.Tag{Key: aws.String("ebs-release:mount-point"), Value: aws.String(i.MountPoint)})
		if _, err := i.Init(t.Context()); err == nil || !strings.Contains(err.Error(), "and blank") {
			t.Errorf("%v", err)
		}
		if _, err := filesystem.ProbeDevice(s.loop); err == nil {
			t.Error("it was formatted")
		}
	})
	t.Run("a mount point with files in it", func(t *testing.T) {
		s := newAccount(t, 32<<20)
		i := s.server(Wish{})
		if err := os.MkdirAll(filepath.Join(i.MountPoint, "full"), 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := i.Init(t.Context()); err == nil || !strings.Contains(err.Error(), "not empty") || len(s.volumes) != 0 {
			t.Errorf("%v, %d volumes", err, len(s.volumes))
		}
	})
	t.Run("something else that is mounted", func(t *testing.T) {
		s := newAccount(t, 32<<20)
		command(t, "mkfs.ext4", "-q", "-L", "data", s.loop)
		s.plug("vol-00000000000000009")
		i := s.server(Wish{})
		if err := os.Mkdir(i.MountPoint, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := mount.Mount(filepath.Join(s.dev, "nvme1n1"), "ext4", i.MountPoint); err != nil {
			t.Fatal(err)
		}
		defer s.unmount(i)
		if _, err := i.Init(t.Context()); err == nil || !strings.Contains(err.Error(), `whose label is "data"`) || len(s.volumes) != 0 {
			t.Errorf("%v", err)
		}
	})
}

func tag(tags []types.Tag, key string) string {
	for _, t := range tags {
		if aws.ToString(t.Key) == key {
			return aws.ToString(t.Value)
		}
	}
	return ""
}

func command(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v: %s", argv, err, out)
	}
	return strings.TrimSpace(string(out))
}
