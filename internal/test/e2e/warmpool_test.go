package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/host"
	"ebs-release/internal/lab/policy"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
)

// pooled has a group "app" with a warm pool and a launch hook, whose members run what a real one
// runs. Generation 1 is published.
func pooled(t *testing.T, pool cloud.Pool, change func(*lab.Options)) *rig {
	t.Helper()
	r := newRig(t, func(o *lab.Options) {
		o.Groups = []string{"web", "app"}
		o.AgentSettings["launch-hook"] = "ebs-release"
		o.Launch = true
		if change != nil {
			change(o)
		}
	})
	spec := r.lab.Member()
	spec.Role, spec.Hibernation = policy.LaunchedRole, true
	must(r, r.lab.Account.CreateGroup(cloud.GroupSpec{Name: "app", Max: pool.Prepared, Launch: spec,
		Hooks: []cloud.Hook{{Name: "ebs-release", Launch: true, Timeout: 60 * time.Second, Abandon: true}}}))
	r.first()
	_, err := r.scaling().PutWarmPool(t.Context(), &autoscaling.PutWarmPoolInput{AutoScalingGroupName: aws.String("app"),
		PoolState: types.WarmPoolState(pool.State), MaxGroupPreparedCapacity: &pool.Prepared, InstanceReusePolicy: &types.InstanceReusePolicy{ReuseOnScaleIn: &pool.Reuse}})
	must(t, err)
	return r
}

// rests waits until the only instance of the pool rests there, and returns its host.
func (r *rig) rests(state string) *host.Host {
	r.Helper()
	r.eventually("it rests in the pool", func() bool {
		warmed := r.lab.Warmed("app")
		return len(warmed) == 1 && warmed[0].State == "Warmed:"+state && len(r.lab.Members("app")) == 0
	})
	h, err := r.lab.Host(r.lab.Warmed("app")[0].InstanceID)
	must(r, err)
	return h
}

// publishes makes a release and publishes it. Nobody in the pool is waited for.
func (r *rig) publishes(version string) {
	r.Helper()
	r.sh("echo " + version + " > /srv/source/version")
	r.ok("publish", "/srv/source")
}

// standings are those that status shows, by instance, and how many members it counts.
func (r *rig) standings() (of map[string]string, total int) {
	r.Helper()
	var s struct {
		Total   int
		Members []struct {
			InstanceID string `json:"instance_id"`
			Standing   string
		}
	}
	must(r, json.Unmarshal([]byte(r.ok("status", "--output", "json")), &s))
	of = map[string]string{}
	for _, m := range s.Members {
		of[m.InstanceID] = m.Standing
	}
	return of, s.Total
}

// TestWarmPool: an instance rests in the pool, in each of its states, while a release is published.
// It enters service on that, and so it does when it comes back from service.
func TestWarmPool(t *testing.T) {
	for _, state := range []string{"Stopped", "Running", "Hibernated"} {
		t.Run(state, func(t *testing.T) { warmPool(t, state, nil) })
	}
}

// TestWarmPoolThatFollowsS3: the same, where nobody is dialed, and reports are objects.
func TestWarmPoolThatFollowsS3(t *testing.T) {
	for _, state := range []string{"Stopped", "Running", "Hibernated"} {
		t.Run(state, func(t *testing.T) {
			warmPool(t, state, func(o *lab.Options) {
				o.S3, o.Follow = true, true
				o.AgentSettings["follow-interval"], o.PublisherSettings["reach"] = "1s", "follow"
			})
		})
	}
}

func warmPool(t *testing.T, state string, change func(*lab.Options)) {
	t.Helper()
	r := pooled(t, cloud.Pool{State: state, Prepared: 1, Reuse: true}, change)
	h := r.rests(state)
	volumes := r.lab.VolumesFor(h.ID)
	if len(volumes) != 1 || volumes[0].Attachment == nil || !volumes[0].Attachment.DeleteOnTermination {
		t.Fatalf("in the pool it has %s", show(volumes))
	}
	if state == "Running" {
		if now := mounts(h); len(now) > 0 || ready(h) > 0 || r.on(h, "ls /run | grep app || true") != "" {
			t.Errorf("in the pool it serves: %q", now)
		}
		out, _ := h.Run(within(t, 30*time.Second), "ebs-release-agent", "status")
		refused(t, out, 3, "not ready: warmed")
	}
	r.publishes("two")
	if of, total := r.standings(); of[h.ID] != "warmed" || total != 0 {
		t.Errorf("status says %v of %d members", of, total)
	}
	must(t, r.lab.Account.SetDesired("app", 1))
	must(t, r.lab.InService(within(t, 60*time.Second), "app", 1))
	must(t, r.served(h, r.pointerNow(), "two", 1))

	must(t, r.lab.Account.SetDesired("app", 0)) // "returned to the warm pool on scale in"
	if again := r.rests(state); again != h {
		t.Fatalf("%s rests there, and %s was in service", again.ID, h.ID)
	}
	if state == "Running" {
		r.eventually("the gate is closed", func() bool {
			return len(mounts(h)) == 0 && strings.Contains(r.on(h, "cat /run/ebs-release/status.json"), `"warmed"`)
		})
	}
	r.publishes("three")
	must(t, r.lab.Account.SetDesired("app", 1))
	must(t, r.lab.InService(within(t, 60*time.Second), "app", 1))
	must(t, r.served(h, r.pointerNow(), "three", map[string]int{"Stopped": 1, "Running": 2, "Hibernated": 2}[state]))
	if now := r.lab.VolumesFor(h.ID); len(now) != 1 || now[0].ID != volumes[0].ID {
		t.Errorf("it had %s, and has %s", show(volumes), show(now))
	}
	if of, total := r.standings(); of[h.ID] != "current" || total != 1 {
		t.Errorf("status says %v of %d members", of, total)
	}
}

// TestWhoClosesAGateIsKilled: between its note that the gate is closed and the word to systemd that
// closes it. systemd starts it again.
func TestWhoClosesAGateIsKilled(t *testing.T) {
	r := pooled(t, cloud.Pool{State: "Running", Prepared: 1, Reuse: true}, nil)
	h := r.rests("Running")
	must(t, r.lab.Account.SetDesired("app", 1))
	must(t, r.lab.InService(within(t, 60*time.Second), "app", 1))
	must(t, r.served(h, r.pointerNow(), "one", 1))
	r.on(h, `mv /usr/local/bin/systemctl /usr/local/bin/systemctl.real
		printf '%s\n' '#!/bin/sh' 'mv /usr/local/bin/systemctl.real /usr/local/bin/systemctl' 'kill -KILL $PPID' \
			'setsid /usr/bin/ebs-release-agent launch >/proc/1/fd/2 2>&1 &' >/usr/local/bin/systemctl; chmod 755 /usr/local/bin/systemctl`)
	must(t, r.lab.Account.SetDesired("app", 0))
	r.rests("Running")
	r.eventually("the gate is closed", func() bool {
		return len(mounts(h)) == 0 && strings.Contains(r.on(h, "cat /run/ebs-release/status.json"), `"warmed"`)
	})
	r.publishes("two")
	must(t, r.lab.Account.SetDesired("app", 1))
	must(t, r.lab.InService(within(t, 60*time.Second), "app", 1))
	must(t, r.served(h, r.pointerNow(), "two", 2))
}

// scaling is a client of Auto Scaling with the rights of the account's owner.
func (r *rig) scaling() *autoscaling.Client {
	admin := r.lab.Account.Admin()
	return autoscaling.New(autoscaling.Options{BaseEndpoint: &r.lab.Endpoint, Region: r.lab.Account.Region(),
		Credentials: credentials.NewStaticCredentialsProvider(admin.AccessKeyID, admin.SecretAccessKey, "")})
}

// TestStandbyIsBroughtUpToDate: a member in Standby stays one, so it comes back on what was
// published meanwhile.
func TestStandbyIsBroughtUpToDate(t *testing.T) {
	r := published(t, nil)
	h := r.scale(1)[0]
	ids, web := []string{h.ID}, aws.String("web")
	_, err := r.scaling().EnterStandby(t.Context(), &autoscaling.EnterStandbyInput{AutoScalingGroupName: web, InstanceIds: ids, ShouldDecrementDesiredCapacity: aws.Bool(true)})
	must(t, err)
	r.eventually("it is in Standby", func() bool { return r.lab.Members("web")[0].State == "Standby" })
	r.publishes("two")
	if now, err := visible(h); err != nil || now != "two" {
		t.Errorf("in Standby it serves %q (%v)", now, err)
	}
	must(t, r.lab.Reboot(within(t, 60*time.Second), h.ID))
	must(t, r.served(h, r.pointerNow(), "two", 1))
	_, err = r.scaling().ExitStandby(t.Context(), &autoscaling.ExitStandbyInput{AutoScalingGroupName: web, InstanceIds: ids})
	must(t, err)
	must(t, r.lab.InService(within(t, 60*time.Second), "web", 1))
	must(t, r.served(h, r.pointerNow(), "two", 1))
}

// TestRefreshThatReplacesTheRootVolume: the instance boots from a new image that knows nothing of
// it, and takes on the volume that it has kept.
func TestRefreshThatReplacesTheRootVolume(t *testing.T) {
	r := newRig(t, func(o *lab.Options) { o.Groups = []string{"web", "app"} })
	must(t, r.lab.Account.CreateGroup(cloud.GroupSpec{Name: "app", Max: 1, Launch: r.lab.Member(), Template: cloud.TemplateRef{Mixed: true}}))
	r.first()
	must(t, r.lab.Account.SetDesired("app", 1))
	hosts, err := r.lab.AllBooted(within(t, 60*time.Second), "app", 1)
	must(t, err)
	h := hosts[0]
	r.on(h, "echo old > /etc/left-over")
	key, volume := r.on(h, "cat /etc/ssh/ssh_host_ed25519_key.pub"), r.lab.VolumesFor(h.ID)[0].ID
	_, err = r.scaling().StartInstanceRefresh(t.Context(), &autoscaling.StartInstanceRefreshInput{
		AutoScalingGroupName: aws.String("app"), Strategy: types.RefreshStrategyReplaceRootVolume,
		DesiredConfiguration: &types.DesiredConfiguration{MixedInstancesPolicy: &types.MixedInstancesPolicy{LaunchTemplate: &types.LaunchTemplate{
			Overrides: []types.LaunchTemplateOverrides{{ImageId: aws.String(lab.MemberImage)}}}}},
	})
	must(t, err)
	r.eventually("its root is new", func() bool { return h.Boots() == 2 })
	must(t, h.Booted(within(t, 60*time.Second)))
	must(t, r.lab.InService(within(t, 60*time.Second), "app", 1))
	must(t, r.served(h, r.pointerNow(), "one", 1))
	if now := r.on(h, "cat /etc/ssh/ssh_host_ed25519_key.pub; ls /etc/left-over 2>/dev/null || true"); now == key || strings.Contains(now, "left-over") {
		t.Errorf("its root is the old one: %s", now)
	}
	if now := r.lab.VolumesFor(h.ID)[0].ID; now != volume {
		t.Errorf("it had %s, and has %s", volume, now)
	}
	r.publishes("two") // over ssh: its new key is known
	if now, err := visible(h); err != nil || now != "two" {
		t.Errorf("after that it serves %q (%v)", now, err)
	}
}

// TestSoakOfAWarmPool: releases are published while a group takes instances out of its warm pool
// and gives them back. Whenever a publish has come through, nobody in service is on an older one,
// and nobody enters service on one.
func TestSoakOfAWarmPool(t *testing.T) {
	const publishes = 10
	r := pooled(t, cloud.Pool{State: "Running", Prepared: 3, Reuse: true}, func(o *lab.Options) {
		o.PublisherSettings["settle"] = "3s" // above two looks of an agent at where it belongs
	})
	entries, live := map[string]int{}, int64(1)
	serving := func(id string) (generation int64) {
		h, err := r.lab.Host(id)
		if err != nil {
			return 0
		}
		data, err := os.ReadFile(h.Path("/release/.ebs-release/generation"))
		if err != nil || len(mounts(h)) == 0 {
			return 0
		}
		_, _ = fmt.Sscan(string(data), &generation)
		return generation
	}
	quit, done := make(chan struct{}), make(chan struct{})
	floor := make(chan int64, 1)
	floor <- live
	go func() { // ends with quit
		defer close(done)
		before := map[string]string{}
		for n := 0; ; n++ {
			if n%40 == 0 { // every two seconds
				if err := r.lab.Account.SetDesired("app", int32(n/40%4)); err != nil {
					t.Error(err)
				}
			}
			least := <-floor
			now := map[string]string{}
			for _, m := range append(r.lab.Members("app"), r.lab.Warmed("app")...) {
				now[m.InstanceID] = m.State
				if m.State != "InService" || before[m.InstanceID] == "InService" {
					continue
				}
				entries[m.InstanceID]++
				if is := serving(m.InstanceID); is > 0 && is < least {
					t.Errorf("%s enters service on generation %d, and all members were on %d", m.InstanceID, is, least)
				}
			}
			floor <- least
			before = now
			select {
			case <-quit:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	for n := range publishes {
		r.sh(fmt.Sprintf("echo 'soak %d' > /srv/source/version", n))
		out := r.publisher("publish", "/srv/source", "--no-snapshot")
		for range 3 { // who launches within the last listings is left to the next run
			if out.Code != 5 {
				break
			}
			out = r.publisher("converge")
		}
		if out.Code != 0 {
			t.Fatalf("publish %d: exit %d: %s", n, out.Code, out.Stderr)
		}
		<-floor
		live = r.pointerNow().Generation
		floor <- live
		for _, m := range r.lab.Members("app") {
			if is := serving(m.InstanceID); m.State == "InService" && is > 0 && is < live {
				t.Errorf("%s is in service on generation %d, and all members are on %d", m.InstanceID, is, live)
			}
		}
	}
	close(quit)
	<-done
	sum := 0
	for _, n := range entries {
		sum += n
	}
	if sum <= len(entries) {
		t.Errorf("%d entries of %d instances into service: none was used again", sum, len(entries))
	}
	t.Logf("%d publishes; %d instances entered service %d times", publishes, len(entries), sum)
}
