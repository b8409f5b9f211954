package lab

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/host"
)

func volume(l *Lab, id string) cloud.Volume {
	for _, v := range l.Account.Volumes() {
		if v.ID == id {
			return v
		}
	}
	return cloud.Volume{}
}

func waitVolume(t *testing.T, ctx context.Context, l *Lab, id string, ok func(cloud.Volume) bool) {
	t.Helper()
	if err := l.Account.Wait(ctx, func() bool { return ok(volume(l, id)) }); err != nil {
		t.Fatalf("%s: %v: %+v", id, err, volume(l, id))
	}
}

func available(v cloud.Volume) bool { return v.State == "available" }
func attached(v cloud.Volume) bool  { return v.Attachment != nil && v.Attachment.State == "attached" }

func TestVolumeGoesFromOneInstanceToAnotherByASnapshot(t *testing.T) {
	l := start(t, standIns(t))
	ctx := deadline(t, 30*time.Second)
	api := l.EC2()
	var hosts []*host.Host
	for range 2 {
		hosts = append(hosts, member(t, ctx, l))
	}
	attach := func(volumeID string, h *host.Host) {
		t.Helper()
		waitVolume(t, ctx, l, volumeID, available)
		_, err := api.AttachVolume(ctx, &ec2.AttachVolumeInput{VolumeId: &volumeID, InstanceId: &h.ID, Device: aws.String("/dev/xvdaa")})
		do(t, err)
		waitVolume(t, ctx, l, volumeID, attached)
	}
	sh := func(h *host.Host, line string) string {
		t.Helper()
		out, err := h.Run(ctx, "sh", "-c", line)
		do(t, err)
		return strings.TrimSpace(out.Stdout)
	}

	made, err := api.CreateVolume(ctx, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(2)})
	do(t, err)
	attach(*made.VolumeId, hosts[0])
	if got, want := sh(hosts[0], "cat /sys/block/nvme1n1/device/serial"), cloud.SerialOf(*made.VolumeId); got != want {
		t.Errorf("the serial is %q, want %q", got, want)
	}
	sh(hosts[0], "mkfs.ext4 -q /dev/nvme1n1 && mkdir /data && mount /dev/nvme1n1 /data && echo one > /data/file && fsfreeze -f /data")
	snapshot, err := api.CreateSnapshot(ctx, &ec2.CreateSnapshotInput{VolumeId: made.VolumeId})
	do(t, err)
	sh(hosts[0], "fsfreeze -u /data && echo two > /data/file")
	do(t, l.Account.Wait(ctx, func() bool { return l.Account.Snapshots()[0].State == "completed" }))

	copied, err := api.CreateVolume(ctx, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), SnapshotId: snapshot.SnapshotId})
	do(t, err)
	attach(*copied.VolumeId, hosts[1])
	if got := sh(hosts[1], "mkdir /data && mount /dev/nvme1n1 /data && cat /data/file"); got != "one" {
		t.Errorf("the other instance reads %q", got)
	}

	// A mounted volume stays until it is unmounted.
	_, err = api.DetachVolume(ctx, &ec2.DetachVolumeInput{VolumeId: copied.VolumeId})
	do(t, err)
	if v := volume(l, *copied.VolumeId); v.State != "in-use" || len(hosts[1].Disks()) != 1 {
		t.Errorf("a mounted volume is %s, and the disks are %v", v.State, hosts[1].Disks())
	}
	sh(hosts[1], "umount /data")
	waitVolume(t, ctx, l, *copied.VolumeId, available)
	if disks := hosts[1].Disks(); len(disks) != 0 {
		t.Errorf("after the detach there is %v", disks)
	}

	// A termination takes the machine with the volume mounted.
	_, err = api.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{hosts[0].ID}})
	do(t, err)
	waitVolume(t, ctx, l, *made.VolumeId, available)
}

func TestReleaseServerMountsItsVolumeAgainAfterAReboot(t *testing.T) {
	l := start(t, standIns(t))
	ctx := deadline(t, 30*time.Second)
	server, err := l.ReleaseServer(ctx)
	do(t, err)
	do(t, l.waitState(ctx, server.ID, "running"))
	do(t, l.hardware.CreateVolume(ctx, "vol-1", 1, ""))
	do(t, l.hardware.Attach(ctx, cloud.AttachSpec{VolumeID: "vol-1", InstanceID: server.ID}))
	_, err = server.Run(ctx, "sh", "-c", `mkfs.ext4 -q /dev/nvme1n1 && mkdir /release &&
		echo "UUID=$(blkid -p -s UUID -o value /dev/nvme1n1) /release ext4 defaults 0 2" > /etc/fstab && mount -a && echo one > /release/file`)
	do(t, err)
	do(t, l.Reboot(ctx, server.ID))
	if got, err := server.ReadFile(ctx, "/release/file"); err != nil || got != "one\n" {
		t.Errorf("after the reboot: %q, %v", got, err)
	}
}

func TestDefectsOfADiskAreShown(t *testing.T) {
	l := start(t, standIns(t))
	ctx := deadline(t, 30*time.Second)
	h := member(t, ctx, l)
	do(t, l.hardware.CreateVolume(ctx, "vol-1", 1, ""))
	size := func() string {
		t.Helper()
		got, err := h.ReadFile(ctx, "/sys/block/nvme1n1/size")
		do(t, err)
		return strings.TrimSpace(got)
	}
	spec := cloud.AttachSpec{VolumeID: "vol-1", InstanceID: h.ID, SizeZero: true, Serial: "-"}
	do(t, l.hardware.Attach(ctx, spec))
	if got := size(); got != "0" || h.Disks()["nvme1n1"] != "" {
		t.Errorf("size %s, disks %v", got, h.Disks())
	}
	spec.SizeZero, spec.Serial = false, ""
	do(t, l.hardware.Attach(ctx, spec))
	if got := size(); got != "2097152" || h.Disks()["nvme1n1"] != "vol1" || len(h.Disks()) != 1 {
		t.Errorf("size %s, disks %v", got, h.Disks())
	}
	do(t, l.hardware.Detach(ctx, "vol-1", h.ID, false))
	if len(h.Disks()) != 0 {
		t.Errorf("disks %v", h.Disks())
	}
}
