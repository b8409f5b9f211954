package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/host"
	"ebs-release/internal/pointer"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// publication is what `publish --output json` and its like say.
type publication struct {
	Result, Release string
	Generation      int64
	SnapshotID      string `json:"snapshot_id"`
	Pending         string `json:"snapshot_pending"`
	Fetched         struct{ Packs int }
	OnIt            int `json:"on_it"`
	Total           int
}

// publishAs changes the source and publishes it.
func (r *rig) publishAs(version string, more ...string) (o publication) {
	r.Helper()
	r.sh("echo " + version + " > /srv/source/version")
	must(r, json.Unmarshal([]byte(r.ok(append([]string{"publish", "/srv/source", "--output", "json"}, more...)...)), &o))
	return o
}

// version is what the application on a host would read.
func (r *rig) version(h *host.Host) string {
	r.Helper()
	return r.on(h, "cat /release/current/version")
}

func TestRollbackSendsNothingAndUsesTheSnapshotAgain(t *testing.T) {
	r := published(t, nil)
	h := r.scale(1)[0]
	first := r.sh("cat " + lab.PointerStore + "/snap.txt")
	r.publishAs("two")
	var o publication
	must(t, json.Unmarshal([]byte(r.ok("rollback", "--output", "json", "--message", "two is bad")), &o))
	if o.Generation != 3 || o.SnapshotID != first || o.Fetched.Packs != 0 || o.OnIt != 1 || o.Result != "converged" {
		t.Errorf("%+v, want generation 3 from %s", o, first)
	}
	if got := r.version(h); got != "one" {
		t.Errorf("the member says %q", got)
	}
	// One that launches now makes its volume from a snapshot of generation 1, and is on 3.
	young := r.scale(2)
	for _, h := range young {
		if s := r.agentStatus(h); s.Generation != 3 || r.version(h) != "one" || s.State != "ready" {
			t.Errorf("%s: %+v", h.ID, s)
		}
	}
	if got := r.sh("cat /release/current/version"); got != "one" {
		t.Errorf("the release volume says %q", got)
	}

	t.Run("to a generation whose snapshot is gone", func(t *testing.T) {
		r := r.in(t)
		for _, s := range r.lab.Account.Snapshots() {
			if s.ID != first {
				r.deleteSnapshot(s.ID)
			}
		}
		must(t, json.Unmarshal([]byte(r.ok("rollback", "--to", "2", "--output", "json")), &o))
		if o.Generation != 4 || o.SnapshotID == first || o.OnIt != 2 || r.version(h) != "two" {
			t.Errorf("%+v, member %q", o, r.version(h))
		}
	})
	t.Run("to a release", func(t *testing.T) {
		r := r.in(t)
		ids := strings.Fields(r.sh("ls /release/releases")) // the oldest first
		must(t, json.Unmarshal([]byte(r.ok("rollback", "--to", ids[0], "--output", "json")), &o))
		if o.Generation != 5 || o.Release != ids[0] || r.version(h) != "one" {
			t.Errorf("%+v", o)
		}
	})
	t.Run("to what is not there", func(t *testing.T) {
		r := r.in(t)
		r.unchanged(func() host.Output { return r.publisher("rollback", "--to", "77") }, 3, "no generation 77", "4, 3, 2, 1")
		r.unchanged(func() host.Output { return r.publisher("rollback", "--to", "5") }, 3, "generation 5 is the current one")
		r.unchanged(func() host.Output { return r.publisher("rollback", "--to", "20200101T000000Z-000000000000") }, 3, "not on the release volume any more", "go back --to one of these generations: 4, 2")
		r.unchanged(func() host.Output { return r.publisher("rollback", "--if-generation", "4") }, 4, "generation 5, not 4", "`ebs-release history`")
		if e := r.history()[0]; e.Result != "conflict" || e.Release != "" {
			t.Errorf("%+v: it has no release", e)
		}
	})
	t.Run("history", func(t *testing.T) {
		r := r.in(t)
		var done []string
		for _, e := range r.history() {
			if e.Result == "converged" {
				done = append(done, fmt.Sprintf("%d %s %s", e.Generation, e.Verb, e.Message))
			}
			if !strings.Contains(e.Who, "@") {
				t.Errorf("%+v", e)
			}
		}
		want := "5 rollback rollback to generation 3|4 rollback rollback to generation 2|3 rollback two is bad|2 publish |1 publish "
		if got := strings.Join(done, "|"); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	})
}

func TestPublishRollsBackByItself(t *testing.T) {
	r := published(t, func(o *lab.Options) { o.PublisherSettings["converge-deadline"] = "4s" })
	hosts := r.scale(2)
	// It can be reached, and has no room.
	r.on(hosts[0], "fallocate -l $(( $(df --output=avail -B1 /release | tail -1) - 5000000 )) /release/ballast")
	r.sh("head -c 50M /dev/urandom > /srv/source/blob; echo two > /srv/source/version")
	out := r.publisher("publish", "/srv/source", "--rollback", "--output", "json")
	refused(t, out, 6, "rolled back from generation 2, as generation 3", hosts[0].ID)
	var o publication
	must(t, json.Unmarshal([]byte(out.Stdout), &o))
	if o.Result != "rolled-back" || o.Generation != 3 || o.OnIt != 2 || o.Total != 2 {
		t.Errorf("%+v", o)
	}
	for _, h := range hosts {
		if got := r.version(h); got != "one" {
			t.Errorf("%s says %q", h.ID, got)
		}
	}
	t.Run("as events", func(t *testing.T) {
		r := r.in(t)
		out := r.publisher("publish", "/srv/source", "--rollback", "--output", "ndjson")
		events := r.events(out.Stdout)
		last := events[len(events)-1]
		if out.Code != 6 || last.Kind != "outcome" || last.Outcome == nil || last.Outcome.Result != "rolled-back" || last.Outcome.Generation != 5 {
			t.Errorf("exit %d, the last event is %+v", out.Code, last)
		}
	})
	t.Run("and one member does not follow", func(t *testing.T) {
		r := r.in(t)
		r.on(hosts[0], "rm /release/ballast")
		r.on(hosts[1], "kill $(cat /run/sshd.pid)")
		out := r.publisher("publish", "/srv/source", "--rollback")
		refused(t, out, 5, "; rolled back, but: converge (P5): generation 7 is committed", hosts[1].ID)
		if got := r.ok("status"); !strings.Contains(got, "generation 7 is current: 1/2 members on it") || !strings.Contains(got, "1 of them are behind: `ebs-release converge` brings them up to date") {
			t.Error(got)
		}
	})
}

func TestDryRunChangesNothing(t *testing.T) {
	r := published(t, nil)
	hosts := r.scale(2)
	r.sh("cd /srv/source && echo two > version && rm start && echo new > added")
	r.unchanged(func() host.Output {
		out := r.publisher("publish", "--dry-run", "/srv/source")
		for _, want := range []string{
			"+ added\n~ version\n- start\n\nINSTANCE ", hosts[0].ID, hosts[1].ID,
			"\n\ndry run: generation 2 would follow 1: 1 added, 1 changed, 1 removed, 8 B to send; 2 members, 2 of them ready; all checks passed, rights by DryRun among them; nothing was changed\n",
		} {
			if !strings.Contains(out.Stdout, want) {
				t.Errorf("%q, want %q in it", out.Stdout, want)
			}
		}
		return out
	}, 0)
	var report struct {
		Schema, Generation, Next int
		Files                    struct{ Added, Changed, Removed []string }
		Members                  []struct{ Standing string }
	}
	must(t, json.Unmarshal([]byte(r.ok("publish", "--dry-run", "/srv/source", "--output", "json")), &report))
	if report.Schema != 1 || report.Next != 2 || len(report.Files.Added) != 1 || len(report.Members) != 2 || report.Members[0].Standing != "current" {
		t.Errorf("%+v", report)
	}
	r.unchanged(func() host.Output { return r.publisher("publish", "--dry-run", "/srv/none") }, 3, "/srv/none")
	r.unchanged(func() host.Output { return r.publisher("publish", "--if-generation", "7", "/srv/source") }, 4, "generation 1, not 7")
	r.ok("publish", "--if-generation", "1", "/srv/source")
}

func TestGCRemovesWhatNobodyNeeds(t *testing.T) {
	r := published(t, nil)
	h := r.scale(1)[0]
	for _, v := range []string{"two", "three", "four"} {
		r.publishAs(v)
	}
	orphan := r.orphan("i-0123456789abcdef0")
	stopped := r.orphan(h.ID) // its instance lives: not ours to judge
	r.sh("mkdir -m 700 /tmp/ebs-release-push-123")

	out := r.ok("gc", "--keep", "2")
	if out != "nothing to remove\n" {
		t.Errorf("within the grace of a day: %s", out)
	}
	r.unchanged(func() host.Output {
		out := r.publisher("gc", "--keep", "2", "--grace", "0s", "--dry-run")
		if !strings.Contains(out.Stdout, "would remove volume "+orphan) || !strings.Contains(out.Stdout, "dry run: 6 things") {
			t.Errorf("%s", out.Stdout)
		}
		return out
	}, 0)
	var report struct {
		Items []struct {
			Kind, ID, Why, Error string
			Removed              bool
		}
	}
	must(t, json.Unmarshal([]byte(r.ok("gc", "--keep", "2", "--grace", "0s", "--output", "json")), &report))
	count := map[string]int{}
	for _, i := range report.Items {
		if !i.Removed || i.Error != "" || i.Why == "" {
			t.Errorf("%+v", i)
		}
		count[i.Kind]++
	}
	if count["tree"] != 2 || count["snapshot"] != 2 || count["volume"] != 1 || count["record"] != 1 {
		t.Errorf("%v: %+v", count, report.Items)
	}
	err := r.lab.Account.Wait(within(t, 10*time.Second), func() bool { return len(r.lab.Account.Snapshots()) == 2 && r.volumeState(orphan) != "available" })
	if err != nil || r.volumeState(stopped) != "available" {
		t.Errorf("%v: %s", err, r.account())
	}
	if n := len(strings.Fields(r.sh("ls /release/releases"))); n != 2 {
		t.Errorf("%d releases are left", n)
	}
	if got := r.ok("gc", "--keep", "2", "--grace", "0s"); got != "nothing to remove\n" {
		t.Errorf("once more: %s", got)
	}
	// The one that removed something is in the history: not the dry run, nor those that found
	// nothing.
	entries := r.history()
	e := entries[0]
	if e.Verb != "gc" || entries[1].Verb == "gc" || e.Result != "done" || e.Committed || e.Generation != 4 || !strings.Contains(e.Who, "@") || time.Since(e.Time) > time.Minute ||
		e.Message != "removed 2 trees, 2 snapshots, 1 volume, 1 record" || len(e.Removed) != 6 || !slices.Contains(e.Removed, "volume "+orphan) {
		t.Errorf("%+v", e)
	}
	// What is left is enough.
	if _, err := r.member(); err != nil {
		t.Error(err)
	}
	var o publication
	must(t, json.Unmarshal([]byte(r.ok("rollback", "--output", "json")), &o))
	if o.Fetched.Packs != 0 || r.version(h) != "three" {
		t.Errorf("%+v, %s", o, r.version(h))
	}
	t.Run("one that is refused", func(t *testing.T) {
		r := r.in(t)
		defer r.lab.Account.Fault(cloud.Fault{Action: "DeleteSnapshot", Effect: cloud.Effect{Fail: cloud.Unauthorized}})()
		r.publishAs("five")
		out := r.publisher("gc", "--keep", "1", "--grace", "0s")
		refused(t, out, 1, "could not be removed", "snap-")
		if !strings.Contains(out.Stdout, "removed tree") || !strings.Contains(out.Stdout, "NOT removed snapshot") {
			t.Error(out.Stdout)
		}
		if e := r.history()[0]; e.Verb != "gc" || e.Result != "failed" || !strings.Contains(e.Error, "could not be removed, such as snapshot snap-") || !strings.HasPrefix(e.Message, "removed 2 trees") {
			t.Errorf("%+v", e)
		}
	})
	t.Run("members that cannot be listed", func(t *testing.T) {
		r := r.in(t)
		defer r.lab.Account.Fault(cloud.Fault{Action: "DescribeAutoScalingGroups", Effect: cloud.Effect{Fail: cloud.Unauthorized}})()
		r.unchanged(func() host.Output { return r.publisher("gc", "--keep", "1", "--grace", "0s") }, 3, "list the members")
	})
}

// history is what `ebs-release history --output json` says, the latest first.
func (r *rig) history() []pointer.Entry {
	r.Helper()
	var h struct{ Entries []pointer.Entry }
	must(r, json.Unmarshal([]byte(r.ok("history", "--output", "json")), &h))
	return h.Entries
}

// orphan makes a volume that says it was made for an instance, and is attached to nothing.
func (r *rig) orphan(instance string) string {
	r.Helper()
	made, err := r.ec2.CreateVolume(within(r, 10*time.Second), &ec2.CreateVolumeInput{
		AvailabilityZone: aws.String(r.lab.Account.Region() + "a"), Size: aws.Int32(1),
		TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeVolume, Tags: []types.Tag{
			{Key: aws.String("ebs-release:role"), Value: aws.String("member")}, {Key: aws.String("ebs-release:instance"), Value: aws.String(instance)},
		}}},
	})
	must(r, err)
	must(r, r.lab.Account.Wait(within(r, 10*time.Second), func() bool { return r.volumeState(*made.VolumeId) == "available" }))
	return *made.VolumeId
}

const slowProgram = "/etc/ebs-release/publish.d/before/50-slow"

// hold runs a publish that stays in P0, with the lock: a program of the operator takes its time.
func (r *rig) hold() (out <-chan host.Output) {
	r.Helper()
	c := make(chan host.Output, 1)
	r.sh("mkdir -p $(dirname " + slowProgram + ") && printf '#!/bin/sh\nexec sleep 60\n' > " + slowProgram + " && chmod 755 " + slowProgram)
	go func() {
		o, _ := r.server.Run(within(r, 60*time.Second), "ebs-release", "publish", "/srv/source")
		c <- o
	}()
	r.sh("for i in $(seq 200); do ebs-release lock status | grep -q held && exit 0; sleep 0.05; done; exit 1")
	return c
}

func TestLockIsHeldAndReleased(t *testing.T) {
	r := published(t, nil)
	r.sh("echo two > /srv/source/version")
	r.orphan("i-0123456789abcdef0")
	out := r.hold()
	if got := r.ok("gc"); got != "nothing to remove\n" {
		t.Errorf("a gc that has nothing to remove needs no lock: %s", got)
	}
	for _, verb := range [][]string{{"gc", "--grace", "0s"}, {"publish", "/srv/source"}, {"rollback"}, {"converge"}, {"publish", "--dry-run", "/srv/source"}} {
		refused(t, r.publisher(verb...), 4, "lock", "held by")
	}
	if got := r.ok("lock", "release"); !strings.Contains(got, "the lock is free; it was held by") {
		t.Error(got)
	}
	o := <-out
	r.sh("rm " + slowProgram)
	if o.Code != 130 || !strings.Contains(lastLine(o.Stderr), "nothing was changed") {
		t.Errorf("the publish ended with %d: %s", o.Code, o.Stderr)
	}
	var ended []string // the publish that was ended, and who ended it: which writes its line first is open
	for _, e := range r.history()[:2] {
		ended = append(ended, e.Verb+" "+e.Result)
		if e.Verb == "lock release" && (!strings.Contains(e.Message, "pid") || !strings.Contains(e.Who, "@")) {
			t.Errorf("%+v", e)
		}
	}
	if slices.Sort(ended); !slices.Equal(ended, []string{"lock release done", "publish interrupted"}) {
		t.Errorf("history: %q", ended)
	}
	if got := r.sh("cat /release/current/version; touch /release/releases/x && rm /release/releases/x"); got != "one" {
		t.Errorf("the release volume says %q", got)
	}
	if got := r.ok("lock", "status"); got != "the lock is free\n" {
		t.Error(got)
	}
	r.publishAs("three")
}

func TestLockOfAStrangerIsLeftAlone(t *testing.T) {
	r := published(t, nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = r.server.Run(within(t, 30*time.Second), "flock", lab.PointerStore+"/.lock", "sh", "-c", "touch /run/held; while [ -e /run/held ]; do sleep 0.05; done")
	}()
	r.sh("for i in $(seq 200); do [ -e /run/held ] && exit 0; sleep 0.05; done; exit 1")
	refused(t, r.publisher("lock", "release"), 4, "no publish on this machine")
	if e := r.history()[0]; e.Verb != "lock release" || e.Result != "conflict" {
		t.Errorf("%+v", e)
	}
	r.sh("[ -e /run/held ] && rm /run/held")
	<-done
}

func TestThawAfterADisaster(t *testing.T) {
	r := published(t, nil)
	if got := r.ok("thaw"); got != "/release was not frozen\n" || r.history()[0].Verb != "publish" {
		t.Error(got)
	}
	r.sh("fsfreeze --freeze /release")
	if got := r.ok("thaw"); got != "/release was frozen, and can be written to again\n" {
		t.Error(got)
	}
	r.sh("touch /release/releases/x && rm /release/releases/x")
	if e := r.history()[0]; e.Verb != "thaw" || e.Result != "done" || e.Message != "/release was frozen" || !strings.Contains(e.Who, "@") {
		t.Errorf("%+v", e)
	}
	refused(t, r.publisher("thaw", "--mount-point", "/not/there"), 3, "nothing is mounted at /not/there")
	r.sh("mkdir -m 0555 /bare")
	refused(t, r.publisher("thaw", "--mount-point", "/bare"), 3, "nothing is mounted at /bare")
}

// TestFrozenVolumeHangsNobody: some killed tool left /release frozen. Whoever would write to it
// says so, with the next step, and leaves nothing behind.
func TestFrozenVolumeHangsNobody(t *testing.T) {
	r := published(t, nil)
	r.publishAs("two")
	tree := r.sh("ls -A /release /release/releases")
	defer func() { // in case the test fails: nothing else would end the probes
		_, _ = r.server.Run(context.WithoutCancel(t.Context()), "ebs-release", "thaw")
	}()
	r.sh("fsfreeze --freeze /release")
	diagnosis := make(chan host.Output, 1)
	go func() { // doctor needs no lock
		out, _ := r.server.Run(within(t, 60*time.Second), "ebs-release", "doctor")
		diagnosis <- out
	}()
	for _, verb := range [][]string{{"publish", "/srv/source"}, {"gc", "--grace", "0s"}} {
		refused(t, r.publisher(verb...), 3, "/release seems to be frozen", "Run `ebs-release thaw`")
	}
	out := <-diagnosis
	refused(t, out, 1, "checks failed")
	if !strings.Contains(out.Stdout, "FAIL  release volume: /release seems to be frozen") || !strings.Contains(out.Stdout, "Run `ebs-release thaw`") {
		t.Error(out.Stdout)
	}
	if got := r.ok("thaw"); got != "/release was frozen, and can be written to again\n" {
		t.Error(got)
	}
	r.sh("for i in $(seq 200); do grep -qs '[t]ry-write' /proc/[0-9]*/cmdline || exit 0; sleep 0.05; done; echo a probe is left >&2; exit 1")
	if after := r.sh("ls -A /release /release/releases"); after != tree {
		t.Errorf("%s\nwas %s", after, tree)
	}
	r.ok("doctor")
	r.publishAs("three")
}

func TestVerifyFindsADamagedMember(t *testing.T) {
	r := published(t, nil)
	hosts := r.scale(2)
	if got := r.ok("verify", "--all"); !strings.HasSuffix(got, "2 members, 6 files read\n") {
		t.Error(got)
	}
	bad, fine := hosts[0], hosts[1]
	r.on(bad, "f=/release/current/data; m=$(stat -c %y $f); printf X | dd of=$f bs=1 seek=99 conv=notrunc status=none; touch -d \"$m\" $f")
	r.ok("verify", fine.ID)
	out := r.publisher("verify", fine.ID, bad.ID)
	refused(t, out, 1, "1 of 2 members", bad.ID)
	if !strings.Contains(out.Stdout, fine.ID+"  ok") || !strings.Contains(out.Stdout, bad.ID+"  FAIL") || !strings.Contains(out.Stdout, "data: its content has another sha256") {
		t.Error(out.Stdout)
	}
	refused(t, r.publisher("verify", "i-0123456789abcdef0"), 2, "i-0123456789abcdef0 is no member")
	r.on(bad, "kill $(cat /run/sshd.pid)")
	out = r.publisher("verify", bad.ID, "--output", "json")
	refused(t, out, 1, bad.ID)
	if !strings.Contains(out.Stdout, "not reachable by ssh") {
		t.Error(out.Stdout)
	}
}

func TestDoctor(t *testing.T) {
	r := published(t, nil)
	h := r.scale(1)[0]
	type diagnosis struct {
		Schema, Failed, Warned int
		Checks                 []struct{ Name, State, Says, Try string }
	}
	examine := func(r *rig, code int) (found diagnosis, verdicts map[string]string) {
		r.Helper()
		var out host.Output
		r.unchanged(func() host.Output { out = r.publisher("doctor", "--output", "json"); return out }, code)
		must(r, json.Unmarshal([]byte(out.Stdout), &found))
		verdicts = map[string]string{}
		for _, c := range found.Checks {
			verdicts[c.Name] = strings.TrimSuffix(c.State+" "+c.Says+". Try: "+c.Try, ". Try: ")
		}
		return found, verdicts
	}
	found, verdicts := examine(r, 0)
	if found.Schema != 1 || found.Failed != 0 || found.Warned != 0 || len(found.Checks) < 18 {
		t.Errorf("%+v", found)
	}
	if verdicts["ssh to the members"] != "ok 1 of 1" {
		t.Errorf("%v", verdicts)
	}
	if got := r.ok("doctor"); !strings.Contains(got, "\nok    right to delete snapshots\n") {
		t.Error(got)
	}
	for _, tc := range []struct {
		name, action, check string
		code                int
		want                string
	}{
		{"no right to make snapshots", "CreateSnapshot", "rights by DryRun", 1, "FAIL"},
		{"no right to delete snapshots", "DeleteSnapshot", "right to delete snapshots", 1, "FAIL"},
		{"no right to see members", "DescribeAutoScalingGroups", "members", 1, "FAIL"},
		{"no right to delete volumes", "DeleteVolume", "rights on members' volumes", 0, "warn"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := r.in(t)
			defer r.lab.Account.Fault(cloud.Fault{Action: tc.action, Principal: r.server.ID, Effect: cloud.Effect{Fail: cloud.Unauthorized}})()
			if _, verdicts := examine(r, tc.code); !strings.HasPrefix(verdicts[tc.check], tc.want) || !strings.Contains(verdicts[tc.check], tc.action) && tc.check != "members" {
				t.Errorf("%s: %q", tc.check, verdicts[tc.check])
			}
		})
	}
	t.Run("no member can be reached", func(t *testing.T) {
		r := r.in(t)
		r.on(h, "kill $(cat /run/sshd.pid)")
		if _, verdicts := examine(r, 1); !strings.HasPrefix(verdicts["ssh to the members"], "FAIL none of 1") {
			t.Errorf("%q", verdicts["ssh to the members"])
		}
	})
	t.Run("the snapshot is gone", func(t *testing.T) {
		r := r.in(t)
		r.deleteSnapshot(r.sh("cat " + lab.PointerStore + "/snap.txt"))
		if _, verdicts := examine(r, 1); !strings.Contains(verdicts["snapshot of the pointer"], ". Try: ebs-release publish /release/releases/") {
			t.Errorf("%q", verdicts["snapshot of the pointer"])
		}
	})
}

func TestDoctorNamesTheCauseAndNotWhatFollowsFromIt(t *testing.T) {
	r := newRig(t, nil)
	failed := func(out host.Output) (lines []string) {
		for _, line := range strings.Split(out.Stdout, "\n") {
			if strings.HasPrefix(line, "FAIL") {
				lines = append(lines, line)
			}
		}
		return lines
	}
	out := r.publisher("doctor")
	if got := failed(out); out.Code != 1 || len(got) != 1 || !strings.Contains(got[0], "ebs-release init") {
		t.Errorf("before init: exit %d, %q", out.Code, got)
	}
	r.ok("init", "--size", "1")
	r.ok("doctor")
	// Off EC2, or without a role: everything on this machine is looked at all the same.
	out, _ = r.server.Run(within(t, 60*time.Second), "env", "AWS_EC2_METADATA_DISABLED=true", "AWS_REGION=us-east-1", "ebs-release", "doctor")
	if got := failed(out); out.Code != 1 || len(got) != 1 || !strings.Contains(got[0], "FAIL  account: there are no AWS credentials") ||
		!strings.Contains(out.Stdout, "ok    disk space") || !strings.Contains(out.Stdout, "warn  members: not checked: see account") {
		t.Errorf("without credentials: exit %d\n%s", out.Code, out.Stdout)
	}
}

func TestAnotherUserIDOnMembersIsNamed(t *testing.T) {
	r := published(t, nil)
	h := r.scale(1)[0]
	r.on(h, "chown -R 61300:61300 /release")
	r.sh("echo two > /srv/source/version")
	refused(t, r.publisher("publish", "/srv/source"), 3, "belongs to user id 61300", "has the id 61200", "ssh-user needs the same id")
}

func TestStatusWatchShowsWhatChanges(t *testing.T) {
	r := published(t, nil)
	r.scale(1)
	out := make(chan host.Output, 1)
	go func() {
		o, _ := r.server.Run(within(t, 60*time.Second), "sh", "-c", "echo $$ > /run/watch.pid; exec ebs-release status --live --interval 1s > /run/watch")
		out <- o
	}()
	shows := func(r *rig, what string) {
		r.Helper()
		r.sh("for i in $(seq 400); do grep -qsF '" + what + "' /run/watch && exit 0; sleep 0.05; done; cat /run/watch; exit 1")
	}
	shows(r, "generation 1 is current: 1/1 members on it")
	r.publishAs("two")
	shows(r, "generation 2 is current: 1/1 members on it")
	r.sh("kill -INT $(cat /run/watch.pid)")
	if o := <-out; o.Code != 0 || o.Stderr != "" {
		t.Errorf("exit %d: %s", o.Code, o.Stderr)
	}
}
