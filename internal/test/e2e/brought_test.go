package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/bucket"
	"ebs-release/internal/lab/cloud"
	labdisk "ebs-release/internal/lab/disk"
	"ebs-release/internal/lab/host"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// Tests of volumes that EC2 attaches with the launch, by block device mappings.

// bringing is a launch with volumes of snapshots.
func bringing(spec cloud.RunSpec, snapshots ...string) cloud.RunSpec {
	for n, id := range snapshots {
		spec.Mappings = append(spec.Mappings, cloud.Mapping{
			Device: fmt.Sprintf("/dev/sd%c", 'f'+n), SnapshotID: id, Type: "gp3", DeleteOnTermination: true,
		})
	}
	return spec
}

// releaseSnapshot is the newest completed snapshot of a generation.
func (r *rig) releaseSnapshot(generation int) (id string) {
	r.Helper()
	for _, s := range r.lab.Account.Snapshots() {
		if s.Tags["ebs-release:generation"] == fmt.Sprint(generation) && s.State == "completed" {
			id = s.ID
		}
	}
	if id == "" {
		r.Fatalf("there is no snapshot of generation %d", generation)
	}
	return id
}

// broughtTo are the volumes that came with an instance.
func (r *rig) broughtTo(instance string) []cloud.Volume {
	return slices.DeleteFunc(r.lab.Account.Volumes(), func(v cloud.Volume) bool {
		return v.Root || v.Attachment == nil || v.Attachment.InstanceID != instance || v.Tags["ebs-release:role"] != ""
	})
}

// ofEC2 are the calls of EC2 that a host made.
func (r *rig) ofEC2(h *host.Host) []cloud.Call {
	return slices.DeleteFunc(r.lab.Account.CallsBy(h.ID), func(c cloud.Call) bool { return c.Service != "ec2" })
}

// servesBrought holds a member to what a boot on a brought volume leaves: one mount, of that, and
// no call of EC2 since but reports.
func (r *rig) servesBrought(h *host.Host, version string, since, reports int) {
	r.Helper()
	if n := len(r.lab.VolumesFor(h.ID)); n != 0 {
		r.Errorf("the agent made %d volumes, or claimed what came", n)
	}
	s := r.agentStatus(h)
	brought := r.broughtTo(h.ID)
	if !slices.ContainsFunc(brought, func(v cloud.Volume) bool { return v.ID == s.VolumeID }) {
		r.Errorf("%s is served, and %s came", s.VolumeID, show(brought))
	}
	if got, err := visible(h); err != nil || got != version || len(mounts(h)) != 1 {
		r.Errorf("it serves %q in %d mounts (%v), want %q", got, len(mounts(h)), err, version)
	}
	calls := r.ofEC2(h)[since:]
	if len(calls) != reports || slices.ContainsFunc(calls, func(c cloud.Call) bool { return c.Action != "CreateTags" || c.Code != "" }) {
		r.Errorf("calls of EC2 since: %+v, want %d reports", calls, reports)
	}
	for _, v := range brought {
		if len(v.Tags) > 0 {
			r.Errorf("somebody tagged %s: %v", v.ID, v.Tags)
		}
	}
}

// TestBroughtVolumes: members on volumes that came with them, beside others, through the life of a
// release: no call of EC2 in a boot with a store in S3, one with a directory; told or following.
func TestBroughtVolumes(t *testing.T) {
	for name, c := range map[string]struct{ inS3, follow bool }{
		"a directory, told": {}, "a directory, following": {follow: true}, "S3, told": {inS3: true}, "S3, following": {true, true},
	} {
		t.Run(name, func(t *testing.T) { broughtVolumes(t, c.inS3, c.follow) })
	}
}

func broughtVolumes(t *testing.T, inS3, follow bool) {
	r := published(t, func(o *lab.Options) {
		o.S3, o.Follow = inS3, follow
		o.AgentSettings["follow-interval"] = "1s"
		if follow {
			o.PublisherSettings["reach"] = "follow"
		}
	})
	reports := 1
	if inS3 {
		reports = 0
	}
	own := r.lab.Member()
	must(t, r.lab.Account.SetLaunch("web", bringing(own, r.releaseSnapshot(1))))
	members := r.scale(2)
	for _, h := range members {
		r.servesBrought(h, "one", 0, reports)
	}
	must(t, r.lab.Account.SetLaunch("web", own))
	members = r.scale(3)
	if n := len(r.lab.VolumesFor(members[2].ID)); n != 1 {
		t.Errorf("the member without a mapping has %d own volumes", n)
	}
	all := func(generation int64) {
		t.Helper()
		s := r.status()
		for _, m := range s.Members {
			if m.Standing != "current" || m.Generation != generation || m.State != "ready" {
				t.Errorf("%+v, want generation %d", m, generation)
			}
		}
	}
	all(1)
	r.sh("echo two > /srv/source/version")
	if out := r.ok("publish", "/srv/source"); !strings.Contains(out, "3/3 members on it") {
		t.Errorf("publish: %s", out)
	}
	all(2)

	// One that comes with an older release catches up.
	must(t, r.lab.Account.SetLaunch("web", bringing(own, r.releaseSnapshot(1))))
	members = r.scale(4)
	r.servesBrought(members[3], "two", 0, reports)
	all(2)

	first := members[0]
	before := len(r.ofEC2(first))
	r.reboot(first)
	r.servesBrought(first, "two", before, reports)
	before = len(r.ofEC2(first))
	must(t, failed(agent(within(t, 30*time.Second), first))) // once more on what is served
	r.servesBrought(first, "two", before, reports)

	if out := r.ok("rollback"); !strings.Contains(out, "4/4 members on it") {
		t.Errorf("rollback: %s", out)
	}
	all(3)
	had := r.account()
	r.ok("gc", "--grace", "0s")
	for _, v := range strings.Split(had, "\n") {
		if strings.HasPrefix(v, "vol-") && !strings.Contains(r.account(), v) {
			t.Errorf("gc removed %s", v)
		}
	}
	must(t, r.lab.Account.SetDesired("web", 1))
	must(t, r.lab.InService(within(t, 60*time.Second), "web", 1))
	left := r.lab.Members("web")[0].InstanceID
	err := r.lab.Account.Wait(within(t, 60*time.Second), func() bool {
		for _, v := range r.lab.Account.Volumes() {
			at := v.Attachment
			if !v.Root && v.Tags["ebs-release:role"] != "server" && (at == nil || at.InstanceID != left) && v.State != "deleted" {
				return false
			}
		}
		return true
	})
	if err != nil {
		t.Errorf("volumes stayed: %s", show(r.lab.Account.Volumes()))
	}
	all(3)
}

// TestBroughtVolumeOfNoUse: whatever comes with the instance, it boots, on an own volume where that
// has to be, and what came is left as it was.
func TestBroughtVolumeOfNoUse(t *testing.T) {
	r := published(t, nil)
	one := r.releaseSnapshot(1)
	r.sh("echo two > /srv/source/version")
	r.ok("publish", "/srv/source", "--groups", r.emptyGroup())
	two := r.releaseSnapshot(2)
	const in = `mkdir -p /mnt/b; mount -o nouuid $dev /mnt/b 2>/dev/null || mount $dev /mnt/b; cd /mnt/b; `
	const out = `; cd /; umount /mnt/b`
	changed := func(script string) string { return r.snapshotFrom(two, in+script+out, "") }
	for name, c := range map[string]struct {
		snapshots []string
		says      string // why it is not used; "": it is
	}{
		"two of them":            {[]string{one, two}, ""},
		"the better one first":   {[]string{two, one}, ""},
		"another store":          {[]string{changed(`echo 0123456789abcdef > .ebs-release/store`)}, "it is of store"},
		"no store":               {[]string{changed(`rm .ebs-release/store`)}, "it is of store"},
		"no keys":                {[]string{changed(`rm .ebs-release/keys`)}, "it has no keys"},
		"other keys":             {[]string{changed(`echo ebs-release-key-AAAA > .ebs-release/keys`)}, "keys of"},
		"newer than the pointer": {[]string{changed(`sed -i "s/^2 /7 /" .ebs-release/generation`)}, "it has seen generation 7"},
		"a store that is a fifo": {[]string{changed(`rm .ebs-release/store; mkfifo .ebs-release/store`)}, "no regular file"},
		"a link for a state":     {[]string{changed(`mv .ebs-release x; ln -s x .ebs-release`)}, "left alone"},
		"a forged label":         {[]string{r.snapshotOf(`mkfs.ext4 -q -L code_release $dev`, "")}, "it is of store"},
		"a damaged file system": {[]string{r.snapshotFrom(two, `printf garbage | dd of=$dev bs=1 seek=1100 conv=notrunc status=none`, "")},
			"superblock"},
		"a damaged root":           {[]string{r.snapshotFrom(two, `debugfs -w -R "clri <2>" $dev 2>/dev/null`, "")}, "left alone"},
		"somebody's data":          {[]string{r.snapshotOf(`mkfs.ext4 -q -L data $dev`, "")}, "-"},
		"blank":                    {[]string{r.snapshotOf(`:`, "")}, "-"},
		"a bad one and a good one": {[]string{changed(`rm .ebs-release/keys`), one}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := r.in(t)
			ctx := within(t, 60*time.Second)
			h, err := r.launch(ctx, bringing(r.idle(), c.snapshots...))
			must(t, err)
			before := show(r.broughtTo(h.ID))
			o := agent(ctx, h)
			must(t, failed(o))
			if c.says == "" {
				r.servesBrought(h, "two", 0, 1)
			} else if err := r.served(h, r.pointerNow(), "two", 1); err != nil {
				t.Error(err)
			}
			if c.says != "" && strings.Contains(o.Stderr, "left alone") != (c.says != "-") || c.says != "-" && !strings.Contains(o.Stderr, c.says) {
				t.Errorf("it says:\n%s", o.Stderr)
			}
			if after := show(r.broughtTo(h.ID)); after != before {
				t.Errorf("what came is %s now, it was %s", after, before)
			}
			must(t, r.lab.Account.TerminateInstance(h.ID))
		})
	}
}

// TestBroughtVolumeBesideADiskThatHangs: row 80, of one of two volumes that came with the launch.
// The other one is served, whichever comes first.
func TestBroughtVolumeBesideADiskThatHangs(t *testing.T) {
	r := published(t, func(o *lab.Options) { o.Cold = &labdisk.Cold{Block: time.Millisecond, AtOnce: 20} })
	for hung := range 2 {
		t.Run(fmt.Sprint(hung), func(t *testing.T) {
			r := r.in(t)
			ctx := within(t, 2*time.Minute)
			h, err := r.launch(ctx, bringing(r.idle(), r.releaseSnapshot(1), r.releaseSnapshot(1)))
			must(t, err)
			came := r.broughtTo(h.ID)
			if len(came) != 2 {
				t.Fatalf("there came %s", show(came))
			}
			t.Cleanup(r.lab.Disks().Hold(came[hung].ID))
			out := agent(ctx, h)
			must(t, failed(out))
			if out.took < 10*time.Second { // the patience that it has with a disk
				t.Errorf("it took %v: the disk answers", out.took)
			}
			if s := r.agentStatus(h); s.VolumeID != came[1-hung].ID || len(r.lab.VolumesFor(h.ID)) > 0 || out.took > 12*time.Second+hangSlack {
				t.Errorf("it serves %s after %v, and there came %s", s.VolumeID, out.took, show(came))
			}
			if got, err := visible(h); err != nil || got != "one" || len(mounts(h)) != 1 {
				t.Errorf("it serves %q in %d mounts (%v)", got, len(mounts(h)), err)
			}
			if !strings.Contains(out.Stderr, came[hung].ID) {
				t.Errorf("it does not say which disk hangs:\n%s", out.Stderr)
			}
			// The hung one may have served a later release than an old pointer has.
			calls := r.ofEC2(h)
			if !slices.ContainsFunc(calls, func(c cloud.Call) bool { return c.Action == "DescribeSnapshots" }) {
				t.Errorf("calls of EC2: %+v", calls)
			}
		})
	}
}

// A role that is not there yet: the member cannot report on itself, and goes the other way.
func TestBroughtVolumeWithoutTheRight(t *testing.T) {
	roles := shippedPolicies(t, "ebs-release-agent/ReportOnOwnInstance")
	r := published(t, func(o *lab.Options) { o.Policy = roles.Allow })
	h, err := r.launch(within(t, 60*time.Second), bringing(r.idle(), r.releaseSnapshot(1)))
	must(t, err)
	o := agent(within(t, 60*time.Second), h)
	must(t, failed(o))
	if err := r.served(h, r.pointerNow(), "one", 1); err != nil {
		t.Error(err)
	}
	if !strings.Contains(o.Stderr, "may not report") && !strings.Contains(o.Stderr, "ec2:CreateTags") {
		t.Errorf("it says:\n%s", o.Stderr)
	}
	r.reboot(h) // its own goes on
	must(t, failed(agent(within(t, 60*time.Second), h)))
	if err := r.served(h, r.pointerNow(), "one", 1); err != nil {
		t.Error(err)
	}
}

// An instance takes 50 tags (EC2 User Guide, "Tag restrictions"), and its owner has used them up:
// the member cannot report on itself, and goes the other way.
func TestBroughtVolumeOfAnInstanceThatTakesNoTags(t *testing.T) {
	r := published(t, nil)
	ctx := within(t, 60*time.Second)
	h, err := r.launch(ctx, bringing(r.idle(), r.releaseSnapshot(1)))
	must(t, err)
	var tags []types.Tag
	for n := range 44 {
		tags = append(tags, types.Tag{Key: aws.String(fmt.Sprintf("cost-%d", n)), Value: aws.String("x")})
	}
	_, err = r.ec2.CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{h.ID}, Tags: tags})
	must(t, err)
	must(t, failed(agent(ctx, h)))
	if err := r.served(h, r.pointerNow(), "one", 1); err != nil {
		t.Error(err)
	}
}

// A volume without a free block takes no mark that it has served. It goes on serving all the same.
func TestBroughtVolumeThatIsFull(t *testing.T) {
	r := published(t, nil)
	full := r.snapshotFrom(r.releaseSnapshot(1), `mkdir -p /mnt/b; mount $dev /mnt/b; cat /dev/zero >/mnt/b/zeros 2>/dev/null || true
		for n in $(seq 2000); do echo x >/mnt/b/zeros.$n 2>/dev/null || break; done; umount /mnt/b`, "")
	ctx := within(t, 60*time.Second)
	h, err := r.launch(ctx, bringing(r.idle(), full))
	must(t, err)
	o := agent(ctx, h)
	must(t, failed(o))
	if !strings.Contains(o.Stderr, "no space left") {
		t.Errorf("it is not full:\n%s", o.Stderr)
	}
	r.servesBrought(h, "one", 0, 1)
	must(t, failed(agent(ctx, h))) // once more on what is served
	r.servesBrought(h, "one", 1, 1)
	r.reboot(h)
	must(t, failed(agent(ctx, h)))
	r.servesBrought(h, "one", 2, 1)
	must(t, failed(agent(ctx, h)))
	r.servesBrought(h, "one", 3, 1)
}

// What has served has a fence: an older pointer is refused, and `up --older` goes on with an own
// volume, whose report counts from then on.
func TestBroughtVolumeKeepsItsFence(t *testing.T) {
	for name, inS3 := range map[string]bool{"a directory": false, "S3": true} {
		t.Run(name, func(t *testing.T) {
			r := published(t, func(o *lab.Options) { o.S3 = inS3 })
			old := ""
			if inS3 {
				old = r.inStore("release.json")
			} else {
				old = r.sh("cat " + lab.PointerStore + "/release.json")
			}
			must(t, r.lab.Account.SetLaunch("web", bringing(r.lab.Member(), r.releaseSnapshot(1))))
			h := r.scale(1)[0]
			r.sh("echo two > /srv/source/version")
			r.ok("publish", "/srv/source")
			if inS3 {
				r.putPointer(old)
			} else {
				r.pointer(old)
			}
			before := len(r.ofEC2(h))
			ctx := within(t, 60*time.Second)
			for _, rebooted := range []bool{false, true} {
				if rebooted {
					if err := r.lab.Reboot(ctx, h.ID); err == nil {
						t.Fatal("it boots on an older pointer")
					}
				}
				refused(t, agent(ctx, h).Output, 1, "generation 2", "Nothing was changed")
			}
			if now := r.ofEC2(h)[before:]; len(now) > 0 {
				t.Errorf("calls %+v", now)
			}
			must(t, failed(agent(ctx, h, "--older")))
			if v, err := visible(h); v != "one" || len(r.lab.VolumesFor(h.ID)) != 1 {
				t.Errorf("it serves %q (%v) on %s", v, err, show(r.lab.VolumesFor(h.ID)))
			}
			r.stand(h.ID, "current")
		})
	}
}

// putPointer replaces the pointer in S3 behind the publisher's back.
func (r *rig) putPointer(document string) {
	r.Helper()
	key := aws.String(bucket.Prefix + "/release.json")
	now, err := r.lab.S3().GetObject(r.Context(), &s3.GetObjectInput{Bucket: aws.String(bucket.Name), Key: key})
	must(r, err)
	now.Body.Close()
	_, err = r.lab.S3().PutObject(r.Context(), &s3.PutObjectInput{
		Bucket: aws.String(bucket.Name), Key: key, Body: strings.NewReader(document), IfMatch: now.ETag,
	})
	must(r, err)
}

func TestBroughtVolumeInDryRunStatusAndDoctor(t *testing.T) {
	r := published(t, nil)
	ctx := within(t, 60*time.Second)
	spec := bringing(r.idle(), r.releaseSnapshot(1))
	spec.Mappings[0].DeleteOnTermination = false
	h, err := r.launch(ctx, spec)
	must(t, err)
	id := r.broughtTo(h.ID)[0].ID
	run := func(args ...string) string {
		t.Helper()
		out, err := h.Run(context.WithoutCancel(ctx), append([]string{"ebs-release-agent"}, args...)...)
		if err != nil && out.Code < 0 {
			t.Fatal(err)
		}
		return out.Stdout
	}
	if plan := run("up", "--dry-run"); !strings.Contains(plan, id+" came with this instance") || !strings.Contains(plan, "tags this instance") {
		t.Errorf("the plan:\n%s", plan)
	}
	must(t, failed(agent(ctx, h)))
	if s := run("status"); !strings.Contains(s, id+" (came with the instance)") {
		t.Errorf("status:\n%s", s)
	}
	found := func() string {
		for line := range strings.Lines(run("doctor")) {
			if strings.Contains(line, "brought volume") {
				return line
			}
		}
		return ""
	}
	if line := found(); !strings.Contains(line, "warn") || !strings.Contains(line, "DeleteOnTermination") {
		t.Errorf("doctor: %q", line)
	}
}
