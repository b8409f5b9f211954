package e2evm

import (
	"testing"
	"time"

	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/vm"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
)

// TestVMStoppedPool: an instance of a warm pool is switched off and on, twice, and takes on its
// volume each time. It starts on what was published while it was off, and on nothing before.
func TestVMStoppedPool(t *testing.T) {
	r := newRig(t, setup{})
	must(t, r.lab.Account.CreateGroup(cloud.GroupSpec{Name: "app", Max: 1, Launch: member, Pool: &cloud.Pool{State: "Stopped", Prepared: 1, Reuse: true},
		Hooks: []cloud.Hook{{Name: "prepared", Launch: true, Timeout: time.Hour}}}))
	r.until("it waits in the pool", func() bool {
		warmed := r.lab.Warmed("app")
		return len(warmed) == 1 && warmed[0].State == "Warmed:Pending:Wait"
	})
	m, err := r.lab.Machine(within(t, stepTime), r.lab.Warmed("app")[0].InstanceID)
	must(t, err)
	r.inJournal(m, "ebs-release-agent.service", "in the warm pool: nothing is served")
	volume := r.lab.VolumesFor(m.ID)[0].ID
	r.goOn(m)
	r.stopped(m)
	r.publish("two")
	r.intoService(m, "two")
	r.never(m, "one")

	must(t, r.lab.Account.SetDesired("app", 0))
	r.stopped(m)
	r.publish("three")
	r.intoService(m, "three")
	r.never(m, "two")
	if now := r.lab.VolumesFor(m.ID)[0].ID; now != volume {
		t.Errorf("it had %s, and has %s", volume, now)
	}
}

// stopped waits until the instance rests in the pool, without power.
func (r *rig) stopped(m *vm.Machine) {
	r.Helper()
	r.until("it is stopped", func() bool {
		warmed := r.lab.Warmed("app")
		return len(warmed) == 1 && warmed[0].State == "Warmed:Stopped" && !m.On()
	})
}

// intoService takes it out of the pool. Its hook waits once more.
func (r *rig) intoService(m *vm.Machine, release string) {
	r.Helper()
	must(r, r.lab.Account.SetDesired("app", 1))
	r.until("it waits for its hook", func() bool {
		now := r.lab.Members("app")
		return len(now) == 1 && now[0].State == "Pending:Wait"
	})
	r.ready(m, release)
	r.goOn(m)
	must(r, r.lab.InService(within(r, stepTime), "app", 1))
}

// goOn completes the launch hook.
func (r *rig) goOn(m *vm.Machine) {
	r.Helper()
	_, err := r.scaling().CompleteLifecycleAction(r.Context(), &autoscaling.CompleteLifecycleActionInput{AutoScalingGroupName: aws.String("app"),
		LifecycleHookName: aws.String("prepared"), InstanceId: &m.ID, LifecycleActionResult: aws.String("CONTINUE")})
	must(r, err)
}

// TestVMNewRootVolume: an instance refresh boots the machine from a new disk, which knows nothing
// of its volume: it is taken on, and caught up.
func TestVMNewRootVolume(t *testing.T) {
	r := newRig(t, setup{})
	must(t, r.lab.Account.CreateGroup(cloud.GroupSpec{Name: "app", Max: 1, Desired: 1, Launch: member, Template: cloud.TemplateRef{Mixed: true}}))
	r.until("it is launched", func() bool { return len(r.lab.Members("app")) == 1 })
	m, err := r.lab.Machine(within(t, stepTime), r.lab.Members("app")[0].InstanceID)
	must(t, err)
	r.ready(m, "one")
	must(t, r.lab.InService(within(t, stepTime), "app", 1))
	volume := r.lab.VolumesFor(m.ID)[0].ID
	r.on(m, "echo old > /etc/left-over; sync -f /etc/left-over")
	r.publish("two") // the publisher feeds another group
	off := m.Off()
	_, err = r.scaling().StartInstanceRefresh(t.Context(), &autoscaling.StartInstanceRefreshInput{
		AutoScalingGroupName: aws.String("app"), Strategy: types.RefreshStrategyReplaceRootVolume,
		DesiredConfiguration: &types.DesiredConfiguration{MixedInstancesPolicy: &types.MixedInstancesPolicy{LaunchTemplate: &types.LaunchTemplate{
			Overrides: []types.LaunchTemplateOverrides{{ImageId: aws.String(memberVM)}}}}},
	})
	must(t, err)
	select {
	case <-off:
	case <-within(t, bootTime).Done():
		t.Fatal("the refresh does not switch it off")
	}
	r.until("it has power again", m.On)
	r.ready(m, "two")
	r.never(m, "one")
	if got := r.on(m, "ls /etc/left-over 2>/dev/null || true"); got != "" {
		t.Error("its root is the old one")
	}
	if now := r.lab.VolumesFor(m.ID)[0].ID; now != volume {
		t.Errorf("it had %s, and has %s", volume, now)
	}
	must(t, r.lab.InService(within(t, stepTime), "app", 1))
}

// until waits for something of the account.
func (r *rig) until(what string, is func() bool) {
	r.Helper()
	for ctx := within(r, bootTime); !is(); {
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			r.Fatalf("not seen: %s; members %+v, in the pool %+v", what, r.lab.Members("app"), r.lab.Warmed("app"))
		}
	}
}

// scaling is a client of Auto Scaling with the rights of the account's owner.
func (r *rig) scaling() *autoscaling.Client {
	admin := r.lab.Account.Admin()
	return autoscaling.New(autoscaling.Options{BaseEndpoint: &r.lab.Endpoint, Region: r.lab.Account.Region(),
		Credentials: credentials.NewStaticCredentialsProvider(admin.AccessKeyID, admin.SecretAccessKey, "")})
}
