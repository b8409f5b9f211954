package cloud

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

func (l *lab) brought(instance string) []Volume {
	return slices.DeleteFunc(l.Volumes(), func(v Volume) bool {
		return v.Root || v.Attachment == nil || v.Attachment.InstanceID != instance
	})
}

func TestLaunchBringsVolumes(t *testing.T) {
	inLab(t, Options{Latency: LatencyTable{Power: Fixed(time.Second), Running: Fixed(time.Minute)}}, func(l *lab) {
		snapshot := l.snapshot(l.volume())
		spec := RunSpec{VolumeTags: map[string]string{"team": "web"}, Mappings: []Mapping{
			{Device: "/dev/xvdb", SnapshotID: snapshot, Type: "gp3", InitializationRate: 200, DeleteOnTermination: true},
			{Device: "/dev/xvdc", SizeGiB: 3},
		}}
		id := l.instance(spec)
		got := l.brought(id)
		if len(got) != 2 {
			t.Fatalf("%d volumes came, want 2", len(got))
		}
		v, blank := got[0], got[1]
		if v.Attachment.Device != "/dev/xvdb" {
			v, blank = blank, v
		}
		if v.State != "in-use" || v.Attachment.State != "attached" || v.SizeGiB != 2 || v.IOPS != gp3IOPS || v.InitializationRate != 200 ||
			v.Tags["team"] != "web" || !v.Attachment.DeleteOnTermination {
			t.Errorf("the volume of the snapshot: %+v, %+v", v, v.Attachment)
		}
		if blank.Type != "gp2" || blank.SizeGiB != 3 || blank.Attachment.DeleteOnTermination {
			t.Errorf("the blank volume: %+v, %+v", blank, blank.Attachment)
		}
		for _, root := range l.Volumes() {
			if root.Root && root.Tags["team"] != "web" {
				t.Errorf("the root volume has tags %v: a TagSpecification is of all volumes", root.Tags)
			}
		}
		events := l.hw.log()
		launch := slices.Index(events, "launch "+id)
		if made := slices.Index(events, "create "+v.ID); made < 0 || made > launch {
			t.Errorf("hardware saw %v: the disk is there before the machine", events)
		}
		if disks := l.hw.specs[0].Disks; len(disks) != 2 || disks[0].VolumeID != v.ID || disks[0].DeviceName != "/dev/xvdb" {
			t.Errorf("the machine came with %+v", disks)
		}
		out, err := l.metadataOf(id).GetMetadata(l.ctx, &imds.GetMetadataInput{Path: "block-device-mapping/ebs1"})
		l.ok(err)
		if body, err := io.ReadAll(out.Content); err != nil || string(body) != "xvdb" {
			t.Errorf("the metadata service says %q of the first volume (%v)", body, err)
		}
		l.ok(l.TerminateInstance(id))
		l.reaches(id, "terminated")
		l.reaches(v.ID, "")
		l.reaches(blank.ID, "available") // nobody asked for its end
	})
}

func TestGroupsLaunchWithTheirMappings(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		snapshot := l.snapshot(l.volume())
		spec := RunSpec{Mappings: []Mapping{{Device: "/dev/xvdb", SnapshotID: snapshot, DeleteOnTermination: true}}}
		l.ok(l.CreateGroup(GroupSpec{Name: "web", Desired: 1, Max: 2, Launch: spec, Tags: map[string]string{"of": "the group"}}))
		inService := func(n int) func() bool {
			return func() bool {
				g := l.Groups()[0]
				return len(g.Members) == n && !slices.ContainsFunc(g.Members, func(m Member) bool { return m.State != "InService" })
			}
		}
		l.ok(l.Wait(l.ctx, inService(1)))
		first := l.Groups()[0].Members[0].InstanceID
		if got := l.brought(first); len(got) != 1 || got[0].SnapshotID != snapshot || got[0].Tags["of"] != "" {
			t.Errorf("the first member came with %+v", got)
		}
		l.ok(l.SetLaunch("web", RunSpec{}))
		l.ok(l.SetDesired("web", 2))
		l.ok(l.Wait(l.ctx, inService(2)))
		for _, m := range l.Groups()[0].Members {
			if n := len(l.brought(m.InstanceID)); (m.InstanceID == first) != (n == 1) {
				t.Errorf("%s has %d volumes", m.InstanceID, n)
			}
		}
	})
}

func TestLaunchRefusesMappings(t *testing.T) {
	inLab(t, Options{AttachLimits: map[string]int{"m5.large": 3}}, func(l *lab) {
		snapshot := l.snapshot(l.volume())
		before := len(l.Volumes())
		good := Mapping{Device: "/dev/xvdb", SnapshotID: snapshot}
		with := func(change func(*Mapping)) []Mapping { m := good; change(&m); return []Mapping{m} }
		for name, c := range map[string]struct {
			mappings []Mapping
			code     string
		}{
			"no such snapshot": {with(func(m *Mapping) { m.SnapshotID = "snap-0123456789abcdef0" }), "InvalidSnapshot.NotFound"},
			"too small":        {with(func(m *Mapping) { m.SizeGiB = 1 }), "InvalidParameterValue"},
			"neither":          {with(func(m *Mapping) { m.SnapshotID = "" }), "MissingParameter"},
			"a bad name":       {with(func(m *Mapping) { m.Device = "/dev/nvme1n1" }), "InvalidParameterValue"},
			"twice":            {[]Mapping{good, good}, "InvalidBlockDeviceMapping"},
			"the same slot":    {[]Mapping{good, {Device: "/dev/sdb", SnapshotID: snapshot}}, "InvalidBlockDeviceMapping"},
			"the root's":       {with(func(m *Mapping) { m.Device = rootDevice }), "InvalidBlockDeviceMapping"},
			"too many": {[]Mapping{good, {Device: "/dev/xvdc", SnapshotID: snapshot}, {Device: "/dev/xvdd", SnapshotID: snapshot}},
				"AttachmentLimitExceeded"},
		} {
			_, err := l.RunInstance(l.ctx, RunSpec{Mappings: c.mappings})
			var known *apiError
			if !errors.As(err, &known) || known.Code != c.code {
				t.Errorf("%s: %v, want %s", name, err, c.code)
			}
		}
		if n := len(l.Volumes()); n != before || len(l.Instances()) != 0 {
			t.Errorf("%d volumes and %d instances came of launches that were refused", n-before, len(l.Instances()))
		}
	})
}

func TestLaunchWithoutItsKeyEndsTerminated(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		snapshot := l.snapshot(l.volume())
		id, err := l.RunInstance(l.ctx, RunSpec{Mappings: []Mapping{
			{Device: "/dev/xvdb", SnapshotID: snapshot, Encrypted: true, KMSKeyID: "key-of-others", DeleteOnTermination: true},
		}})
		l.ok(err)
		l.reaches(id, "terminated")
		if got := l.Instances()[0].Reason; got != reasonLaunch {
			t.Errorf("reason %q", got)
		}
		l.ok(l.Wait(l.ctx, func() bool { return len(l.brought(id)) == 0 }))
		if slices.Contains(l.hw.log(), "launch "+id) {
			t.Error("it had power")
		}
	})
}

func TestSnapshotOfALaunchMayGo(t *testing.T) {
	inLab(t, Options{Latency: LatencyTable{Power: Fixed(time.Minute)}}, func(l *lab) {
		volume := l.volume()
		for _, ends := range []bool{false, true} {
			snapshot := l.snapshot(volume)
			id, err := l.RunInstance(l.ctx, RunSpec{Mappings: []Mapping{
				{Device: "/dev/xvdb", SnapshotID: snapshot, DeleteOnTermination: true},
			}})
			l.ok(err)
			_, err = l.ec2.DeleteSnapshot(l.ctx, &ec2.DeleteSnapshotInput{SnapshotId: &snapshot})
			l.ok(err)
			if ends {
				l.ok(l.TerminateInstance(id))
				l.reaches(id, "terminated")
			} else {
				l.reaches(id, "running")
			}
			if made := strings.Count(strings.Join(l.hw.log(), "\n"), "launch "+id); (made == 0) != ends {
				t.Errorf("terminated at once %v: launched %d times", ends, made)
			}
		}
		_, err := l.RunInstance(l.ctx, RunSpec{Mappings: []Mapping{{Device: "/dev/xvdb", SnapshotID: "snap-0123456789abcdef0"}}})
		if err == nil {
			t.Error("a snapshot that is gone was launched from")
		}
	})
}

func TestRunInstancesWithMappings(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		snapshot := l.snapshot(l.volume())
		out, err := l.ec2.RunInstances(l.ctx, &ec2.RunInstancesInput{
			ImageId: aws.String("ami-0123456789abcdef0"), InstanceType: types.InstanceTypeM5Large, MinCount: aws.Int32(1), MaxCount: aws.Int32(1),
			BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/xvdb"), Ebs: &types.EbsBlockDevice{
				SnapshotId: &snapshot, VolumeType: types.VolumeTypeGp3, DeleteOnTermination: aws.Bool(true), VolumeInitializationRate: aws.Int32(100),
			}}},
			TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeVolume, Tags: []types.Tag{
				{Key: aws.String("team"), Value: aws.String("web")},
			}}},
		})
		l.ok(err)
		id := *out.Instances[0].InstanceId
		l.reaches(id, "running")
		seen, err := l.ec2.DescribeInstances(l.ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{id}})
		l.ok(err)
		mappings := seen.Reservations[0].Instances[0].BlockDeviceMappings
		v := l.brought(id)[0]
		if len(mappings) != 2 || v.Tags["team"] != "web" || v.InitializationRate != 100 || v.SnapshotID != snapshot {
			t.Errorf("%d mappings, and the volume is %+v", len(mappings), v)
		}
	})
}
