package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/host"
	"ebs-release/internal/pointer"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// up runs the agent once more on a host whose boot failed.
func (r *rig) up(h *host.Host, args ...string) host.Output {
	r.Helper()
	out, _ := h.Run(within(r, 60*time.Second), append([]string{"ebs-release-agent", "up"}, args...)...)
	return out
}

// notServed checks that nothing is mounted, and that status says that the member is not ready.
func (r *rig) notServed(h *host.Host) {
	r.Helper()
	if got := r.on(h, "grep ' /release ' /proc/self/mountinfo || true"); got != "" {
		r.Errorf("something is mounted: %s", got)
	}
	out, _ := h.Run(within(r, 10*time.Second), "ebs-release-agent", "status", "--output", "json")
	var s struct{ State, Error string }
	if err := json.Unmarshal([]byte(out.Stdout), &s); err != nil || s.State != "failed" || s.Error == "" || out.Code != 3 {
		r.Errorf("status: exit %d, %v: %s", out.Code, err, out.Stdout)
	}
}

// strandedMember is a member whose boot has failed, because nothing is published.
func (r *rig) strandedMember() *host.Host {
	r.Helper()
	id, err := r.lab.Account.RunInstance(r.Context(), r.lab.Member())
	must(r, err)
	h, err := r.lab.Booted(within(r, 60*time.Second), id)
	if err == nil {
		r.Fatal("the boot went through without a pointer")
	}
	return h
}

func TestBadPointerStopsTheBoot(t *testing.T) {
	r := newRig(t, func(o *lab.Options) { o.AgentSettings["deadline"] = "3s" })
	h := r.strandedMember() // 404
	good := pointer.Pointer{
		Schema: 1, Generation: 1, Release: "20260101T000000Z-0123456789ab", Digest: "0123456789ab" + strings.Repeat("0", 52),
		Snapshots: map[string]string{r.lab.Account.Region(): "snap-0123456789abcdef0"}, Created: time.Now().UTC(),
	}
	for _, tc := range []struct {
		name string
		data string
		want []string
	}{
		{"empty", "", []string{"empty"}},
		{"HTML", "<!DOCTYPE html><html><body>It works!</body></html>\n", []string{"HTML"}},
		{"garbage JSON", `{"schema": 1, "generation": `, []string{"JSON"}},
		{"unknown schema", strings.Replace(string(good.Render()), `"schema": 1`, `"schema": 7`, 1), []string{"schema 7"}},
		{"bad snapshot id", strings.Replace(string(good.Render()), "snap-0123456789abcdef0", "snap-1; rm -rf /", 1), []string{"snap"}},
		{"other region", strings.Replace(string(good.Render()), r.lab.Account.Region(), "eu-north-1", 1), []string{"eu-north-1"}},
		{"snapshot that is not there", string(good.Render()), []string{"snap-0123456789abcdef0"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := r.in(t)
			before := r.account()
			r.pointer(tc.data)
			out := r.up(h)
			refused(t, out, 1, tc.want...)
			r.notServed(h)
			if after := r.account(); after != before {
				t.Errorf("the account changed:\n%s\n%s", before, after)
			}
		})
	}
	t.Run("10 MB", func(t *testing.T) {
		url, err := r.lab.Serve(8081, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.CopyN(w, zeros{}, 10<<20) }))
		must(t, err)
		refused(t, r.in(t).up(h, "--pointer", url), 1, "resolve", url, "larger")
	})
	t.Run("404", func(t *testing.T) {
		r.in(t).sh("rm " + lab.PointerStore + "/release.json")
		refused(t, r.in(t).up(h), 1, "resolve", "404")
	})
	t.Run("unreachable", func(t *testing.T) {
		refused(t, r.in(t).up(h, "--pointer", "http://10.0.255.254:8080/release.json"), 1, "resolve", "10.0.255.254")
	})
	t.Run("not a URL", func(t *testing.T) {
		refused(t, r.in(t).up(h, "--pointer", "release.json"), 2, "release.json")
	})
}

// zeros has no end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// in is the same rig for a subtest.
func (r *rig) in(t *testing.T) *rig {
	sub := *r
	sub.T = t
	return &sub
}

// TestBadSnapshotStopsTheBoot: a snapshot that is complete but holds something else.
func TestBadSnapshotStopsTheBoot(t *testing.T) {
	r := published(t, func(o *lab.Options) { o.AgentSettings["deadline"] = "15s" })
	p := r.pointerNow()
	r.pointer(`{"schema": 1}`) // the member is to find nothing yet
	h := r.strandedMember()
	before := r.account()
	for _, tc := range []struct{ name, write, want string }{
		{"no file system", `:`, "blank"},
		{"unknown file system", `mkswap $dev >/dev/null`, "unknown"},
		{"truncated file system", `truncate -s 2G /tmp/fs; mkfs.ext4 -q /tmp/fs; dd if=/tmp/fs of=$dev bs=1M count=1000 conv=sparse status=none; rm /tmp/fs`, "larger than"},
		{"truncated xfs", `truncate -s 2G /tmp/fs; mkfs.xfs -q /tmp/fs; dd if=/tmp/fs of=$dev bs=1M count=1000 conv=sparse status=none; rm /tmp/fs`, "larger than"},
		{"corrupt superblock", `mkfs.ext4 -q $dev; printf 'garbage' | dd of=$dev bs=1 seek=1100 conv=notrunc status=none`, "checksum"},
		{"another release", `mkfs.ext4 -q $dev; mkdir /mnt/other; mount $dev /mnt/other; mkdir -p /mnt/other/releases/x; umount /mnt/other; rmdir /mnt/other`, "release"},
		{"another file system label is no proof", `mkfs.xfs -q -L code_release $dev`, "release"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := r.in(t)
			bad := p
			bad.Snapshots = map[string]string{r.lab.Account.Region(): r.snapshotOf(tc.write, "")}
			r.pointer(r.signed(bad))
			refused(t, r.up(h), 1, tc.want)
			r.notServed(h)
			r.deleteSnapshot(bad.Snapshots[r.lab.Account.Region()])
		})
	}
	// The volumes that the failed boots made are gone.
	err := r.lab.Account.Wait(within(t, 10*time.Second), func() bool { return r.account() == before })
	if err != nil {
		t.Errorf("the account changed:\n%s\n%s", before, r.account())
	}
}

// snapshotOf makes a snapshot of a blank disk that a script has written to: $dev. What runs after
// it ends what the script has left running.
func (r *rig) snapshotOf(script, after string) (snapshot string) {
	r.Helper()
	return r.snapshotFrom("", script, after)
}

// snapshotFrom is snapshotOf on a volume made from a snapshot; "": a blank one.
func (r *rig) snapshotFrom(of, script, after string) (snapshot string) {
	r.Helper()
	r.onVolume(of, script+"; sync $dev; blockdev --flushbufs $dev", func(id string) {
		ctx := within(r, 60*time.Second)
		snap, err := r.ec2.CreateSnapshot(ctx, &ec2.CreateSnapshotInput{VolumeId: &id, TagSpecifications: []types.TagSpecification{{
			ResourceType: types.ResourceTypeSnapshot, Tags: []types.Tag{{Key: aws.String(volume.TagRole), Value: aws.String(volume.RoleRelease)}},
		}}})
		must(r, err)
		snapshot = *snap.SnapshotId
		r.sh(after)
		must(r, r.lab.Account.Wait(ctx, func() bool { return r.snapshotState(snapshot) == "completed" }))
	})
	return snapshot
}

// onVolume runs a script on the release server with a volume as $dev: a blank one, or one made from
// a snapshot. Then the volume goes again.
func (r *rig) onVolume(snapshot, script string, then func(id string)) {
	r.Helper()
	ctx := within(r, 60*time.Second)
	in := &ec2.CreateVolumeInput{AvailabilityZone: aws.String(r.zoneOf(r.server.ID)), Size: aws.Int32(1)}
	if snapshot != "" {
		in.SnapshotId = &snapshot
	}
	made, err := r.ec2.CreateVolume(ctx, in)
	must(r, err)
	id := aws.ToString(made.VolumeId)
	must(r, r.lab.Account.Wait(ctx, func() bool { return r.volumeState(id) == "available" }))
	_, err = r.ec2.AttachVolume(ctx, &ec2.AttachVolumeInput{VolumeId: &id, InstanceId: &r.server.ID, Device: aws.String("/dev/xvdcz")})
	must(r, err)
	must(r, r.lab.Account.Wait(ctx, func() bool { return r.volumeState(id) == "in-use" }))
	r.sh(fmt.Sprintf(`i=0; until f=$(grep -l %s /sys/block/*/device/serial); do [ $((i += 1)) -lt 200 ]; sleep 0.05; done; dev=/dev/$(basename ${f%%/device/serial}); %s`, strings.ReplaceAll(id, "-", ""), script))
	then(id)
	_, err = r.ec2.DetachVolume(ctx, &ec2.DetachVolumeInput{VolumeId: &id})
	must(r, err)
	must(r, r.lab.Account.Wait(ctx, func() bool { return r.volumeState(id) == "available" }))
	_, err = r.ec2.DeleteVolume(ctx, &ec2.DeleteVolumeInput{VolumeId: &id})
	must(r, err)
}

func (r *rig) volumeState(id string) string {
	for _, v := range r.lab.Account.Volumes() {
		if v.ID == id {
			return string(types.VolumeState(v.State))
		}
	}
	return ""
}

func (r *rig) deleteSnapshot(id string) {
	r.Helper()
	_, err := r.ec2.DeleteSnapshot(within(r, 10*time.Second), &ec2.DeleteSnapshotInput{SnapshotId: &id})
	must(r, err)
}

func TestBadMountPointStopsTheBoot(t *testing.T) {
	r := published(t, func(o *lab.Options) { o.AgentSettings["deadline"] = "5s" })
	p := r.pointerNow()
	good := r.signed(p)
	r.pointer(`{"schema": 1}`)
	h := r.strandedMember()
	r.pointer(good)
	r.on(h, "install -d -m 0555 /release")
	before := r.account()
	for _, tc := range []struct{ name, make, undo, want string }{
		{"symlink", "rmdir /release; mkdir /elsewhere; ln -s /elsewhere /release", "rm /release; rmdir /elsewhere; install -d -m 0555 /release", "symbolic link"},
		{"file", "rmdir /release; echo precious > /release", "grep -q precious /release; rm /release; install -d -m 0555 /release", "director"},
		{"not empty", "echo precious > /release/file", "grep -q precious /release/file; rm /release/file", "not empty"},
		{"another mount", "mount -t tmpfs other /release", "umount /release", "tmpfs"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := r.in(t)
			r.on(h, tc.make)
			refused(t, r.up(h), 1, "/release", tc.want)
			r.on(h, tc.undo)
		})
	}
	t.Run("sound again", func(t *testing.T) {
		r := r.in(t)
		if out := r.up(h); out.Code != 0 {
			t.Fatalf("exit %d: %s", out.Code, out.Stderr)
		}
		if got := r.on(h, "cat /release/current/version"); got != "one" {
			t.Errorf("the release says %q", got)
		}
	})
	if n := strings.Count(r.account(), "\n") - strings.Count(before, "\n"); n != 1 {
		t.Errorf("%d more volumes than before, want 1:\n%s\n%s", n, before, r.account())
	}
}
