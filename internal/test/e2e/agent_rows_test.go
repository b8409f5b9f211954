package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/host"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

// row is one way in which EC2 breaks: what the agent does, what it says, how long it takes, and
// what is left in the account. The numbers are those of the list of known failures in docs/, with
// their sources; the lab cites them beside its rules.
type row struct {
	name     string
	fault    cloud.Fault                           // of this instance
	args     []string                              // of the agent; --deadline 6s when there is none
	spec     func(*cloud.RunSpec)                  // what is launched
	prepare  func(r *rig, h *host.Host)            // before the agent runs
	code     int                                   // how it ends: 0 is ready
	says     []string                              // the last line, of a failure
	min, max time.Duration                         // how long it takes
	left     int                                   // volumes after a failure
	check    func(r *rig, h *host.Host, o outcome) // what is left, and more
}

const soon = 3 * time.Second // nothing to wait for

// busy is what all may take longer when both processors are taken by something else. What a bound
// is there to tell apart (another try, a pause of EC2's waiters, the deadline of a boot) is longer.
const busy = 4 * time.Second

func (c row) run(t *testing.T, shared *rig) {
	t.Parallel()
	r := shared.in(t)
	spec := r.idle()
	if c.spec != nil {
		c.spec(&spec)
	}
	h, err := r.launch(within(t, 30*time.Second), spec)
	must(t, err)
	if c.prepare != nil {
		c.prepare(r, h)
	}
	c.fault.Principal = h.ID
	disarm := func() {}
	if c.fault.Action != "" {
		disarm = r.lab.Account.Fault(c.fault)
	}
	if c.args == nil {
		c.args = []string{"--deadline", "6s"}
	}
	if c.max == 0 {
		c.max = soon
	}
	out := agent(within(t, 150*time.Second), h, c.args...)
	disarm()
	if out.Code != c.code || out.took < c.min || out.took > c.max+busy {
		t.Errorf("exit %d after %s, want %d after %s to %s\n%s", out.Code, out.took, c.code, c.min, c.max, out.Stderr)
		for _, call := range r.requests(h) {
			t.Logf("%s %s: %s, %d %s", call.Start.Format("05.000"), call.Action, call.Duration, call.Status, call.Code)
		}
	}
	if c.code == 0 {
		must(t, r.served(h, r.pointerNow(), "one", 1))
	} else {
		for _, words := range append([]string{"Try: "}, c.says...) {
			if !strings.Contains(out.last(), words) {
				t.Errorf("it says %q, want %q in it", out.last(), words)
			}
		}
		if n := ready(h); n != 0 || len(mounts(h)) != 0 {
			t.Errorf("READY=1 said %d times, mounts %q", n, mounts(h))
		}
		if err := r.lab.Account.Wait(within(t, 10*time.Second), func() bool { return len(r.lab.VolumesFor(h.ID)) == c.left }); err != nil {
			t.Errorf("left: %s; want %d volumes", show(r.lab.VolumesFor(h.ID)), c.left)
		}
	}
	if c.check != nil {
		c.check(r, h, out)
	}
	must(t, r.gone(within(t, 20*time.Second), h))
}

// called checks how often the instance made a call, and how often it was answered with a code ("-":
// with success). An attach that came before the volume was available does not count: it is a look,
// and how many there are is a matter of time.
func called(action string, all int, code string, so int) func(*rig, *host.Host, outcome) {
	return func(r *rig, h *host.Host, _ outcome) {
		n := r.count(h.ID, action, "")
		if action == "AttachVolume" {
			n -= r.count(h.ID, action, "IncorrectState")
		}
		if n != all {
			r.Errorf("%s was called %d times, want %d: %v", action, n, all, r.actions(h.ID))
		}
		if n := r.count(h.ID, action, code); n != so {
			r.Errorf("%s was answered with %s %d times, want %d", action, code, n, so)
		}
	}
}

func answer(code, message string) cloud.Effect {
	return cloud.Effect{Fail: cloud.Answer, Code: code, Message: message}
}

func disk(d cloud.DiskFault) cloud.Effect { return cloud.Effect{Disk: d} }

// TestAgentRows: the failures that need no other lab than the rest.
func TestAgentRows(t *testing.T) {
	r := published(t, func(o *lab.Options) {
		o.AgentSettings["deadline"] = "30s"
		o.AttachLimits = map[string]int{"t3.nano": 1} // its root volume takes it
		o.Policy = nil
	})
	for _, c := range []row{
		{
			// Its client token is used up: three requests, two volumes.
			name: "row 02 the volume ends in error", fault: cloud.Fault{Action: "CreateVolume", Times: 1, Effect: disk(cloud.DiskFault{Error: true})},
			check: called("CreateVolume", 3, "-", 2),
		},
		{
			name: "row 02 each volume ends in error", fault: cloud.Fault{Action: "CreateVolume", Effect: disk(cloud.DiskFault{Error: true})},
			code: 1, says: []string{"attach: ", "3 volumes, and EC2 kept none", "`error`"}, check: called("CreateVolume", 6, "-", 3),
		},
		{
			name: "row 03 the volume vanishes once", fault: cloud.Fault{Action: "CreateVolume", Times: 1, Effect: disk(cloud.DiskFault{Vanish: 50 * time.Millisecond})},
			args: []string{"--deadline", "40s"}, min: 9500 * time.Millisecond, max: 17 * time.Second, check: called("CreateVolume", 3, "-", 2),
		},
		{
			name: "row 04 client token used up", prepare: func(r *rig, h *host.Host) {
				// A volume of this instance was made and is gone: its token stays burned, and the
				// next one in the list is taken, again and again.
				for range 2 {
					must(r, failed(agent(within(r, 30*time.Second), h)))
					r.unmountAndRemove(h)
				}
				r.reboot(h)
			},
			check: func(r *rig, h *host.Host, o outcome) {
				// One for the first boot, two for the second, three for this one.
				called("CreateVolume", 6, "IdempotentParameterMismatch", 3)(r, h, o)
			},
		},
		{
			name: "row 06 stuck attaching", args: []string{"--deadline", "140s"}, min: 89 * time.Second, max: 100 * time.Second,
			fault: cloud.Fault{Action: "AttachVolume", Times: 1, Effect: disk(cloud.DiskFault{Stuck: true})},
			check: func(r *rig, h *host.Host, o outcome) {
				called("AttachVolume", 2, "-", 2)(r, h, o)
				if device := r.lab.VolumesFor(h.ID)[0].Attachment.Device; device != "/dev/xvdab" {
					r.Errorf("attached as %s, want the next name", device)
				}
			},
		},
		{
			name:    "row 07 device name already in use",
			prepare: func(r *rig, h *host.Host) { r.attachOther(h, "/dev/xvdaa"); r.attachOther(h, "/dev/xvdab") },
			check:   called("AttachVolume", 3, "InvalidParameterValue", 2),
		},
		{
			name: "row 08 disk with another serial", fault: cloud.Fault{Action: "AttachVolume", Effect: disk(cloud.DiskFault{Serial: "vol0fffffffffffffff0"})},
			args: []string{"--deadline", "4s"}, min: 3 * time.Second, max: 5500 * time.Millisecond, code: 1, left: 1,
			says: []string{"find device: ", "vol0fffffffffffffff0"},
		},
		{
			name: "row 08 disk with an empty serial", fault: cloud.Fault{Action: "AttachVolume", Effect: disk(cloud.DiskFault{Serial: "-"})},
			args: []string{"--deadline", "4s"}, min: 3 * time.Second, max: 5500 * time.Millisecond, code: 1, left: 1,
			says: []string{"find device: ", "unreadable serial"},
		},
		{name: "row 08 other disks before ours", prepare: func(r *rig, h *host.Host) { r.attachOther(h, "/dev/sdf") }},
		{
			name: "row 09 the device is late", fault: cloud.Fault{Action: "AttachVolume", Effect: disk(cloud.DiskFault{Late: 1500 * time.Millisecond})},
			min: 1500 * time.Millisecond, max: 3 * time.Second, check: called("AttachVolume", 1, "-", 1),
		},
		{
			name: "row 09 the device has no size yet", fault: cloud.Fault{Action: "AttachVolume", Effect: disk(cloud.DiskFault{SizeZero: 1500 * time.Millisecond})},
			min: 1500 * time.Millisecond, max: 3 * time.Second, check: called("AttachVolume", 1, "-", 1),
		},
		{
			name: "row 09 attached and no device", fault: cloud.Fault{Action: "AttachVolume", Effect: disk(cloud.DiskFault{Never: true})},
			args: []string{"--deadline", "4s"}, min: 3 * time.Second, max: 5500 * time.Millisecond, code: 1, left: 1, says: []string{"find device: ", "no NVMe disk"},
		},
		{
			name: "row 10 udev's links are wrong", prepare: func(r *rig, h *host.Host) {
				r.attachOther(h, "/dev/sdf")
				r.on(h, `mkdir -p /dev/disk/by-id; for s in $(seq 1 9); do ln -s ../../nvme1n1 /dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0000000000000000$s; done`)
			},
		},
		{
			name: "row 17 no more attachments", spec: func(s *cloud.RunSpec) { s.Type = "t3.nano" },
			code: 1, says: []string{"attach: ", "t3.nano takes no more volumes"}, check: called("AttachVolume", 1, "AttachmentLimitExceeded", 1),
		},
		{
			name: "row 18 the zone is that of the instance", spec: func(s *cloud.RunSpec) { s.Zone = "us-east-1b" },
			check: func(r *rig, h *host.Host, _ outcome) {
				if zone := r.lab.VolumesFor(h.ID)[0].Zone; zone != "us-east-1b" {
					r.Errorf("the volume is in %s", zone)
				}
			},
		},
		{
			name: "row 18 wrong zone", fault: cloud.Fault{Action: "AttachVolume", Effect: answer("InvalidVolume.ZoneMismatch", "The volume is not in the same availability zone as instance")},
			code: 1, says: []string{"attach: ", "ZoneMismatch"}, check: called("AttachVolume", 1, "InvalidVolume.ZoneMismatch", 1),
		},
		{
			name: "row 20 tries do not stop early", fault: cloud.Fault{Action: "CreateVolume", Effect: cloud.Effect{Fail: cloud.ServerError}},
			args: []string{"--deadline", "16s"}, min: 13500 * time.Millisecond, max: 17500 * time.Millisecond, code: 1, says: []string{"create: ", "InternalError", "16s"},
			check: func(r *rig, h *host.Host, _ outcome) {
				if n := r.count(h.ID, "CreateVolume", ""); n < 4 {
					r.Errorf("%d tries", n)
				}
			},
		},
		{
			name: "row 21 the bare mount point takes no files", fault: cloud.Fault{Action: "CreateVolume", Effect: answer("VolumeLimitExceeded", "You have exceeded your volume quota")},
			code: 1, says: []string{"create: ", "VolumeLimitExceeded"},
			check: func(r *rig, h *host.Host, _ outcome) {
				if mode := r.on(h, "stat -c %a /release"); mode != "555" {
					r.Errorf("/release has the mode %s", mode)
				}
			},
		},
		{
			name: "row 26 metadata late", fault: cloud.Fault{Action: "PUT /latest/api/token", Times: 3, Effect: cloud.Effect{Fail: cloud.Throttle}},
			min: 200 * time.Millisecond,
		},
		{
			name: "row 26 credentials not there yet", fault: cloud.Fault{Action: "GET /latest/meta-data/iam/*", Times: 3, Effect: cloud.Effect{Fail: cloud.NotFound}},
			args: []string{"--deadline", "20s"}, max: 15 * time.Second,
		},
		{
			name: "row 26 the document hangs once", fault: cloud.Fault{Action: "GET /latest/dynamic/*", Times: 1, Effect: cloud.Effect{Fail: cloud.Hang}},
			args: []string{"--deadline", "10s"}, max: 5 * time.Second,
		},
		{
			name: "row 26 the document hangs", fault: cloud.Fault{Action: "GET /latest/dynamic/*", Effect: cloud.Effect{Fail: cloud.Hang}},
			min: 5 * time.Second, max: 7500 * time.Millisecond, code: 1, says: []string{"identify: ", "GET of the identity document"},
		},
		{
			name: "row 26 the token hangs", fault: cloud.Fault{Action: "PUT /latest/api/token", Effect: cloud.Effect{Fail: cloud.Hang}},
			min: 5 * time.Second, max: 7500 * time.Millisecond, code: 1, says: []string{"identify: ", "PUT for the token"},
		},
		{
			name: "row 28 slow disk", check: func(r *rig, h *host.Host, _ outcome) {
				if got := r.on(h, "cat /sys/block/nvme1n1/queue/io_timeout"); got != "600000" {
					r.Errorf("the I/O timeout is %s ms", got)
				}
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, r) })
	}
	t.Run("row 11 terminated between attach and protect", func(t *testing.T) {
		t.Parallel()
		r := r.in(t)
		h := r.machine()
		s := &supervised{host: h, start: func(int) error { return nil }}
		r.lab.Account.Fault(cloud.Fault{Action: "ModifyInstanceAttribute", Principal: h.ID, Effect: cloud.Effect{Do: func(cloud.Call) { s.kill() }, Fail: cloud.Reset}})
		s.up(within(t, 30*time.Second))
		must(t, r.lab.Account.TerminateInstance(h.ID))
		must(t, r.lab.Account.Wait(within(t, 20*time.Second), func() bool { return r.stateOf(h.ID) == "terminated" }))
		// EC2 gives the volume back. Its tags, from the very call that made it, say that `gc` may
		// have it.
		left := r.lab.VolumesFor(h.ID)
		if len(left) != 1 || left[0].State != "available" || left[0].Tags["ebs-release:mount-point"] != "/release" {
			t.Errorf("left: %s", show(left))
		}
	})
	t.Run("row 24 not ready before the pointer was read again", func(t *testing.T) {
		t.Parallel()
		r := r.in(t)
		h := r.machine()
		document := []byte(r.signed(r.pointerNow()))
		var reads atomic.Int32
		again := make(chan bool)
		url, err := r.lab.Serve(8090, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if reads.Add(1) == 2 {
				again <- true
				<-again
			}
			w.Write(document)
		}))
		must(t, err)
		done := make(chan outcome, 1)
		go func() { done <- agent(within(t, 30*time.Second), h, "--pointer", url) }()
		select {
		case <-again:
		case o := <-done:
			t.Fatalf("it did not read the pointer again: %s", o.Stderr)
		}
		if n := ready(h); n != 0 || len(mounts(h)) != 0 {
			t.Errorf("READY=1 said %d times, mounts %q before the pointer was read again", n, mounts(h))
		}
		again <- true
		must(t, failed(<-done))
		must(t, r.served(h, r.pointerNow(), "one", 1))
	})
	t.Run("row 25 in a mount namespace of its own", func(t *testing.T) {
		t.Parallel()
		r := r.in(t)
		h := r.machine()
		out, _ := h.RunWith(within(t, 30*time.Second), host.Command{
			Argv: []string{"unshare", "--mount", "--propagation", "private", "ebs-release-agent", "up"}, Env: []string{"NOTIFY_SOCKET=/run/systemd/notify"},
		})
		refused(t, out, 1, "ready: ", "PID 1 does not see the mount", "Try: ")
		if n := ready(h); n != 0 || len(mounts(h)) != 0 {
			t.Errorf("READY=1 said %d times, mounts %q", n, mounts(h))
		}
		must(t, failed(agent(within(t, 30*time.Second), h)))
		must(t, r.served(h, r.pointerNow(), "one", 1))
	})
	t.Run("row 27 the image is being baked", func(t *testing.T) {
		unit, err := os.ReadFile("../../../systemd/ebs-release-agent.service")
		must(t, err)
		if !strings.Contains(string(unit), "\nConditionPathExists=!/etc/ebs-release/disabled\n") {
			t.Error("the unit does not heed /etc/ebs-release/disabled")
		}
	})
}

// failed is an error unless the agent ended ready.
func failed(o outcome) error {
	if o.Code != 0 {
		return fmt.Errorf("exit %d: %s", o.Code, o.Stderr)
	}
	return nil
}

// attachOther attaches a blank volume of somebody else's.
func (r *rig) attachOther(h *host.Host, device string) {
	r.Helper()
	ctx := within(r, 20*time.Second)
	made, err := r.ec2.CreateVolume(ctx, &ec2.CreateVolumeInput{AvailabilityZone: aws.String(r.zoneOf(h.ID)), Size: aws.Int32(1)})
	must(r, err)
	must(r, r.lab.Account.Wait(ctx, func() bool { return r.volumeState(*made.VolumeId) == "available" }))
	_, err = r.ec2.AttachVolume(ctx, &ec2.AttachVolumeInput{VolumeId: made.VolumeId, InstanceId: &h.ID, Device: &device})
	must(r, err)
	must(r, r.lab.Account.Wait(ctx, func() bool {
		return slices.ContainsFunc(r.lab.Account.Volumes(), func(v cloud.Volume) bool {
			return v.ID == *made.VolumeId && v.Attachment != nil && v.Attachment.State == "attached"
		})
	}))
}

func (r *rig) zoneOf(instance string) string {
	for _, i := range r.lab.Account.Instances() {
		if i.ID == instance {
			return i.Zone
		}
	}
	return ""
}

// unmountAndRemove takes the release away behind the agent's back.
func (r *rig) unmountAndRemove(h *host.Host) {
	r.Helper()
	ctx := within(r, 20*time.Second)
	id := r.lab.VolumesFor(h.ID)[0].ID
	r.on(h, "umount /release")
	_, err := r.ec2.DetachVolume(ctx, &ec2.DetachVolumeInput{VolumeId: &id})
	must(r, err)
	must(r, r.lab.Account.Wait(ctx, func() bool { return r.volumeState(id) == "available" }))
	_, err = r.ec2.DeleteVolume(ctx, &ec2.DeleteVolumeInput{VolumeId: &id})
	must(r, err)
	must(r, r.lab.Account.Wait(ctx, func() bool { return r.volumeState(id) == "" }))
}

func (r *rig) reboot(h *host.Host) {
	r.Helper()
	must(r, r.lab.Reboot(within(r, 30*time.Second), h.ID))
}

// slowRows are failures of an account with other latencies: each has its own lab.
func TestAgentSlowRows(t *testing.T) {
	fixed := func(d time.Duration) cloud.Dist { return cloud.Fixed(d) }
	for _, c := range []struct {
		latency cloud.LatencyTable
		members int
		row
	}{
		{cloud.LatencyTable{Running: fixed(5 * time.Second)}, 1, row{ // from the launch on: the machine has booted long before
			name: "row 01 EC2 still says pending", args: []string{"--deadline", "20s"}, min: time.Second, max: 10 * time.Second,
			check: func(r *rig, h *host.Host, _ outcome) {
				if r.count(h.ID, "CreateVolume", "") != 1 || r.count(h.ID, "AttachVolume", "IncorrectState") == 0 || r.count(h.ID, "AttachVolume", "-") != 1 {
					r.Errorf("calls %v", r.actions(h.ID))
				}
			},
		}},
		{cloud.LatencyTable{Volume: fixed(1500 * time.Millisecond)}, 1, row{
			name: "row 02 the volume is not available yet", min: 1500 * time.Millisecond, max: 3 * time.Second, check: called("AttachVolume", 1, "-", 1),
		}},
		{cloud.LatencyTable{Volume: fixed(500 * time.Millisecond), Lag: cloud.Lag{Chance: 0.7, Max: time.Second}}, 3, row{
			name: "row 05 Describe goes back in time", args: []string{"--deadline", "20s"}, min: 500 * time.Millisecond, max: 10 * time.Second,
			check: func(r *rig, h *host.Host, _ outcome) { // an old view may lack the snapshot, and refuse: the call is made again
				if n := r.count(h.ID, "CreateVolume", "-"); n != 1 {
					r.Errorf("%d volumes were made: %v", n, r.actions(h.ID))
				}
			},
		}},
		{cloud.LatencyTable{Limits: cloud.Limits{Write: cloud.Bucket{Capacity: 2, PerSecond: 3}, Read: cloud.Bucket{Capacity: 3, PerSecond: 5}}}, 6, row{
			name: "row 16 throttled while many boot", args: []string{"--deadline", "30s"}, max: 30 * time.Second,
			check: func(r *rig, h *host.Host, _ outcome) {
				if n := r.count(h.ID, "CreateVolume", "-"); n != 1 {
					r.Errorf("%d volumes were made", n)
				}
			},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := published(t, func(o *lab.Options) { o.Latency = c.latency; o.Policy = nil })
			p := r.pointerNow()
			each(t, c.members, c.members, func(int) error {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				h, err := r.launch(ctx, r.idle())
				if err != nil {
					return err
				}
				if c.args == nil {
					c.args = []string{"--deadline", "10s"}
				}
				out := agent(ctx, h, c.args...)
				if out.Code != 0 || out.took < c.min || out.took > c.max+busy {
					return fmt.Errorf("exit %d after %s, want 0 after %s to %s\n%s", out.Code, out.took, c.min, c.max, out.Stderr)
				}
				if c.check != nil {
					c.check(r, h, out)
				}
				if err := r.served(h, p, "one", 1); err != nil {
					return err
				}
				return r.gone(ctx, h)
			})
		})
	}
}

// TestAgentRow05OldAnswersOnAServingMember: EC2 answers as it was before the volume was attached,
// or made at all. The kernel knows better.
func TestAgentRow05OldAnswersOnAServingMember(t *testing.T) {
	r := published(t, func(o *lab.Options) { o.Latency = cloud.LatencyTable{Lag: cloud.Lag{Max: 10 * time.Minute}} })
	h, err := r.launch(within(t, 30*time.Second), r.idle())
	must(t, err)
	must(t, failed(agent(within(t, 60*time.Second), h)))
	must(t, r.served(h, r.pointerNow(), "one", 1))
	at := func(action string) (begun time.Time) { // the call of this action that took effect
		for _, c := range r.requests(h) {
			if c.Action == action && c.Code == "" {
				begun = c.Start
			}
		}
		return begun
	}
	before := map[string]time.Time{"attached": at("AttachVolume")}
	had := r.lab.VolumesFor(h.ID)[0].ID
	for name, moment := range before {
		if moment.IsZero() {
			t.Fatalf("no call to go back before: %v", r.actions(h.ID))
		}
		calls := len(r.requests(h))
		r.lab.Account.Old(moment, 3)
		must(t, failed(agent(within(t, 60*time.Second), h)))
		var volumes int
		for _, c := range r.requests(h)[calls:] {
			switch c.Action {
			case "CreateVolume", "AttachVolume", "DetachVolume", "DeleteVolume", "ModifyInstanceAttribute":
				t.Errorf("before it was %s: the agent called %s (%s)", name, c.Action, c.Code)
			case "DescribeVolumes":
				volumes++
			}
		}
		if volumes <= 3 {
			t.Errorf("before it was %s: %d reads, so the old answers did not matter", name, volumes)
		}
		if now := r.lab.VolumesFor(h.ID); len(now) != 1 || now[0].ID != had {
			t.Errorf("before it was %s: %s, want %s alone", name, show(now), had)
		}
		must(t, r.served(h, r.pointerNow(), "one", 2))
	}
	must(t, r.gone(within(t, 20*time.Second), h))
}

// TestAgentRow03: an encrypted volume whose key may not be used is accepted, and then vanishes.
func TestAgentRow03VanishingEncryptedVolume(t *testing.T) {
	r := published(t, func(o *lab.Options) { o.Policy = nil })
	const key = "arn:aws:kms:us-east-1:123456789012:key/0f31c0de-77aa-4d1c-8f00-000000000003"
	ctx := within(t, 120*time.Second)
	p := r.pointerNow()
	snapshot := p.Snapshots[r.lab.Account.Region()]
	r.lab.Account.AllowKeys(key)
	made, err := r.ec2.CreateVolume(ctx, &ec2.CreateVolumeInput{AvailabilityZone: aws.String(r.zoneOf(r.server.ID)), SnapshotId: &snapshot, Encrypted: aws.Bool(true), KmsKeyId: aws.String(key)})
	must(t, err)
	must(t, r.lab.Account.Wait(ctx, func() bool { return r.volumeState(*made.VolumeId) == "available" }))
	encrypted, err := r.ec2.CreateSnapshot(ctx, &ec2.CreateSnapshotInput{VolumeId: made.VolumeId})
	must(t, err)
	must(t, r.lab.Account.Wait(ctx, func() bool { return r.snapshotState(*encrypted.SnapshotId) == "completed" }))
	p.Snapshots[r.lab.Account.Region()] = *encrypted.SnapshotId
	r.pointer(r.signed(p))

	h := r.machine()
	r.lab.Account.AllowKeys()
	out := agent(ctx, h, "--deadline", "60s")
	refused(t, out.Output, 1, "attach: ", "3 volumes, and EC2 kept none", "it is gone", key, "Try: allow this instance's role kms:CreateGrant")
	if out.took < 28*time.Second || out.took > 45*time.Second { // each is waited for, for 10 s
		t.Errorf("it took %s", out.took)
	}
	called("CreateVolume", 6, "-", 3)(r, h, out)
	if left := r.lab.VolumesFor(h.ID); len(left) != 0 {
		t.Errorf("left: %s", show(left))
	}
	r.lab.Account.AllowKeys(key)
	must(t, failed(agent(ctx, h)))
	must(t, r.served(h, p, "one", 1))
}

func (r *rig) snapshotState(id string) string {
	for _, s := range r.lab.Account.Snapshots() {
		if s.ID == id {
			return s.State
		}
	}
	return ""
}

// TestAgentRow19: the snapshot that the pointer names is deleted, in error, or still pending. The
// pointer is read again for a while.
func TestAgentRow19Snapshots(t *testing.T) {
	r := published(t, func(o *lab.Options) { o.Policy = nil })
	good := r.pointerNow()
	bad := good
	bad.Snapshots = map[string]string{r.lab.Account.Region(): "snap-0123456789abcdef0"}
	ctx := within(t, 60*time.Second)

	r.pointer(r.signed(bad))
	h := r.machine()
	out := agent(ctx, h, "--deadline", "6s")
	refused(t, out.Output, 1, "create: ", "snap-0123456789abcdef0", "InvalidSnapshot.NotFound", "Try: ")
	if out.took < 4*time.Second || out.took > 6*time.Second+busy || len(r.lab.VolumesFor(h.ID)) != 0 {
		t.Errorf("after %s, left: %s", out.took, show(r.lab.VolumesFor(h.ID)))
	}

	done := make(chan outcome, 1)
	go func() { done <- agent(ctx, h, "--deadline", "20s") }()
	must(t, r.lab.Account.Wait(ctx, func() bool { return true }))
	time.Sleep(time.Second) // into its patience
	r.pointer(r.signed(good))
	out = <-done
	must(t, failed(out))
	if out.took < time.Second || out.took > 6*time.Second+busy {
		t.Errorf("it took %s", out.took)
	}
	must(t, r.served(h, good, "one", 1))
}

// TestAgentRow12: two snapshots of one xfs on one kernel: all hosts of a lab share one.
func TestAgentRow12TwoSnapshotsOfOneXFS(t *testing.T) {
	r := newRig(t, nil)
	r.ok("init", "--size", "1", "--file-system", "xfs")
	r.sh("mkdir -p /srv/source && echo one > /srv/source/version")
	r.ok("publish", "/srv/source")
	p := r.pointerNow()
	for range 2 {
		h := r.machine()
		out := agent(within(t, 30*time.Second), h)
		must(t, failed(out))
		must(t, r.served(h, p, "one", 1))
		if strings.Contains(out.Stderr, "e2fsck") {
			t.Error("e2fsck was run for an xfs")
		}
		if options := mounts(h)[0]; !strings.Contains(options, "nouuid") {
			t.Errorf("mounted %s", options)
		}
	}
}
