package e2e

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/host"
)

// diagnosis is what `doctor --output json` says.
type diagnosis struct {
	Schema int
	State  string
	Checks []struct{ Name, State, Says, Try string }
}

func (r *rig) doctor(h *host.Host, args ...string) (diagnosis, int) {
	r.Helper()
	out, _ := h.Run(within(r, 60*time.Second), append([]string{"ebs-release-agent", "doctor", "--output", "json"}, args...)...)
	var d diagnosis
	if err := json.Unmarshal([]byte(out.Stdout), &d); err != nil {
		r.Fatalf("doctor: exit %d, %v\n%s%s", out.Code, err, out.Stdout, out.Stderr)
	}
	return d, out.Code
}

// diagnosed checks one line, and that no other check failed.
func (r *rig) diagnosed(h *host.Host, state, check string, says []string, args ...string) {
	r.Helper()
	d, code := r.doctor(h, args...)
	found := false
	for _, c := range d.Checks {
		if c.Name != check {
			if c.State == "FAIL" {
				r.Errorf("%s: FAIL, too: %s. Try: %s", c.Name, c.Says, c.Try)
			}
			continue
		}
		found = true
		line := c.Says + ". Try: " + c.Try
		if c.State != state {
			r.Errorf("%s is %s, want %s: %s", check, c.State, state, line)
		}
		for _, w := range says {
			if !strings.Contains(line, w) {
				r.Errorf("%s says %q, want %q in it", check, line, w)
			}
		}
	}
	if !found {
		r.Errorf("there is no check %q", check)
	}
	if want := map[string]int{"FAIL": 1}[state]; code != want {
		r.Errorf("exit %d, want %d", code, want)
	}
}

// rights is a policy that can be taken rights from.
type rights struct{ denied chan []string }

func newRights() rights {
	r := rights{make(chan []string, 1)}
	r.denied <- nil
	return r
}

func (r rights) deny(actions ...string) {
	<-r.denied
	r.denied <- actions
}

func (r rights) policy(_ context.Context, c cloud.Check) bool {
	denied := <-r.denied
	r.denied <- denied
	return c.Principal.Role != "ebs-release-agent" || !slices.Contains(denied, c.Action)
}

func TestDoctorFindsASoundHostSound(t *testing.T) {
	r := published(t, func(o *lab.Options) { o.Warm = true })
	h, err := r.member()
	must(t, err)
	r.eventually("it has reported that it is ready, and that all was read", func() bool {
		reports := slices.DeleteFunc(r.lab.Account.CallsBy(h.ID), func(c cloud.Call) bool { return c.Action != "CreateTags" })
		return len(reports) == 2
	})
	before, calls := r.account(), len(r.lab.Account.CallsBy(h.ID))
	d, code := r.doctor(h)
	if code != 0 || d.State != "ok" || d.Schema != 1 || len(d.Checks) < 20 {
		t.Errorf("exit %d: %+v", code, d)
	}
	for _, c := range d.Checks {
		if c.State != "ok" || c.Says == "" || c.Try != "" {
			t.Errorf("%+v", c)
		}
	}
	for _, c := range r.lab.Account.CallsBy(h.ID)[calls:] {
		if c.Mutates && !c.DryRun {
			t.Errorf("the doctor called %s", c.Action)
		}
	}
	if r.account() != before {
		t.Error("the doctor changed the account")
	}
	out, err := h.Run(within(t, 30*time.Second), "ebs-release-agent", "doctor")
	must(t, err)
	if lines := strings.Split(strings.TrimSpace(out.Stdout), "\n"); len(lines) != len(d.Checks) || out.Stderr != "" {
		t.Errorf("%d lines for %d checks:\n%s%s", len(lines), len(d.Checks), out.Stdout, out.Stderr)
	}
}

// TestDoctorNamesWhatIsBroken breaks one thing after the other.
func TestDoctorNamesWhatIsBroken(t *testing.T) {
	allowed := newRights()
	r := published(t, func(o *lab.Options) { o.Policy, o.AgentSettings["warm"] = allowed.policy, "off" })
	h, err := r.member()
	must(t, err)
	fault := func(action string, fail cloud.Failure) func() {
		return r.lab.Account.Fault(cloud.Fault{Action: action, Principal: h.ID, Effect: cloud.Effect{Fail: fail}})
	}
	for _, action := range []string{"CreateVolume", "AttachVolume", "ModifyInstanceAttribute", "CreateTags", "DetachVolume", "DeleteVolume", "DescribeVolumes"} {
		t.Run("no right to "+action, func(t *testing.T) {
			r := r.in(t)
			allowed.deny("ec2:" + action)
			defer allowed.deny()
			if action == "CreateTags" { // CreateVolume needs it, too, and says so
				d, code := r.doctor(h)
				for _, c := range d.Checks {
					if bad := c.Name == "ec2:CreateVolume" || c.Name == "ec2:CreateTags"; bad != (c.State == "FAIL") || bad && !strings.Contains(c.Try, "allow ec2:CreateTags ") {
						t.Errorf("%+v", c)
					}
				}
				if code != 1 {
					t.Errorf("exit %d", code)
				}
				return
			}
			r.diagnosed(h, "FAIL", "ec2:"+action, []string{"not allowed", "allow ec2:" + action + " in the role"})
		})
	}
	t.Run("no right to look at the snapshot", func(t *testing.T) {
		allowed.deny("ec2:DescribeSnapshots")
		defer allowed.deny()
		r.in(t).diagnosed(h, "warn", "ec2:DescribeSnapshots", []string{"allow ec2:DescribeSnapshots"})
	})
	t.Run("an account that encrypts by default", func(t *testing.T) {
		r, key := r.in(t), "arn:aws:kms:us-east-1:123456789012:key/ebs"
		r.diagnosed(h, "ok", "KMS key", []string{"none is used"})
		r.lab.Account.EncryptByDefault(key)
		defer r.lab.Account.EncryptByDefault("")
		r.diagnosed(h, "warn", "KMS key", []string{"encrypts every new volume, with " + key, "kms:CreateGrant"})
		for _, action := range []string{"ec2:GetEbsEncryptionByDefault", "ec2:GetEbsDefaultKmsKeyId"} {
			allowed.deny(action)
			r.diagnosed(h, "warn", "KMS key", []string{"is not known", "allow " + action})
		}
		allowed.deny()
	})
	t.Run("metadata service", func(t *testing.T) {
		defer fault("GET /latest/dynamic/*", cloud.NotFound)()
		r.in(t).diagnosed(h, "FAIL", "metadata service", []string{"identity document", "IMDSv2"})
	})
	for _, tc := range []struct{ name, state, check, do, undo, want string }{
		{"mount point with a file in it", "FAIL", "mount point", "mkdir /other; touch /other/file", "rm -r /other", "not empty"},
		{"mount point that is a link", "FAIL", "mount point", "ln -s /tmp /other", "rm /other", "symbolic link"},
		{"something else mounted", "FAIL", "mount point", "mkdir /other; mount -t tmpfs strange /other", "umount /other; rmdir /other", "tmpfs"},
		{"mount point that is not there", "ok", "mount point", ":", ":", "the boot makes it"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := r.in(t)
			r.on(h, tc.do)
			r.diagnosed(h, tc.state, tc.check, []string{tc.want}, "--mount-point", "/other")
			r.on(h, tc.undo)
		})
	}
	for _, tc := range []struct{ name, state, check, do, undo, want string }{
		{"no e2fsck", "FAIL", "e2fsck", "mv $(command -v e2fsck) /root/e2fsck.away; rm -f /sbin/e2fsck", "mv /root/e2fsck.away /usr/sbin/e2fsck", "install e2fsprogs"},
		{"no host key", "warn", "ssh host key", "mkdir /root/keys; mv /etc/ssh/*.pub /root/keys", "mv /root/keys/* /etc/ssh", "ssh-keygen -A"},
		{"disabled for an AMI", "warn", "unit", "touch /etc/ebs-release/disabled", "rm /etc/ebs-release/disabled", "rm /etc/ebs-release/disabled"},
		{"a later start failed", "warn", "last boot", "cp /run/ebs-release/status.json /root; ebs-release-agent up --deadline 1s --pointer http://127.0.0.1:9/x && exit 1 || true",
			"cp /root/status.json /run/ebs-release", "resolve: read pointer http://127.0.0.1:9/x"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := r.in(t)
			r.on(h, tc.do)
			r.diagnosed(h, tc.state, tc.check, []string{tc.want})
			r.on(h, tc.undo)
		})
	}
	t.Run("pointer unreachable", func(t *testing.T) {
		r.in(t).diagnosed(h, "FAIL", "pointer", []string{"connection refused", "curl -v http://127.0.0.1:9/x"}, "--pointer", "http://127.0.0.1:9/x")
	})
	good := r.sh("cat " + lab.PointerStore + "/release.json")
	t.Run("pointer is no pointer", func(t *testing.T) {
		r := r.in(t)
		r.pointer("<html>")
		r.diagnosed(h, "FAIL", "pointer", []string{"HTML"})
		r.pointer(strings.ReplaceAll(good, r.lab.Account.Region(), "eu-north-1"))
		r.diagnosed(h, "FAIL", "pointer", []string{r.lab.Account.Region()})
		r.pointer("snap-0123456789abcdef0\n")
		r.diagnosed(h, "FAIL", "ec2:DescribeSnapshots", []string{"snap-0123456789abcdef0 does not exist in " + r.lab.Account.Region()})
	})
	t.Run("sound again", func(t *testing.T) {
		r := r.in(t)
		r.pointer(good)
		if d, code := r.doctor(h); code != 0 || d.State != "ok" {
			t.Errorf("exit %d: %+v", code, d)
		}
	})
}

// TestDoctorBeforeAnyRelease: a host whose role, network and mount point are right; nothing is
// published, and there is no volume.
func TestDoctorBeforeAnyRelease(t *testing.T) {
	r := newRig(t, func(o *lab.Options) { o.AgentSettings["deadline"] = "500ms" })
	h := r.strandedMember()
	r.on(h, "rm -r /run/ebs-release")
	r.diagnosed(h, "warn", "pointer", []string{"nothing is published"})
}

func TestDryRunTellsThePlanAndChangesNothing(t *testing.T) {
	r := published(t, func(o *lab.Options) { o.AgentSettings["deadline"] = "3s" })
	good := r.sh("cat " + lab.PointerStore + "/release.json")
	r.pointer("nothing yet")
	fresh := r.strandedMember()
	r.pointer(good)
	h, err := r.member()
	must(t, err)
	r.sh("echo two > /srv/source/version")
	plan := func(h *host.Host) string {
		t.Helper()
		before := r.account() + r.on(h, "cat /proc/1/mountinfo; cat /run/ebs-release/status.json; ls -lR /release 2>&1 || true")
		calls := len(r.lab.Account.CallsBy(h.ID))
		out := r.up(h, "--dry-run")
		if out.Code != 0 {
			t.Fatalf("exit %d\n%s%s", out.Code, out.Stdout, out.Stderr)
		}
		if after := r.account() + r.on(h, "cat /proc/1/mountinfo; cat /run/ebs-release/status.json; ls -lR /release 2>&1 || true"); after != before {
			t.Errorf("something changed:\n%s\n%s", before, after)
		}
		for _, c := range r.lab.Account.CallsBy(h.ID)[calls:] {
			if c.Mutates && !c.DryRun {
				t.Errorf("it called %s", c.Action)
			}
		}
		return out.Stdout
	}
	says := func(plan string, words ...string) {
		t.Helper()
		for _, w := range words {
			_, rest, found := strings.Cut(plan, w)
			if !found {
				t.Errorf("the plan does not say %q here:\n%s", w, plan)
			}
			plan = rest
		}
	}
	says(plan(fresh), "identify", fresh.ID, "resolve", "generation 1", "adopt", "no release volume", "create", "allowed", "attach", "/dev/xvdaa", "protect", "find device",
		"check", "mount", "catch up", "verify", "may serve", "report", "re-read", "ready")
	says(plan(h), "adopt", "mounted at /release", "create", "nothing to do", "attach", "nothing to do", "ready", "generation 1")
	r.ok("publish", "/srv/source", "--groups", r.emptyGroup())
	says(plan(h), "unmounts /release", "create", "nothing to do", "mounts it where nobody sees it", "catches up by packs", "generation 2")
	must(t, r.lab.Reboot(within(t, 30*time.Second), h.ID)) // for real
	says(plan(h), "mounted at /release", "generation 2")
}

// TestDoctorSeesWhatHindersWriting: a release volume that was frozen, or that the kernel made
// read-only. Readers notice nothing, and a push would fail or hang.
func TestDoctorSeesWhatHindersWriting(t *testing.T) {
	r := published(t, nil)
	h := r.machine()
	must(t, failed(agent(within(t, 30*time.Second), h)))
	finds := func(state string, says ...string) {
		t.Helper()
		began := time.Now()
		r.diagnosed(h, state, "writing", says)
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("the doctor took %s", took)
		}
	}
	status := func(words string) {
		t.Helper()
		out, err := h.Run(within(t, 10*time.Second), "ebs-release-agent", "status")
		must(t, err) // it is ready: what is there is served
		if !strings.Contains(out.Stdout, words) {
			t.Errorf("status says %s, want %q in it", out.Stdout, words)
		}
	}
	finds("ok", "come through")

	r.on(h, "fsfreeze --freeze /release")
	defer func() { _, _ = h.Run(context.WithoutCancel(t.Context()), "fsfreeze", "--unfreeze", "/release") }() // in case the test fails
	finds("FAIL", "a write does not come through", "fsfreeze --unfreeze /release")
	status("generation")
	r.on(h, "fsfreeze --unfreeze /release; for i in $(seq 200); do grep -qs '[t]ry-write' /proc/[0-9]*/cmdline || exit 0; sleep 0.05; done; echo a probe is left >&2; exit 1")
	finds("ok", "come through")

	r.on(h, "mount -o remount,errors=remount-ro /release")
	disk, err := os.Readlink("/sys/dev/block/" + strings.Fields(mounts(h)[0])[2]) // the lab's machine sees the disk under another name
	must(t, err)
	must(t, os.WriteFile("/sys/fs/ext4/"+filepath.Base(disk)+"/trigger_fs_error", []byte("a test"), 0))
	finds("FAIL", "nothing can be written to /release", "umount it, ebs-release-agent up")
	status("warning")
	// What the doctor says to do.
	r.on(h, "umount /release")
	out := agent(within(t, 30*time.Second), h)
	must(t, failed(out))
	if !strings.Contains(out.Stderr, "e2fsck ended") {
		t.Errorf("e2fsck was not run: %s", out.Stderr)
	}
	must(t, r.served(h, r.pointerNow(), "one", 2))
	finds("ok", "come through")
}
