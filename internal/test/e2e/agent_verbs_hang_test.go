package e2e

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/host"

	"golang.org/x/sys/unix"
)

// Row 80, in the verbs that look at the volume of a member that serves: each look is held, in turn,
// as by a disk that answers nothing. The verb ends within its time, with a line that says so, and
// leaves nothing that the next one waits for.
func TestAgentVerbsOutliveADisk(t *testing.T) {
	const limit = 2 * time.Second
	r := published(t, nil)
	p := r.pointerNow()
	before := fmt.Sprintf("stage.d:%d:%s", p.Generation, p.Release)
	verbs := []struct {
		name, setup string
		argv        []string
		limit       time.Duration
		ends        int // where nothing is held
		last        string
	}{
		{name: "fence", argv: []string{"fence"}, limit: 10 * time.Second},
		{name: "fence --lower-to", argv: []string{"fence", "--lower-to", "9"}, limit: time.Minute, ends: 1, last: "only be set to a lower one"},
		{
			name: "activate", setup: "rm -f /release/.ebs-release/activated /tmp/ran; ", argv: []string{"activate", "--timeout", limit.String()},
			limit: 10*time.Second + limit, // to see whether the boot is over takes 10 s at most
		},
		{name: "before", argv: []string{"before", before, "--timeout", limit.String()}, limit: 10*time.Second + limit},
	}
	hosts := r.scale(int32(len(verbs)))
	var points atomic.Int32
	each(t, len(verbs), len(verbs), func(i int) error {
		verb, h := verbs[i], hosts[i]
		ctx := within(t, 8*time.Minute)
		r.on(h, `mkdir -p /etc/ebs-release/activate.d; printf '#!/bin/sh\necho 1 >> /tmp/ran\n' > /etc/ebs-release/activate.d/10-a; chmod 755 /etc/ebs-release/activate.d/10-a`)
		run := func(s *supervised) outcome {
			if verb.setup != "" {
				r.on(h, verb.setup)
			}
			return s.run(ctx, host.Command{Argv: append([]string{"ebs-release-agent"}, verb.argv...)})
		}
		fine := func(out outcome) error {
			if out.Code != verb.ends || !strings.Contains(out.last(), verb.last) {
				return fmt.Errorf("%s: exit %d: %s", verb.name, out.Code, out.Stderr)
			}
			if verb.setup != "" {
				if ran := r.on(h, "cat /tmp/ran; cat /release/.ebs-release/activated"); ran != fmt.Sprintf("1\n%d %s", p.Generation, p.Release) {
					return fmt.Errorf("%s: the programs and the mark: %q", verb.name, ran)
				}
			}
			return nil
		}
		all := diskTracer(0)
		if err := fine(run(&supervised{host: h, start: all.attach})); err != nil {
			return err
		}
		if err := <-all.done; err != nil {
			return err
		}
		held := 0
		const stride = 3
		for n := i % stride; n < len(all.seen); n += stride {
			hang := diskTracer(n + 1)
			out := run(&supervised{host: h, start: hang.attach})
			if err := <-hang.done; err != nil {
				return err
			}
			points.Add(1)
			late := strings.Contains(out.last(), "does not come to an end") || strings.Contains(out.last(), "deadline exceeded")
			switch {
			case out.took > verb.limit+hangSlack:
				return fmt.Errorf("%s, held at %s: it took %v", verb.name, all.seen[n], out.took)
			case late && out.Code != 0 && strings.Contains(out.last(), "describe-volume-status"):
				held++
			case out.Code != verb.ends:
				return fmt.Errorf("%s, held at %s: exit %d: %s", verb.name, all.seen[n], out.Code, out.Stderr)
			}
		}
		if held == 0 || held*stride < len(all.seen)/2 {
			return fmt.Errorf("%s: %d of %d looks were held", verb.name, held, len(all.seen)/stride)
		}
		return fine(run(&supervised{host: h}))
	})
	fmt.Printf("hang matrix: %d points of the verbs on a member that serves\n", points.Load())
}

// A launch that finds no answer of its disk says so, goes on, and ends by SIGTERM; when the disk
// answers again, the hook is completed.
func TestLaunchOutlivesADisk(t *testing.T) {
	r := published(t, func(o *lab.Options) { o.AgentSettings["launch-hook"] = "ebs-release" })
	launched := r.launchesOne(5 * time.Minute)
	r.eventually("the group launches", func() bool { return launched().State != "" })
	h, err := r.lab.Booted(within(t, 60*time.Second), launched().InstanceID)
	must(t, err)
	thaw := func() {
		if err := r.lab.ThawDisks(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(thaw)
	r.on(h, `mkdir -p /etc/ebs-release/ready.d
printf '#!/bin/sh\nexec dd if=/dev/zero of=$EBS_RELEASE_PATH/../try count=1 conv=fsync\n' > /etc/ebs-release/ready.d/10-write; chmod 755 /etc/ebs-release/ready.d/10-write`)
	launch := func(end func(s *supervised)) outcome {
		s := &supervised{host: h, start: func(int) error { return nil }}
		ended := make(chan outcome, 1)
		go func() {
			ended <- s.run(within(t, 2*time.Minute), host.Command{Argv: []string{"ebs-release-agent", "launch", "--hook-timeout", "2s"}})
		}()
		end(s)
		asked := time.Now()
		s.mu.Lock()
		must(t, unix.Kill(s.pid, unix.SIGTERM))
		s.mu.Unlock()
		out := <-ended
		if took := time.Since(asked); took > hangSlack {
			t.Errorf("it ended %v after SIGTERM", took)
		}
		return out
	}
	must(t, r.lab.FreezeDisks())
	out := launch(func(*supervised) {
		time.Sleep(10 * time.Second)
	})
	if !strings.Contains(out.Stderr, "10-write did not run to its end: it took longer than 2s, and cannot be killed") || launched().State != "Pending:Wait" {
		t.Errorf("the instance is %s: %s", launched().State, out.Stderr)
	}
	thaw()
	launch(func(*supervised) {
		r.eventually("it is in service", func() bool { return launched().State == "InService" })
	})
}
