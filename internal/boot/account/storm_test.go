package account

import (
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ebs-release/internal/lab/cloud"
)

// storm is what came of a number of instances that booted at the same moment.
type storm struct {
	took   []time.Duration // until ready, sorted
	failed map[string]int  // boots, by cause
	calls  map[string]int  // of AWS by members, by action
	over   map[string]int  // of these, refused for a request limit
	peak   int             // requests to the pointer's server within a second
	listed []listing       // what a publisher saw of it meanwhile
}

// listing is one look of a publisher at all members.
type listing struct {
	took time.Duration
	err  error
}

func (s storm) at(share float64) time.Duration {
	if len(s.took) == 0 {
		return 0
	}
	return s.took[min(int(share*float64(len(s.took))), len(s.took)-1)]
}

func (s storm) String() string {
	var calls []string
	for _, name := range slices.Sorted(maps.Keys(s.calls)) {
		calls = append(calls, fmt.Sprintf("%s %d (%d of them refused)", name, s.calls[name], s.over[name]))
	}
	return fmt.Sprintf("%d ready, half after %.1f s, 99 %% %.1f s, the last %.1f s; %d failed; "+
		"longest listing %.1f s; at most %d requests a second for pointer and packs; %s",
		len(s.took), s.at(0.5).Seconds(), s.at(0.99).Seconds(), s.at(1).Seconds(), sum(s.failed), s.longest().Seconds(), s.peak, strings.Join(calls, ", "))
}

func sum(counts map[string]int) (n int) {
	for _, c := range counts {
		n += c
	}
	return n
}

// longest is how long the publisher's slowest listing took; 0: the storm was over before one ended.
func (s storm) longest() (longest time.Duration) {
	for _, l := range s.listed {
		longest = max(longest, l.took)
	}
	return longest
}

// floor is how long the request limits take for so many members. One with a volume of its own needs
// a call of each kind (CreateVolume with tags spends no CreateTags); one with a volume that EC2
// brought needs a tag where reports are tags, and else nothing.
func floor(members int, inS3, brought bool) (longest time.Duration) {
	limits := cloud.AWSLimits()
	buckets := []cloud.Bucket{limits.Actions["CreateVolume"], limits.Write, limits.Actions["CreateTags"], limits.Read}
	switch {
	case brought && inS3:
		buckets = nil
	case brought:
		buckets = []cloud.Bucket{limits.Actions["CreateTags"]}
	}
	for _, b := range buckets {
		waits := max(0, float64(members)-b.Capacity) / b.PerSecond
		longest = max(longest, time.Duration(waits*float64(time.Second)))
	}
	return longest
}

// TestStorm: 1,000 instances boot at the same moment in an account with AWS's published request
// limits, in made-up time. None fails, and the last one is ready within 1.2 times what the limits
// take, or, where that is less, one pause later; a publisher that lists the members meanwhile gets
// its turn.
func TestStorm(t *testing.T) {
	members := 1000
	if testing.Short() {
		members = 150
	}
	for name, c := range map[string]struct{ inS3, brought bool }{
		"own volumes, reports are tags":        {},
		"own volumes, reports are objects":     {inS3: true},
		"brought volumes, reports are tags":    {brought: true},
		"brought volumes, reports are objects": {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := strike(t, members, c.inS3, c.brought)
			floor, least := floor(members, c.inS3, c.brought), small
			if c.brought {
				least = floor + pause + time.Second // for what it does beside
			}
			t.Logf("floor %.1f s: %s", floor.Seconds(), s)
			for cause, n := range s.failed {
				t.Errorf("%d failed: %s", n, cause)
			}
			if most := max(floor*6/5, least); len(s.took) != members || s.at(1) > most {
				t.Errorf("%d of %d are ready, the last after %v, want %v", len(s.took), members, s.at(1), most)
			}
			for _, l := range s.listed {
				if l.err != nil {
					t.Errorf("the publisher's listing failed after %v: %v", l.took, l.err)
				}
			}
			for _, action := range []string{"DescribeVolumes", "DescribeSnapshots", "CreateVolume", "AttachVolume", "ModifyInstanceAttribute"} {
				if n := s.calls[action]; c.brought && n > 0 {
					t.Errorf("members with a volume that EC2 brought called %s %d times", action, n)
				}
			}
			for _, action := range []string{"AttachVolume", "CreateVolume", "ModifyInstanceAttribute"} { // 5 a second for all
				if spent := s.calls[action] - s.over[action]; spent > members*11/10+150 { // instances that EC2 calls pending spend some
					t.Errorf("%d calls of %s spent a token of its bucket", spent, action)
				}
			}
		})
	}
}

// pause is the longest one of a refused call. Nobody is refused once the floor is over: until then
// the bucket has given all its tokens to members, and afterwards none of them still needs one.
const pause = 10 * time.Second

// small is what a storm of own volumes may take whose limits take next to nothing: EC2 may call an
// instance pending for 40 s, and a refused call pauses.
const small = time.Minute

// strike boots instances, all at the same moment.
func strike(t *testing.T, members int, inS3, brought bool) (s storm) {
	synctest.Test(t, func(t *testing.T) {
		w := newStorm(t, inS3)
		var ids []string
		spec := cloud.RunSpec{Role: "member"}
		if brought {
			spec.Mappings = []cloud.Mapping{{Device: "/dev/sdf", SnapshotID: w.snapshot, Type: "gp3", DeleteOnTermination: true}}
		}
		for range members {
			id, err := w.account.RunInstance(t.Context(), spec)
			must(t, err)
			ids = append(ids, id)
		}
		for range ids {
			<-w.machines.started
		}
		if brought {
			w.brought = map[string]string{}
			for _, v := range w.account.Volumes() {
				if v.Attachment != nil && !v.Root {
					w.brought[v.Attachment.InstanceID] = v.ID
				}
			}
		}
		began := time.Now()
		stop := w.publisher()
		var mu sync.Mutex
		var all sync.WaitGroup
		s.failed = map[string]int{}
		for _, id := range ids {
			all.Go(func() {
				err := w.boot(id, slog.New(slog.DiscardHandler))
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					s.failed[regexp.MustCompile(`[0-9a-f]{17}`).ReplaceAllString(err.Error(), "…")]++
					return
				}
				s.took = append(s.took, time.Since(began))
			})
		}
		all.Wait()
		s.listed = stop()
		time.Sleep(time.Minute) // what a client left unanswered ends, too
		s.calls, s.over = map[string]int{}, map[string]int{}
		for _, c := range w.account.Calls() {
			if c.Service == "imds" || !strings.HasPrefix(c.Principal, "i-") {
				continue
			}
			s.calls[c.Action]++
			if c.Code == "RequestLimitExceeded" || c.Code == "Throttling" {
				s.over[c.Action]++
			}
		}
		s.peak = w.asked.peak()
	})
	slices.Sort(s.took)
	return s
}
