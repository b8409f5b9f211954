package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	labdisk "ebs-release/internal/lab/disk"
	"ebs-release/internal/lab/host"
)

// warmth is what `status` of a member says of the files that were read.
type warmth struct {
	State string
	Warm  *struct {
		VolumeID         string `json:"volume_id"`
		Release, Trouble string
		Files, Bytes     int64
		AllFiles         int64 `json:"all_files"`
		Verified         *struct {
			Generation  int64
			Release     string
			Files       int64
			Bad, Healed int
			Named       []string
		}
	}
}

func (r *rig) warmth(h *host.Host) (w warmth) {
	r.Helper()
	must(r, json.Unmarshal([]byte(r.on(h, "ebs-release-agent status --output json")), &w))
	return w
}

// verified waits until all files of a generation were read, and says what came of it.
func (r *rig) verified(h *host.Host, generation int64) (bad, healed int) {
	r.Helper()
	r.eventually(fmt.Sprintf("generation %d is verified", generation), func() bool {
		w := r.warmth(h).Warm
		if w == nil || w.Verified == nil || w.Verified.Generation != generation {
			return false
		}
		bad, healed = w.Verified.Bad, w.Verified.Healed
		return true
	})
	return bad, healed
}

// warmed is a lab with cold volumes, whose members read all of a release.
func warmed(t *testing.T, change func(*lab.Options)) *rig {
	t.Helper()
	return published(t, func(o *lab.Options) {
		o.Warm, o.Cold = true, &labdisk.Cold{Block: 20 * time.Millisecond, AtOnce: 20}
		if change != nil {
			change(o)
		}
	})
}

// volumeOf is the id of a member's release volume.
func (r *rig) volumeOf(h *host.Host) string {
	r.Helper()
	var s struct {
		VolumeID string `json:"volume_id"`
	}
	must(r, json.Unmarshal([]byte(r.on(h, "ebs-release-agent status --output json")), &s))
	return s.VolumeID
}

// TestWarm: after the boot all files were read and are right, and both programs say so. Of the next
// release only what is new is read.
func TestWarm(t *testing.T) {
	for name, inS3 := range map[string]bool{"tags": false, "in S3": true} {
		t.Run(name, func(t *testing.T) {
			r := warmed(t, func(o *lab.Options) { o.S3 = inS3 })
			h := r.scale(1)[0]
			if bad, healed := r.verified(h, 1); bad != 0 || healed != 0 {
				t.Errorf("%d damaged, %d healed", bad, healed)
			}
			if loads := r.lab.Disks().Loads(r.volumeOf(h)); loads == 0 {
				t.Error("nothing was cold")
			}
			text := r.on(h, "ebs-release-agent status")
			for _, want := range []string{"all 3 files are as the manifest says", "all of release"} {
				if !strings.Contains(text, want) {
					t.Errorf("status does not say %q:\n%s", want, text)
				}
			}
			out, _ := h.Run(within(t, 30*time.Second), "ebs-release-agent", "doctor")
			if !strings.Contains(out.Stdout, "ok    content: generation 1") {
				t.Errorf("doctor:\n%s", out.Stdout)
			}
			r.eventually("the publisher knows", func() bool { return strings.Contains(r.ok("status"), "VERIFIED") })
			if said := r.ok("status", "--output", "json"); !strings.Contains(said, `"verified": {`) || !strings.Contains(said, `"files": 3`) {
				t.Errorf("status of the publisher:\n%s", said)
			}
			// What tags the agent's policy does not allow, it does not write.
			r.sh("echo two > /srv/source/version")
			r.ok("publish", "/srv/source")
			if bad, _ := r.verified(h, 2); bad != 0 {
				t.Errorf("%d damaged", bad)
			}
			r.eventually("the publisher knows of the next one", func() bool {
				said := r.ok("status", "--output", "json")
				return strings.Contains(said, `"verified": {`) && strings.Contains(said, `"generation": 2`)
			})
		})
	}
}

// flip damages a file on the disk of a member behind the kernel's back.
func (r *rig) flip(h *host.Host, text string) {
	r.Helper()
	r.on(h, "sync -f /release") // not all disks of the machine: another test's may hang
	volume, err := r.lab.Disks().OpenRaw(r.volumeOf(h))
	must(r, err)
	defer volume.Close()
	must(r, flipIn(volume, text))
}

func flipIn(file *os.File, text string) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	part := make([]byte, 4<<20)
	found := false
	for at := int64(0); at < info.Size(); at += int64(len(part) - len(text)) {
		n, _ := file.ReadAt(part, at)
		if i := strings.Index(string(part[:n]), text); i >= 0 {
			found = true
			if _, err := file.WriteAt([]byte{text[0] ^ 1}, at+int64(i)); err != nil {
				return err
			}
		}
	}
	if !found {
		return fmt.Errorf("the disk does not hold %q", text)
	}
	return nil
}

// TestWarmHeals: what the disk damages is named, and healed where the store has it.
func TestWarmHeals(t *testing.T) {
	r := warmed(t, func(o *lab.Options) { o.Warm = false })
	r.sh("echo what a pack will have > /srv/source/new")
	h := r.scale(1)[0]
	r.ok("publish", "/srv/source") // it comes by a pack
	r.flip(h, "what a pack will have")
	r.flip(h, "19998\n19999\n") // of data, which came with the snapshot
	r.on(h, "setsid ebs-release-agent warm > /run/warm.log 2>&1 < /dev/null & true")
	if bad, healed := r.verified(h, 2); bad != 1 || healed != 1 {
		t.Errorf("%d damaged, %d healed:\n%s", bad, healed, r.on(h, "cat /run/warm.log"))
	}
	if got := r.on(h, "cat /release/current/new"); got != "what a pack will have" {
		t.Errorf("%q", got)
	}
	w := r.warmth(h)
	if w.State != "ready" || len(w.Warm.Verified.Named) != 1 || !strings.HasPrefix(w.Warm.Verified.Named[0], "data: ") {
		t.Errorf("%+v", w.Warm.Verified)
	}
	if !strings.Contains(w.Warm.Trouble, "no pack of the store holds that content") || !strings.Contains(w.Warm.Trouble, "Try: replace this instance") {
		t.Error(w.Warm.Trouble)
	}
	out, _ := h.Run(within(t, 30*time.Second), "ebs-release-agent", "doctor")
	if !strings.Contains(out.Stdout, "FAIL  content") || out.Code != 1 {
		t.Errorf("doctor, exit %d:\n%s", out.Code, out.Stdout)
	}
	r.eventually("the publisher names it", func() bool { return strings.Contains(r.ok("status"), "1 of them serve damaged files") })
	refused(t, r.onAgent(h, "verify"), 1, "data: its content has another sha256")
}

// onAgent runs the agent on a host.
func (r *rig) onAgent(h *host.Host, args ...string) host.Output {
	r.Helper()
	out, _ := h.Run(within(r, 30*time.Second), append([]string{"ebs-release-agent"}, args...)...)
	return out
}

// TestWarmIsInNobodysWay: while it reads a disk that is slow, or does not answer, a signal ends it
// within a second, a publish comes through, and what it reads is then the new release.
func TestWarmIsInNobodysWay(t *testing.T) {
	r := warmed(t, func(o *lab.Options) { o.Warm, o.Cold = false, &labdisk.Cold{Block: 300 * time.Millisecond, AtOnce: 2} })
	r.sh("head -c 100000000 /dev/urandom > /srv/source/large")
	r.ok("publish", "/srv/source")
	h := r.scale(1)[0]
	start := func() {
		r.on(h, "setsid ebs-release-agent warm > /run/warm.log 2>&1 < /dev/null & true")
		r.eventually("it reads", func() bool {
			w := r.warmth(h).Warm
			return w != nil && w.Bytes > 1<<20 && w.Files < w.AllFiles
		})
	}
	gone := func() bool { return r.on(h, "pgrep -f '[e]bs-release-agent warm' || true") == "" }
	start()
	began := time.Now()
	r.on(h, "kill $(pgrep -f '[e]bs-release-agent warm')")
	r.eventually("it is gone", gone)
	if took := time.Since(began); took > time.Second+busy {
		t.Errorf("it took %s to end", took)
	}
	start()
	r.on(h, "kill -KILL $(pgrep -f '[e]bs-release-agent warm')")
	r.eventually("it is gone", gone)

	start()
	r.sh("rm /srv/source/large; echo two > /srv/source/version")
	began = time.Now()
	r.ok("publish", "/srv/source", "--no-snapshot")
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("a publish took %s", took)
	}
	if bad, _ := r.verified(h, 3); bad != 0 {
		t.Errorf("%d damaged:\n%s", bad, r.on(h, "cat /run/warm.log"))
	}
}

// TestWarmOnADiskThatHangs: it is said, and when the disk answers again, all is read to its end.
func TestWarmOnADiskThatHangs(t *testing.T) {
	r := warmed(t, func(o *lab.Options) { o.Warm, o.Cold = false, &labdisk.Cold{Block: 300 * time.Millisecond, AtOnce: 2} })
	r.sh("head -c 100000000 /dev/urandom > /srv/source/large")
	r.ok("publish", "/srv/source")
	h := r.scale(1)[0]
	r.on(h, "setsid ebs-release-agent warm > /run/warm.log 2>&1 < /dev/null & true")
	said := func() string { return r.on(h, "cat /run/ebs-release/warm.json 2>&1 || true") } // status would look at the disk
	r.eventually("it reads", func() bool { return strings.Contains(said(), `"all_files": 4`) })
	release := r.lab.Disks().Hold(r.volumeOf(h))
	r.eventually("the trouble is said", func() bool { return strings.Contains(said(), "the disk does not answer: nothing was read for 30s") })
	if text := said(); !strings.Contains(text, "aws ec2 describe-volume-status --volume-ids vol-") {
		t.Error(text)
	}
	release()
	if bad, _ := r.verified(h, 2); bad != 0 {
		t.Errorf("%d damaged:\n%s", bad, r.on(h, "cat /run/warm.log"))
	}
	if w := r.warmth(h); w.Warm.Trouble != "" {
		t.Error(w.Warm.Trouble)
	}
}

// TestEBSLoadsAhead: what EC2 says of a volume that EBS loads by itself is in doctor and status,
// and a role without that right misses nothing else.
func TestEBSLoadsAhead(t *testing.T) {
	allowed := newRights()
	r := warmed(t, func(o *lab.Options) { o.Policy, o.AgentSettings["initialization-rate"] = allowed.policy, "100" })
	h := r.scale(1)[0]
	r.diagnosed(h, "ok", "initialization", []string{"EBS ha", " loaded ", r.volumeOf(h)})
	allowed.deny("ec2:DescribeVolumeStatus")
	r.diagnosed(h, "warn", "initialization", []string{"allow ec2:DescribeVolumeStatus in the role"})
	if bad, _ := r.verified(h, 1); bad != 0 {
		t.Errorf("%d damaged", bad)
	}
	allowed.deny()
	// The volume of 1 GiB is loaded in some 10 s, and EC2 is asked after 30 to 90 s.
	said := func() string { return r.on(h, "ebs-release-agent status") }
	for end := time.Now().Add(2 * time.Minute); !strings.Contains(said(), "EBS has loaded"); time.Sleep(time.Second) {
		if time.Now().After(end) {
			t.Fatalf("status does not say it:\n%s%s", said(), r.on(h, "cat /run/ebs-release/*.json"))
		}
	}
	if text := said(); !strings.Contains(text, "all of the volume") {
		t.Errorf("status:\n%s", text)
	}
}
