package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ebs-release/internal/lab/bucket"
	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/host"
)

// The matrix takes every pointer write of a rollout, each kind of effect between two of them at its
// first occurrence, and of the others a sample, up to this many in a lab.
const rolloutCrashMost = 22

// TestRolloutCrashMatrix kills the publisher with SIGKILL before effects of a rollout, from its
// first write of the pointer on: in one that comes through, and in one that goes back; by ssh and
// by follow; and with a store in S3 before and after each write of the pointer there. After each,
// what ebs-release-rollout.service runs ends it: no rollout is open, and every member is on the
// pointer's generation and release.
func TestRolloutCrashMatrix(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	points, missed := 0, 0
	t.Run("labs", func(t *testing.T) {
		for _, x := range []struct{ bad, follow, inS3 bool }{{}, {bad: true}, {follow: true}, {bad: true, follow: true}, {follow: true, inS3: true}, {true, true, true}} {
			t.Run(fmt.Sprintf("bad %v, follow %v, S3 %v", x.bad, x.follow, x.inS3), func(t *testing.T) {
				r, members := fleetOf(t, 2, x.follow, x.inS3)
				r.leaves = true
				if x.bad {
					r.sh("touch /srv/source/bad")
				}
				var chosen []rolloutCrash
				if x.inS3 {
					chosen = writesInS3()
				} else {
					chosen = sampleRollout(r.recordRollout(), x.bad, x.follow)
				}
				for i, c := range chosen {
					reached := r.crashRollout(members, c, fmt.Sprintf("%v-%d", x, i))
					if t.Failed() {
						return
					}
					if x.inS3 && !reached {
						if i < 6 { // one that goes back has three writes
							t.Errorf("only %d crash points were reached", i)
						}
						return
					}
					mu.Lock()
					points++
					if !reached {
						missed++
					}
					mu.Unlock()
				}
			})
		}
	})
	if missed > points/3 { // how often a driver looks differs from run to run
		t.Errorf("%d of %d crash points were not reached", missed, points)
	}
	fmt.Printf("rollout crash matrix: %d crash points\n", points)
}

// writesInS3 are all that a rollout may have: the first that is not reached is the end of them.
func writesInS3() (all []rolloutCrash) {
	for n := range 12 {
		for _, after := range []bool{false, true} {
			all = append(all, rolloutCrash{kind: fmt.Sprintf("write %d of the pointer in S3, after it %v", n+1, after), writes: n, after: after})
		}
	}
	return all
}

// rolloutArgs are a rollout of two steps.
var rolloutArgs = []string{"ebs-release", "publish", "/srv/source", "--no-snapshot", "--steps", "1", "--gate", "true"}

// rolloutCrash is the effect before which it is killed, from 1.
type rolloutCrash struct {
	effect int
	kind   string // with how many pointer writes were before it

	writes int  // without an effect: so many writes of the pointer in S3 come first
	after  bool // it is killed when the write is there
}

// recordRollout finds the points by recording a rollout.
func (r *rig) recordRollout() (points []rolloutCrash) {
	r.Helper()
	r.sh("echo recorded > /srv/source/version")
	trace := publisherTracer(0)
	out := r.tracedRollout(trace)
	if out.Code != 0 && out.Code != 6 {
		r.Fatalf("the recorded rollout: exit %d\n%s", out.Code, out.Stderr)
	}
	writes := 0
	for i, effect := range trace.seen {
		kind := effectKind(effect)
		moves := strings.HasSuffix(effect, "/release.json") && (strings.HasPrefix(effect, "rename") || strings.HasPrefix(effect, "link"))
		if moves {
			kind = "the pointer is written"
		}
		if moves || writes > 0 {
			points = append(points, rolloutCrash{effect: i + 1, kind: fmt.Sprintf("%s, after %d writes of the pointer", kind, writes)})
		}
		if moves {
			writes++
		}
	}
	if writes < 3 || len(points) < 30 {
		r.Fatalf("only %d writes and %d points were recorded: %q", writes, len(points), trace.seen)
	}
	return points
}

func sampleRollout(all []rolloutCrash, bad, follow bool) (chosen []rolloutCrash) {
	seen := map[string]bool{}
	var first, rest []rolloutCrash
	for _, c := range all {
		switch {
		case strings.HasPrefix(c.kind, "the pointer is written"):
			chosen = append(chosen, c)
		case !seen[c.kind]:
			first = append(first, c)
		default:
			rest = append(rest, c)
		}
		seen[c.kind] = true
	}
	seed := uint64(1)
	if bad {
		seed = 2
	}
	most := rolloutCrashMost
	if follow { // as long as its members look
		seed += 2
		most /= 2
	}
	rng := rand.New(rand.NewPCG(publisherCrashSeed, seed))
	rng.Shuffle(len(first), func(i, j int) { first[i], first[j] = first[j], first[i] })
	rng.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
	chosen = slices.Concat(chosen, first, rest)
	return chosen[:min(len(chosen), most)]
}

func (r *rig) tracedRollout(trace *tracer) host.Output {
	r.Helper()
	s := &supervised{host: r.server, start: trace.attach}
	out := s.run(within(r, 90*time.Second), host.Command{Argv: rolloutArgs})
	must(r, <-trace.done)
	return out.Output
}

// rolloutInS3 runs one that is killed at a write of the pointer.
func (r *rig) rolloutInS3(c rolloutCrash) host.Output {
	r.Helper()
	defer r.lab.Account.Fault(cloud.Fault{
		Action: "PutObject", Principal: r.server.ID, Resource: bucket.Prefix + "/release.json", Skip: c.writes, Times: 1,
		Effect: cloud.Effect{Do: func(cloud.Call) { r.signalPublisher("KILL") }, Fail: cloud.Reset, After: c.after},
	})()
	command := "echo $$ > /run/publisher.pid; exec " + strings.Join(rolloutArgs, " ")
	out, _ := r.server.Run(within(r, 90*time.Second), "sh", "-c", "sh -c '"+command+"'; exit $?")
	return out
}

// crashRollout kills one, has the service's verb end it, and looks at all members.
func (r *rig) crashRollout(members []*host.Host, c rolloutCrash, version string) (reached bool) {
	r.Helper()
	r.sh("echo '" + version + "' > /srv/source/version")
	var out host.Output
	if c.effect > 0 {
		out = r.tracedRollout(publisherTracer(c.effect))
	} else {
		out = r.rolloutInS3(c)
	}
	reached = out.Code == 128+9 || out.Code == -1
	if !reached && out.Code != 0 && out.Code != 6 {
		r.Errorf("killed before effect %d, %s: it ended with exit %d: %s", c.effect, c.kind, out.Code, out.Stderr)
	}
	again := r.publisher("rollout", "carry-on", "--force")
	if again.Code != 0 && again.Code != 6 {
		r.Errorf("killed before effect %d, %s: carry-on: exit %d\n%s%s", c.effect, c.kind, again.Code, again.Stdout, again.Stderr)
		return reached
	}
	var s struct {
		Generation int64
		Release    string
		Rollout    any
		Members    []struct {
			InstanceID string `json:"instance_id"`
			Standing   string
			Generation int64
			Release    string
		}
	}
	must(r, json.Unmarshal([]byte(r.ok("status", "--output", "json")), &s))
	if s.Rollout != nil || len(s.Members) != len(members) {
		r.Errorf("killed before effect %d, %s: the rollout is open, or members are missing: %+v\n%s", c.effect, c.kind, s, again.Stderr)
	}
	for _, m := range s.Members {
		if m.Standing != "current" || m.Generation != s.Generation || m.Release != s.Release {
			r.Errorf("killed before effect %d, %s: a member is stranded: %+v, the pointer is at %d, %s\n%s%s",
				c.effect, c.kind, m, s.Generation, s.Release, again.Stdout, again.Stderr)
		}
	}
	for _, h := range members {
		if target := r.current(h); !strings.HasSuffix(target, s.Release) {
			r.Errorf("killed before effect %d, %s: %s serves %s", c.effect, c.kind, h.ID, target)
		}
	}
	return reached
}
