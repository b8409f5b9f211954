package e2e

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/host"
	"ebs-release/internal/pointer"
)

// frozenAtMost is how long writers to /release may ever wait: the guard's limit and a second.
const frozenAtMost = 11 * time.Second

// crashRig is a lab for publishers that are killed: one member, a tiny tree.
func crashRig(t *testing.T) *rig {
	t.Helper()
	r := published(t, func(o *lab.Options) {
		o.PublisherSettings["settle"] = "50ms"
		o.PublisherSettings["keep"] = "3"
	})
	r.sh("cd /srv/source && rm data && echo same > same")
	r.scale(1)
	r.leaves = true // what a killed publish has asked for, the next one names
	return r
}

// publisherCrash is a point at which the publisher is killed.
type publisherCrash struct {
	kind   string // of the effect
	effect int    // before this effect, from 1; 0: it is a call
	call   int    // at this call to EC2 or to the metadata service, from 0
	after  bool   // the call took effect, but the answer did not come
}

func (c publisherCrash) String() string {
	if c.effect > 0 {
		return fmt.Sprintf("before effect %d: %s", c.effect, c.kind)
	}
	return fmt.Sprintf("at call %d: %s", c.call, c.kind)
}

// The matrix takes every kind of effect, at its first occurrence, and of those that come again a
// sample.
const (
	publisherCrashSeed = 20261123
	publisherCrashLabs = 2  // side by side: what one waits for, another uses
	publisherCrashMost = 50 // points per lab
)

// TestPublisherCrashMatrix kills the publisher with SIGKILL before each of its effects: calls to
// EC2 and the metadata service (those that change something also after their effect, with the
// answer lost), children that it starts, freeze and thaw, and all that it changes on /release and
// in the pointer store. After each of them: /release can be written to within 11 s, the pointer is
// the old one or the new one, whole, and names a snapshot that is there; and the next publish of
// the same source ends well, on the member, too.
func TestPublisherCrashMatrix(t *testing.T) {
	t.Parallel()
	started := time.Now()
	var mu sync.Mutex
	points, recorded, missed, kinds := 0, 0, 0, map[string]bool{}
	t.Run("labs", func(t *testing.T) {
		for n := range publisherCrashLabs {
			t.Run(strconv.Itoa(n), func(t *testing.T) {
				r := crashRig(t)
				all := r.recordPublisherCrashes()
				mine := sampleCrashes(all, n)
				for i, c := range mine {
					reached, err := r.crashPublisher(c, fmt.Sprintf("lab %d round %d", n, i))
					if err != nil {
						t.Errorf("killed %v: %v", c, err)
					}
					mu.Lock()
					points++
					if !reached {
						missed++
					}
					kinds[c.kind] = true
					mu.Unlock()
					if t.Failed() {
						return
					}
				}
				r.allSnapshotsAreKnown()
				mu.Lock()
				recorded = max(recorded, len(all))
				mu.Unlock()
			})
		}
	})
	if missed > points/10 { // threads make two runs differ by an effect or two
		t.Errorf("%d of %d crash points were not reached", missed, points)
	}
	fmt.Printf("crash matrix: %d crash points\n", points)
	t.Logf("crash matrix: %d crash points of %d recorded, all %d kinds of effects, seed %d, %d beyond the end of their run, %v",
		points, recorded, len(kinds), publisherCrashSeed, missed, time.Since(started).Round(time.Second))
}

// sampleCrashes are the points of one lab: each kind belongs to one of them.
func sampleCrashes(all []publisherCrash, lab int) []publisherCrash {
	var first, again []publisherCrash
	seen := map[string]bool{}
	for _, c := range all {
		sum := fnv.New32a()
		sum.Write([]byte(c.kind))
		switch {
		case int(sum.Sum32()%publisherCrashLabs) != lab:
		case !seen[c.kind]:
			seen[c.kind] = true
			first = append(first, c)
		default:
			again = append(again, c)
		}
	}
	rng := rand.New(rand.NewPCG(publisherCrashSeed, uint64(lab)))
	rng.Shuffle(len(again), func(i, j int) { again[i], again[j] = again[j], again[i] })
	return append(first, again[:max(0, min(len(again), publisherCrashMost-len(first)))]...)
}

// recordPublisherCrashes finds the points by recording a publish.
func (r *rig) recordPublisherCrashes() (points []publisherCrash) {
	r.Helper()
	r.sh("echo recorded > /srv/source/version")
	before := len(r.lab.Account.Calls())
	trace := publisherTracer(0)
	out := r.tracedPublish(trace)
	if out.Code != 0 {
		r.Fatalf("the recorded publish: exit %d\n%s", out.Code, out.Stderr)
	}
	for i, effect := range trace.seen {
		points = append(points, publisherCrash{kind: effectKind(effect), effect: i + 1})
	}
	n := 0
	for _, c := range r.lab.Account.Calls()[before:] {
		if c.Principal != r.server.ID {
			continue
		}
		points = append(points, publisherCrash{kind: "call " + c.Service + " " + c.Action, call: n})
		if c.Mutates && !c.DryRun {
			points = append(points, publisherCrash{kind: "answer lost " + c.Service + " " + c.Action, call: n, after: true})
		}
		n++
	}
	if n < 5 || len(points)-n < 30 {
		r.Fatalf("only %d calls and %d points were recorded", n, len(points))
	}
	return points
}

// tracedPublish follows a publish, and waits for what that leaves running.
func (r *rig) tracedPublish(trace *tracer) host.Output {
	r.Helper()
	s := &supervised{host: r.server, start: trace.attach}
	out := s.run(within(r, 60*time.Second), host.Command{Argv: []string{"ebs-release", "publish", "/srv/source", "--wait-snapshot"}})
	must(r, <-trace.done)
	return out.Output
}

// killablePublish runs a publish that kill kills.
func (r *rig) killablePublish() host.Output {
	r.Helper()
	// With a shell above: nsenter would stop when the publisher is stopped.
	out, _ := r.server.Run(within(r, 90*time.Second), "sh", "-c", "sh -c 'echo $$ > /run/publisher.pid; exec ebs-release publish /srv/source --wait-snapshot'; exit $?")
	return out
}

// signalPublisher sends a signal to the publish that runs.
func (r *rig) signalPublisher(signal string) {
	// Background: it is called out of requests, also while the test fails.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := r.server.Run(ctx, "sh", "-c", "kill -"+signal+" $(cat /run/publisher.pid)"); err != nil {
		r.Error(err)
	}
}

// crashPublisher kills a publish and checks what must hold from then on. reached: it did not end
// before.
func (r *rig) crashPublisher(c publisherCrash, version string) (reached bool, err error) {
	r.Helper()
	before := r.pointerNow()
	r.sh("echo '" + version + "' > /srv/source/version")
	var out host.Output
	var killed time.Time
	if c.effect > 0 {
		trace := publisherTracer(c.effect)
		out = r.tracedPublish(trace)
		killed = trace.killed
	} else {
		disarm := r.lab.Account.Fault(cloud.Fault{
			Principal: r.server.ID, Skip: c.call, Times: 1,
			Effect: cloud.Effect{Do: func(cloud.Call) { r.signalPublisher("KILL") }, Fail: cloud.Reset, After: c.after},
		})
		out = r.killablePublish()
		disarm()
		killed = time.Now()
	}
	reached = out.Code != 0
	if reached && out.Code != 128+9 && out.Code != -1 {
		return reached, fmt.Errorf("it was to be killed, and ended with exit %d: %s", out.Code, out.Stderr)
	}
	err = r.writable()
	if waited := time.Since(killed); err != nil || reached && waited > frozenAtMost {
		return reached, fmt.Errorf("/release cannot be written to after %v: %w", waited, err)
	}
	if err := r.pointerIsOneOf(before, version); err != nil {
		return reached, err
	}
	if again := r.publisher("publish", "/srv/source"); again.Code != 0 {
		return reached, fmt.Errorf("the next publish: exit %d\n%s", again.Code, again.Stderr)
	}
	after := r.pointerNow()
	if after.Generation <= before.Generation {
		return reached, fmt.Errorf("generation %d after %d", after.Generation, before.Generation)
	}
	for _, h := range r.lab.Hosts() {
		got, err := os.ReadFile(h.Path("/release/" + r.current(h) + "/version"))
		if err != nil || strings.TrimSpace(string(got)) != version {
			return reached, fmt.Errorf("%s has version %q after the next publish, want %q (%w)", h.ID, got, version, err)
		}
	}
	if left := r.sh("ls -A /release/releases /release/.ebs-release " + lab.PointerStore); strings.Contains(left, "partial") || strings.Contains(left, ".staged") {
		return reached, fmt.Errorf("left on the release volume after the next publish: %q", left)
	}
	return reached, nil
}

// current is where /release/current of a host leads to, looked at from outside.
func (r *rig) current(h *host.Host) string {
	target, err := os.Readlink(h.Path("/release/current"))
	if err != nil {
		r.Error(err)
	}
	return target
}

// writable writes to the release volume.
func (r *rig) writable() error {
	_, err := r.server.Run(within(r, 2*frozenAtMost), "sh", "-c", "echo x > /release/releases/.writable && rm /release/releases/.writable")
	return err
}

// pointerIsOneOf says what is wrong with the pointer after a crash: it has to be the one from
// before, or a whole new one that names a completed snapshot.
func (r *rig) pointerIsOneOf(before pointer.Pointer, version string) error {
	data, err := os.ReadFile(r.server.Path(lab.PointerStore + "/release.json"))
	if err != nil {
		return err
	}
	p, err := pointer.Parse(data)
	if err != nil {
		return fmt.Errorf("the pointer is torn: %w", err)
	}
	line, err := os.ReadFile(r.server.Path(lab.PointerStore + "/snap.txt"))
	if err != nil {
		return err
	}
	region := r.lab.Account.Region()
	// The commit may name one that was completed since, and P6 another: killed after that, snap.txt
	// has the first.
	if plain := strings.TrimSpace(string(line)); plain != p.Snapshots[region] && plain != before.Snapshots[region] && !r.usable(plain) {
		return fmt.Errorf("snap.txt says %q, the pointer %s", line, p.Snapshots[region])
	}
	if p.Generation == before.Generation {
		if p.Digest != before.Digest || p.Snapshots[region] != before.Snapshots[region] {
			return fmt.Errorf("the pointer changed within generation %d: %+v, it was %+v", p.Generation, p, before)
		}
		return nil
	}
	if p.Generation < before.Generation {
		return fmt.Errorf("the pointer went from generation %d to %d", before.Generation, p.Generation)
	}
	if got, err := os.ReadFile(r.server.Path("/release/releases/" + p.Release + "/version")); err != nil || strings.TrimSpace(string(got)) != version {
		return fmt.Errorf("the new pointer names release %s with version %q (%w)", p.Release, got, err)
	}
	if !r.usable(p.Snapshots[region]) {
		return fmt.Errorf("the new pointer names %s, which is not there or not completed", p.Snapshots[region])
	}
	return nil
}

// usable says that a snapshot is there and completed.
func (r *rig) usable(id string) bool {
	return slices.ContainsFunc(r.lab.Account.Snapshots(), func(s cloud.Snapshot) bool { return s.ID == id && s.State == "completed" })
}

// allSnapshotsAreKnown: what a crash left behind has the tags by which gc finds it.
func (r *rig) allSnapshotsAreKnown() {
	r.Helper()
	for _, s := range r.lab.Account.Snapshots() {
		if s.Tags["ebs-release:role"] != "release" || s.Tags["ebs-release:generation"] == "" {
			r.Errorf("nobody knows snapshot %s: %v", s.ID, s.Tags)
		}
	}
}

// gaps writes to the release volume all the time until stop, which says how long a write took at
// most.
func (r *rig) gaps() (stop func() time.Duration) {
	r.Helper()
	r.sh("touch /run/probing")
	worst := make(chan time.Duration, 1)
	ctx := within(r, 3*time.Minute)
	go func() { // ends with stop, or with ctx
		out, err := r.server.Run(ctx, "bash", "-c", `worst=0; while [ -e /run/probing ]; do
start=${EPOCHREALTIME/./}; echo x > /release/releases/.probe; took=$(( ${EPOCHREALTIME/./} - start )); (( took > worst )) && worst=$took; sleep 0.05
done; rm /release/releases/.probe; echo $worst`)
		micros, parseErr := strconv.ParseInt(strings.TrimSpace(out.Stdout), 10, 64)
		if err != nil || parseErr != nil {
			r.Errorf("probe: %v %v", err, parseErr)
			micros = int64(time.Hour / time.Microsecond)
		}
		worst <- time.Duration(micros) * time.Microsecond
	}()
	return func() time.Duration {
		r.Helper()
		r.sh("rm /run/probing")
		return <-worst
	}
}

// realCreateSnapshot matches the request while frozen: two DryRuns come before it.
func (r *rig) realCreateSnapshot(e cloud.Effect) (disarm func()) {
	return r.lab.Account.Fault(cloud.Fault{Action: "CreateSnapshot", Principal: r.server.ID, Skip: 2, Times: 1, Effect: e})
}

func TestHungCreateSnapshotDoesNotKeepReleaseFrozen(t *testing.T) {
	r := crashRig(t)
	r.sh("echo two > /srv/source/version")
	disarm := r.realCreateSnapshot(cloud.Effect{Fail: cloud.Hang})
	defer disarm()
	stop := r.gaps()
	out := r.killablePublish()
	if worst := stop(); worst > frozenAtMost || worst < time.Second {
		t.Errorf("a write took %v", worst)
	} else {
		t.Logf("the longest write took %v", worst)
	}
	if out.Code != 0 || !strings.Contains(out.Stderr, "another freeze") || r.pointerNow().Generation != 2 {
		t.Errorf("exit %d\n%s", out.Code, out.Stderr)
	}
	r.allSnapshotsAreKnown()
}

func TestSnapshotWhoseAnswerCameTooLateIsDeleted(t *testing.T) {
	r := crashRig(t)
	r.sh("echo two > /srv/source/version")
	disarm := r.realCreateSnapshot(cloud.Effect{Fail: cloud.Hang, After: true})
	defer disarm()
	out := r.killablePublish()
	if out.Code != 0 {
		t.Fatalf("exit %d\n%s", out.Code, out.Stderr)
	}
	r.ok("publish", "/srv/source")
	if n := len(r.lab.Account.Snapshots()); n != 3 {
		t.Errorf("%d snapshots for 3 generations: %+v", n, r.lab.Account.Snapshots())
	}
}

func TestStoppedPublisherDoesNotKeepReleaseFrozen(t *testing.T) {
	r := crashRig(t)
	r.sh("echo two > /srv/source/version")
	stopped := make(chan struct{})
	disarm := r.realCreateSnapshot(cloud.Effect{Do: func(cloud.Call) { r.signalPublisher("STOP"); close(stopped) }, Fail: cloud.Hang})
	defer disarm()
	before := r.pointerNow()
	stop := r.gaps()
	done := make(chan host.Output, 1)
	go func() { done <- r.killablePublish() }() // ends with the signals below
	<-stopped
	start := time.Now()
	if err := r.writable(); err != nil || time.Since(start) > frozenAtMost {
		t.Errorf("/release cannot be written to after %v: %v", time.Since(start), err)
	}
	r.signalPublisher("KILL")
	<-done
	if worst := stop(); worst > frozenAtMost || worst < 5*time.Second {
		t.Errorf("a write took %v", worst)
	} else {
		t.Logf("the longest write took %v", worst)
	}
	if err := r.pointerIsOneOf(before, "two"); err != nil {
		t.Error(err)
	}
	r.ok("publish", "/srv/source")
}

func TestFullPointerStoreKeepsThePointer(t *testing.T) {
	r := crashRig(t)
	store := lab.PointerStore
	r.sh("mkdir /run/store && cp -a " + store + "/. /run/store && mount -t tmpfs -o size=64k tmpfs " + store + " && cp -a /run/store/. " + store)
	before := r.pointerNow()
	r.sh("echo two > /srv/source/version; dd if=/dev/zero of=" + store + "/ballast bs=1k status=none || true")
	out := r.publisher("publish", "/srv/source")
	refused(t, out, 3, "no space left")
	if err := r.pointerIsOneOf(before, "two"); err != nil || r.pointerNow().Generation != before.Generation {
		t.Errorf("%v, generation %d, it was %d", err, r.pointerNow().Generation, before.Generation)
	}
	must(t, r.writable())
	r.sh("rm " + store + "/ballast")
	r.ok("publish", "/srv/source")
}
