package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/host"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// watch looks at /release all the time, as an application would, until stop; what it saw that was
// not allowed is in the error.
func watch(h *host.Host, allowed func(version string) bool) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() {
		looks := 0
		for ctx.Err() == nil {
			if pid := h.PID(); pid != 0 {
				if got, err := visible(h); err == nil && !allowed(got) && h.PID() == pid {
					result <- fmt.Errorf("an application saw %q", got)
					return
				}
				looks++
			}
			time.Sleep(200 * time.Microsecond)
		}
		if looks == 0 {
			result <- fmt.Errorf("nothing was looked at")
			return
		}
		result <- nil
	}()
	return func() error { cancel(); return <-result }
}

// TestAgentReplacesAnOlderRelease: a boot that finds an older generation, on a disk or mounted,
// ends on the current one; the old volume is gone, and at no moment after the boot began was the
// old release there to be served.
func TestAgentReplacesAnOlderRelease(t *testing.T) {
	r := published(t, nil)
	hosts := map[string]*host.Host{}
	names := []string{"reboot", "stop and start", "resume", "resume while busy", "resume while a container reads", "resume while a user has a copy"}
	for _, name := range names {
		hosts[name] = r.machine()
		must(t, failed(agent(within(t, 30*time.Second), hosts[name])))
	}
	r.sh("echo two > /srv/source/version")
	r.ok("publish", "/srv/source", "--groups", r.emptyGroup())
	p := r.pointerNow()
	r.pointer(r.signed(p)) // without packs: what cannot catch up is replaced
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			r := r.in(t)
			h := hosts[name]
			old := r.lab.VolumesFor(h.ID)[0].ID
			ctx := within(t, 60*time.Second)
			readies, free := 1, func() {}
			switch name {
			case "reboot":
				must(t, r.lab.Reboot(ctx, h.ID))
			case "stop and start":
				must(t, r.lab.StopStart(ctx, h.ID))
			case "resume":
				readies = 2
			case "resume while busy":
				readies = 2
				hold := make(chan struct{})
				holding, release := context.WithCancel(ctx)
				go func() {
					defer close(hold)
					h.Run(holding, "sh", "-c", "exec 9</release/current/version; exec sleep 60")
				}()
				free = func() { release(); <-hold }
				for len(r.on(h, "ls -l /proc/[0-9]*/fd 2>/dev/null | grep /release/ || true")) == 0 {
					must(t, ctx.Err())
				}
				out := agent(ctx, h, "--deadline", "10s")
				refused(t, out.Output, 1, "adopt: ", "in use by pid", "sleep", "Try: ")
				if got, err := visible(h); err != nil || got != "one" {
					t.Errorf("busy: /release shows %q (%v)", got, err)
				}
				if n, err := readyCount(h); err != nil || n != 1 {
					t.Errorf("busy: READY=1 was said %d times (%v)", n, err)
				}
				if n := len(r.lab.VolumesFor(h.ID)); n != 1 {
					t.Errorf("busy: %d volumes", n)
				}
			case "resume while a container reads":
				readies = 2
				hold := make(chan struct{})
				holding, release := context.WithCancel(ctx)
				go func() {
					defer close(hold)
					h.Run(holding, "unshare", "--mount", "--propagation", "private", "sh", "-c", "cd /release/current && : > /run/reads; exec sleep 60")
				}()
				free = func() { release(); <-hold }
				for r.on(h, "ls /run/reads 2>/dev/null || true") == "" {
					must(t, ctx.Err())
				}
				for range 2 { // it stays mounted
					refused(t, agent(ctx, h, "--deadline", "10s").Output, 1, "adopt: ", "is mounted in the mount namespace", "sleep", "Try: ")
				}
				if got, err := visible(h); err != nil || got != "one" {
					t.Errorf("read by a container: /release shows %q (%v)", got, err)
				}
				if state := r.volumeState(old); state != "in-use" {
					t.Errorf("read by a container: the old volume is %q", state)
				}
			case "resume while a user has a copy": // row 84
				readies = 3
				hold := make(chan struct{})
				holding, release := context.WithCancel(ctx)
				go func() {
					defer close(hold)
					h.Run(holding, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "unshare", "-Urm", "sh", "-c", "cd /release/current && exec sleep 60")
				}()
				free = func() { release(); <-hold }
				for len(r.on(h, "grep -l ' /release ' /proc/[0-9]*/mountinfo | xargs -n 1 dirname | sed 's,$,/uid_map,' | xargs grep -L 4294967295 || true")) == 0 {
					must(t, ctx.Err())
				}
				must(t, failed(agent(ctx, h)))
				if got, err := visible(h); err != nil || got != "two" {
					t.Errorf("copied by a user: /release shows %q (%v)", got, err)
				}
				// The kernel holds the old volume as long as the copy is there. It is left, and
				// goes with the instance, or with the next start.
				for _, v := range r.lab.VolumesFor(h.ID) {
					if v.ID == old && (v.Tags["ebs-release:state"] != "left" || v.Attachment == nil || !v.Attachment.DeleteOnTermination) {
						t.Errorf("copied by a user: the old volume is %s, with the tags %v", show([]cloud.Volume{v}), v.Tags)
					}
				}
				if n := len(r.lab.VolumesFor(h.ID)); n != 2 {
					t.Errorf("copied by a user: %d volumes", n)
				}
			}
			free()
			unmounted := len(mounts(h)) == 0
			stop := watch(h, func(version string) bool {
				unmounted = unmounted || version == ""
				return version == "" || version == "two" || version == "one" && !unmounted
			})
			must(t, failed(agent(ctx, h)))
			must(t, stop())
			must(t, r.served(h, p, "two", readies))
			if now := r.lab.VolumesFor(h.ID)[0].ID; now == old {
				t.Errorf("still the volume %s", old)
			}
			if err := r.lab.Account.Wait(ctx, func() bool { return r.volumeState(old) == "" }); err != nil {
				t.Errorf("the old volume is %s", r.volumeState(old))
			}
		})
	}
}

// An answer of EC2 that is older than the volume: `up` on a member that serves asks again.
func TestAgentWaitsForAListingThatIsOld(t *testing.T) {
	r := published(t, nil)
	h := r.machine()
	must(t, failed(agent(within(t, 30*time.Second), h)))
	volume := r.lab.VolumesFor(h.ID)[0]
	stop := watch(h, func(version string) bool { return version == "one" })
	ctx := within(t, time.Minute)
	role := []types.Tag{{Key: aws.String("ebs-release:role"), Value: aws.String("member")}}
	_, err := r.ec2.DeleteTags(ctx, &ec2.DeleteTagsInput{Resources: []string{volume.ID}, Tags: role}) // as if it was not listed
	must(t, err)
	disarm := r.lab.Account.Fault(cloud.Fault{Action: "DescribeVolumes", Principal: h.ID, Skip: 1, Times: 1, Effect: cloud.Effect{
		Do: func(cloud.Call) {
			if _, err := r.ec2.CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{volume.ID}, Tags: role}); err != nil {
				t.Error(err)
			}
		},
	}})
	defer disarm()
	out := agent(ctx, h)
	must(t, failed(out))
	if !strings.Contains(out.Stderr, "does not list the volume that is mounted") {
		t.Errorf("it says %s", out.Stderr)
	}
	must(t, r.served(h, r.pointerNow(), "one", 2))

	// For longer than `up` asks again: the volume itself says whose it is.
	_, err = r.ec2.DeleteTags(ctx, &ec2.DeleteTagsInput{Resources: []string{volume.ID}, Tags: role})
	must(t, err)
	defer r.lab.Account.Fault(cloud.Fault{Action: "CreateTags", Principal: h.ID, Times: 1, Effect: cloud.Effect{
		Do: func(cloud.Call) { // it has gone by the disk's word: the policies know the tag again
			if _, err := r.ec2.CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{volume.ID}, Tags: role}); err != nil {
				t.Error(err)
			}
		},
	}})()
	out = agent(ctx, h)
	must(t, failed(out))
	if !strings.Contains(out.Stderr, "its disk says whose it is") {
		t.Errorf("it says %s", out.Stderr)
	}
	must(t, r.served(h, r.pointerNow(), "one", 3))
	must(t, stop())
}
