package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/host"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// TestDeadFullAndSlowMembersChangeNothingForTheRest: of six members one has no power, one has a
// full disk, one hangs. The other three have the release as soon as they would have it alone; the
// three are named, each with its cause; and once they are fixed, converge brings them up to date.
func TestDeadFullAndSlowMembersChangeNothingForTheRest(t *testing.T) {
	r := published(t, func(o *lab.Options) {
		o.PublisherSettings["converge-deadline"] = "8s"
		o.PublisherSettings["member-timeout"] = "60s"
	})
	hosts := r.scale(6)
	dead, full, slow, sound := hosts[0], hosts[1], hosts[2], hosts[3:]
	r.on(dead, "until [ -s /run/sshd.pid ]; do sleep 0.05; done; kill $(cat /run/sshd.pid)")
	r.on(full, "fallocate -l $(( $(df --output=avail -B1 /release | tail -1) - 5000000 )) /release/ballast")
	// Its agent hangs whenever it is to stage.
	r.on(slow, "mv /usr/bin/ebs-release-agent /usr/bin/real-agent; printf '#!/bin/sh\\n[ \"$1\" = receive ] && [ ! -e /run/mended ] && exec sleep 600\\nexec real-agent \"$@\"\\n' > /usr/bin/ebs-release-agent; chmod 755 /usr/bin/ebs-release-agent")
	r.sh("head -c 20M /dev/urandom > /srv/source/blob; echo two > /srv/source/version")
	start := time.Now()
	out := r.publisher("publish", "--output", "ndjson", "/srv/source")
	if out.Code != 5 {
		t.Fatalf("exit %d\n%s", out.Code, out.Stderr)
	}
	line := lastLine(out.Stderr)
	for _, want := range []string{"3/6 members", dead.ID, full.ID, slow.ID, "its disk is full"} {
		if !strings.Contains(line, want) {
			t.Errorf("the last line is %q, want %q in it", line, want)
		}
	}
	events := r.events(out.Stdout)
	active := map[string]time.Duration{}
	failed := map[string]string{}
	for _, e := range events {
		switch e.Kind {
		case "active":
			active[e.Member] = e.Time.Sub(events[0].Time)
		case "failed":
			failed[e.Member] = e.Cause
		}
	}
	for _, h := range sound {
		if took, ok := active[h.ID]; !ok || took > 45*time.Second { // they wait for neither the slow one's time-out nor its program, which are 60 s and more
			t.Errorf("%s was activated after %v (%v)", h.ID, took, ok)
		}
		if got := r.on(h, "cat /release/current/version"); got != "two" {
			t.Errorf("%s says %q", h.ID, got)
		}
	}
	for _, h := range []*host.Host{dead, full} { // once, and in the last line
		if n := strings.Count(out.Stderr, h.ID); n != 2 {
			t.Errorf("%s is named %d times:\n%s", h.ID, n, out.Stderr)
		}
	}
	if failed[dead.ID] == "" || failed[full.ID] != "its disk is full" {
		t.Errorf("failures: %v", failed)
	}
	last := events[len(events)-1]
	if last.Kind != "outcome" || last.Outcome == nil || last.Outcome.OnIt != 3 || last.Outcome.Mixed == nil || last.Outcome.Mixed.Members != 3 {
		t.Errorf("the last event is %+v", last)
	}
	t.Logf("publish took %v, activations %v, window %+v", time.Since(start), active, last.Outcome.Mixed)
	for _, h := range []*host.Host{dead, full, slow} {
		if got := r.on(h, "cat /release/current/version"); got != "one" {
			t.Errorf("%s says %q", h.ID, got)
		}
	}
	r.on(full, "rm /release/ballast")
	r.on(slow, "touch /run/mended")
	must(t, r.lab.Reboot(within(t, 30*time.Second), dead.ID)) // it comes back with the new generation
	r.ok("converge", "--converge-deadline", "60s")            // now all can come
	for _, h := range hosts {
		if got := r.on(h, "cat /release/current/version"); got != "two" {
			t.Errorf("after converge %s says %q", h.ID, got)
		}
	}
}

// event is one line of --output ndjson.
type event struct {
	Schema                           int
	Time                             time.Time
	Phase, Kind, Text, Member, Cause string
	Outcome                          *publishReport
}

func (r *rig) events(stdout string) (events []event) {
	r.Helper()
	for line := range strings.Lines(stdout) {
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Schema != 1 || e.Time.IsZero() {
			r.Fatalf("event %q: %v", line, err)
		}
		events = append(events, e)
	}
	if len(events) == 0 {
		r.Fatal("no events")
	}
	return events
}

func TestMaxFailuresStopsBeforeTheCommit(t *testing.T) {
	r := published(t, nil)
	hosts := r.scale(3)
	for _, h := range hosts[:2] {
		r.on(h, "until [ -s /run/sshd.pid ]; do sleep 0.05; done; kill $(cat /run/sshd.pid)")
	}
	r.sh("echo two > /srv/source/version")
	before := r.account()
	refused(t, r.publisher("publish", "--max-failures", "50%", "/srv/source"), 3, "2 of 3", "--max-failures 50%")
	if r.pointerNow().Generation != 1 || r.account() != before || r.sh("cat /release/current/version") != "one" {
		t.Errorf("pointer %+v, account:\n%s", r.pointerNow(), r.account())
	}
	if got := r.on(hosts[2], "cat /release/current/version"); got != "one" {
		t.Errorf("the sound member says %q", got)
	}
}

func TestHooksOfMembersRunAfterTheFlip(t *testing.T) {
	r := published(t, nil)
	hosts := r.scale(2)
	for _, h := range hosts {
		r.on(h, `mkdir -p /etc/ebs-release/activate.d; printf '#!/bin/sh\necho "$EBS_RELEASE_GENERATION $(cat $EBS_RELEASE_PATH/version) $(id -un)" > /tmp/hooked\n' > /etc/ebs-release/activate.d/10-note; chmod 755 /etc/ebs-release/activate.d/10-note`)
	}
	r.sh("echo two > /srv/source/version")
	r.ok("publish", "/srv/source")
	for _, h := range hosts {
		if got := r.on(h, "cat /tmp/hooked"); got != "2 two "+lab.SSHUser {
			t.Errorf("%s: %q", h.ID, got)
		}
	}
	r.on(hosts[0], `printf '#!/bin/sh\necho trying; echo no such service >&2; exit 3\n' > /etc/ebs-release/activate.d/50-reload; chmod 755 /etc/ebs-release/activate.d/50-reload`)
	r.sh("echo three > /srv/source/version")
	out := r.publisher("publish", "/srv/source")
	refused(t, out, 5, hosts[0].ID, "50-reload", "exit code 3", "no such service")
	for _, h := range hosts {
		if got := r.on(h, "cat /release/current/version"); got != "three" {
			t.Errorf("%s says %q: a hook changes nothing about the release", h.ID, got)
		}
	}
	for _, m := range r.status().Members {
		if m.Generation != 3 {
			t.Errorf("%+v", m)
		}
	}
	// It may serve the release before: nothing calls that current until the programs have
	// succeeded.
	bad := "hook failed"
	r.stand(hosts[0].ID, bad)
	refused(t, r.publisher("converge"), 5, hosts[0].ID, "50-reload", "no such service")
	must(t, failed(agent(within(t, 30*time.Second), hosts[0])))
	r.stand(hosts[0].ID, bad)
	if got := r.on(hosts[0], "ebs-release-agent status"); !strings.Contains(got, "a program of activate.d has not succeeded") {
		t.Errorf("its agent says %q", got)
	}
	r.on(hosts[0], "rm /etc/ebs-release/activate.d/50-reload /tmp/hooked")
	r.on(hosts[1], "rm /tmp/hooked")
	r.ok("converge")
	r.stand(hosts[0].ID, "current")
	if got := r.on(hosts[0], "cat /tmp/hooked"); got != "3 three "+lab.SSHUser {
		t.Errorf("converge ran %q", got)
	}
	r.ok("converge")
	if got := r.on(hosts[1], "ls /tmp"); strings.Contains(got, "hooked") {
		t.Error("programs that have succeeded ran again")
	}
}

// stand holds a member's standing to what it should be; all others are current.
func (r *rig) stand(id, want string) {
	r.Helper()
	for _, m := range r.status().Members {
		if m.InstanceID == id && m.Standing != want || m.InstanceID != id && m.Standing != "current" {
			r.Errorf("%+v, want %s to be %q", m, id, want)
		}
	}
}

// A member is current by generation and release; a tag that cannot be true is named, and heals; and
// verify looks at what is served.
func TestWhatIsCurrent(t *testing.T) {
	r := published(t, func(o *lab.Options) { o.PublisherSettings["converge-deadline"] = "10s" })
	hosts := r.scale(2)
	old := r.sh("cat " + lab.PointerStore + "/release.json")
	r.publishAs("two")
	t.Run("the pointer is an old copy", func(t *testing.T) {
		r := r.in(t)
		r.pointer(old)
		for _, m := range r.status().Members {
			if m.Standing != "ahead" {
				t.Errorf("%+v", m)
			}
		}
		if got := r.ok("status"); !strings.Contains(got, "0/2 members on it") || !strings.Contains(got, "2 of them are ahead") {
			t.Error(got)
		}
		refused(t, r.publisher("converge"), 5, "2 of them are ahead", hosts[0].ID, "`ebs-release publish`")
		// 3 was the pointer's release on the release volume, as P0 found it behind that.
		if o := r.publishAs("two again"); o.Generation != 4 || o.OnIt != 2 {
			t.Errorf("%+v", o)
		}
	})
	t.Run("a tag that no publish made", func(t *testing.T) {
		r := r.in(t)
		volume := r.lab.VolumesFor(hosts[0].ID)[0].ID
		for want := int64(5); want < 8; want++ {
			_, err := r.ec2.CreateTags(within(t, 10*time.Second), &ec2.CreateTagsInput{
				Resources: []string{volume}, Tags: []types.Tag{{Key: aws.String("ebs-release:generation"), Value: aws.String("9007199254740989")}},
			})
			must(t, err)
			r.stand(hosts[0].ID, "ahead")
			r.sh(fmt.Sprintf("echo %d > /srv/source/version", want))
			out := r.publisher("publish", "/srv/source")
			if out.Code != 0 || !strings.Contains(out.Stderr, hosts[0].ID+": the tag ebs-release:generation of "+volume+` says "9007199254740989"`) {
				t.Errorf("exit %d\n%s", out.Code, out.Stderr)
			}
			if s := r.status(); s.Generation != want {
				t.Errorf("generation %d, want %d", s.Generation, want)
			}
		}
		r.stand(hosts[0].ID, "current")
	})
	t.Run("a fence that a wrong pointer raised", func(t *testing.T) {
		r := r.in(t)
		fence := "/release/.ebs-release/generation"
		release := r.status().Release
		r.on(hosts[0], "echo 9007199254740989 "+release+" > "+fence)
		out := r.publisher("verify", hosts[0].ID)
		if out.Code != 1 || !strings.Contains(out.Stdout, "9007199254740989") {
			t.Errorf("verify: exit %d\n%s", out.Code, out.Stdout)
		}
		refused(t, r.publisher("publish", "/srv/source"), 5, hosts[0].ID, "a newer generation is active there")
		if got := r.on(hosts[0], "ebs-release-agent fence --lower-to 7"); !strings.HasPrefix(got, "generation 7, release "+release) {
			t.Error(got)
		}
		r.ok("converge")
		r.ok("verify", "--all")
	})
	t.Run("current leads elsewhere", func(t *testing.T) {
		r := r.in(t)
		r.on(hosts[1], "cd /release && ln -s releases/$(ls releases | head -1) next && mv -T next current")
		out := r.publisher("verify", "--all")
		if out.Code != 1 || !strings.Contains(out.Stdout, "current leads to release") || !strings.Contains(out.Stderr, hosts[1].ID) {
			t.Errorf("exit %d\n%s", out.Code, out.Stdout)
		}
		if got := r.on(hosts[1], "ebs-release-agent verify 2>&1 || true"); !strings.Contains(got, "current leads to release") {
			t.Error(got)
		}
	})
}

func TestHooksOfTheReleaseServer(t *testing.T) {
	r := published(t, nil)
	r.sh(`mkdir -p /etc/ebs-release/publish.d/before /etc/ebs-release/publish.d/after; cd /etc/ebs-release/publish.d
printf '#!/bin/sh\n[ ! -e /run/closed ] || { echo the change window is closed; exit 7; }\n' > before/10-window
printf '#!/bin/sh\necho "$EBS_RELEASE_GENERATION $EBS_RELEASE_RESULT" > /run/after\n[ ! -e /run/no-chat ] || { echo chat is down; exit 1; }\n' > after/10-chat
chmod 755 before/* after/*; touch /run/closed; echo two > /srv/source/version`)
	r.unchanged(func() host.Output { return r.publisher("publish", "/srv/source") }, 3, "10-window", "exit code 7", "the change window is closed")
	r.sh(`rm /run/closed; touch /run/no-chat /run/bad; mkdir -p /etc/ebs-release/publish.d/verify; cd /etc/ebs-release/publish.d/verify
printf '#!/bin/sh\ncat > /run/told; cat $EBS_RELEASE_STAGED/version > /run/seen\n[ ! -e /run/bad ] || { echo it is broken; exit 7; }\n' > 10-smoke; chmod 755 10-smoke`)
	if out := r.ok("publish", "/srv/source", "--dry-run"); !strings.Contains(out, "publish.d/verify would run: 10-smoke") {
		t.Errorf("dry run: %s", out)
	}
	refused(t, r.publisher("publish", "/srv/source"), 3, "nothing was changed", "10-smoke", "exit code 7", "it is broken")
	if got := r.sh("cat /release/current/version"); got != "one" { // the tree that was taken in stays, for the next try
		t.Errorf("the release volume serves %q", got)
	}
	if got := r.sh("cat /run/seen /run/told"); !strings.Contains(got, "two\n{") || !strings.Contains(got, `"digest":"`) {
		t.Errorf("the program saw %q", got)
	}
	r.sh("rm /run/bad")
	report := r.publishJSON("/srv/source")
	if report.Result != "converged" || !strings.Contains(report.HookError, "chat is down") {
		t.Errorf("%+v", report)
	}
	if got := r.sh("cat /run/after"); got != fmt.Sprintf("%d converged", report.Generation) {
		t.Errorf("the hook saw %q", got)
	}
}
