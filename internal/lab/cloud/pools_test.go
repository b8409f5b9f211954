package cloud

import (
	"io"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	asgtypes "github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

// datum is an entry of an instance's metadata; "404" where there is none.
func (l *lab) datum(id, path string) string {
	l.Helper()
	out, err := l.metadataOf(id).GetMetadata(l.ctx, &imds.GetMetadataInput{Path: path})
	if err != nil {
		wantStatus(l.T, err, 404)
		return "404"
	}
	body, err := io.ReadAll(out.Content)
	l.ok(err)
	return string(body)
}

// target is the target lifecycle state of an instance, as it reads that itself.
func (l *lab) target(id string) string { return l.datum(id, "autoscaling/target-lifecycle-state") }

// complete tells the launch hook of the only group.
func (l *lab) complete(id, result string) error {
	_, err := l.asg.CompleteLifecycleAction(l.ctx, &autoscaling.CompleteLifecycleActionInput{AutoScalingGroupName: aws.String("web"),
		LifecycleHookName: aws.String("hook"), InstanceId: &id, LifecycleActionResult: &result})
	return err
}

func TestWarmPool(t *testing.T) {
	for _, state := range []string{"Stopped", "Running", "Hibernated"} {
		t.Run(state, func(t *testing.T) {
			latency := LatencyTable{Running: Fixed(5 * time.Second), Shutdown: Fixed(5 * time.Second)}
			inLab(t, Options{Latency: latency}, func(l *lab) {
				hook := Hook{Name: "hook", Launch: true, Abandon: true}
				l.ok(l.CreateGroup(GroupSpec{Name: "web", Max: 3, Launch: RunSpec{Hibernation: true}, Hooks: []Hook{hook}}))
				web := aws.String("web")
				put := &autoscaling.PutWarmPoolInput{AutoScalingGroupName: web, PoolState: asgtypes.WarmPoolState(state),
					MaxGroupPreparedCapacity: aws.Int32(1), InstanceReusePolicy: &asgtypes.InstanceReusePolicy{ReuseOnScaleIn: aws.Bool(true)}}
				_, err := l.asg.PutWarmPool(l.ctx, put)
				l.ok(err)
				l.settles(map[string]int{"Warmed:Pending:Wait": 1}) // "Warmed:Pending:Wait state and the Pending:Wait state"
				id := l.Instances()[0].ID
				if got := l.target(id); got != "Warmed:"+state {
					t.Errorf("on its way in its target is %q", got)
				}
				l.ok(l.complete(id, "CONTINUE"))
				l.settles(map[string]int{"Warmed:" + state: 1})
				power := map[string]string{"Stopped": "off", "Running": "on", "Hibernated": "off"}[state]
				if got := l.hw.machines[id]; got != power || l.hw.seen("hibernate "+id) != (state == "Hibernated") {
					t.Errorf("in the pool its power is %q: %v", got, l.hw.log())
				}
				groups, err := l.asg.DescribeAutoScalingGroups(l.ctx, &autoscaling.DescribeAutoScalingGroupsInput{})
				l.ok(err)
				if g := groups.AutoScalingGroups[0]; len(g.Instances) != 0 || *g.WarmPoolSize != 1 || string(g.WarmPoolConfiguration.PoolState) != state {
					t.Errorf("the group is %+v", g)
				}
				pool, err := l.asg.DescribeWarmPool(l.ctx, &autoscaling.DescribeWarmPoolInput{AutoScalingGroupName: web})
				l.ok(err)
				if len(pool.Instances) != 1 || string(pool.Instances[0].LifecycleState) != "Warmed:"+state || !*pool.WarmPoolConfiguration.InstanceReusePolicy.ReuseOnScaleIn {
					t.Errorf("the pool is %+v", pool)
				}

				l.ok(l.SetDesired("web", 1))
				l.settles(map[string]int{"Pending:Wait": 1})
				if got := l.target(id); got != "InService" {
					t.Errorf("on its way out its target is %q", got)
				}
				l.ok(l.complete(id, "CONTINUE"))
				l.settles(map[string]int{"InService": 1})
				if l.hw.machines[id] != "on" || len(l.Instances()) != 1 {
					t.Errorf("instances %+v", l.Instances())
				}

				l.ok(l.SetDesired("web", 0)) // back, and no launch hook on this way
				l.settles(map[string]int{"Warmed:" + state: 1})
				if got := l.target(id); got != "Warmed:"+state {
					t.Errorf("back in the pool its target is %q", got)
				}
				_, err = l.asg.DeleteWarmPool(l.ctx, &autoscaling.DeleteWarmPoolInput{AutoScalingGroupName: web})
				l.ok(err)
				l.settles(map[string]int{})
				if g := l.Groups()[0]; g.Pool != nil || l.Instances()[0].State != "terminated" {
					t.Errorf("after the end of the pool: %+v", g)
				}
			})
		})
	}
}

func TestWarmPoolWithoutWhatItNeeds(t *testing.T) {
	inLab(t, Options{Latency: LatencyTable{Running: Fixed(time.Second)}}, func(l *lab) {
		l.ok(l.CreateGroup(GroupSpec{Name: "web", Max: 3, Hooks: []Hook{{Name: "hook", Launch: true, Abandon: true}, {Name: "out"}}}))
		web := aws.String("web")
		_, err := l.asg.PutWarmPool(l.ctx, &autoscaling.PutWarmPoolInput{AutoScalingGroupName: web, PoolState: asgtypes.WarmPoolStateHibernated})
		l.wantCode(err, "ValidationError")
		_, err = l.asg.DeleteWarmPool(l.ctx, &autoscaling.DeleteWarmPoolInput{AutoScalingGroupName: web})
		l.wantCode(err, "ValidationError")
		_, err = l.asg.PutWarmPool(l.ctx, &autoscaling.PutWarmPoolInput{AutoScalingGroupName: web, MinSize: aws.Int32(1), MaxGroupPreparedCapacity: aws.Int32(0),
			InstanceReusePolicy: &asgtypes.InstanceReusePolicy{ReuseOnScaleIn: aws.Bool(true)}})
		l.ok(err)
		l.settles(map[string]int{"Warmed:Pending:Wait": 1})
		first := l.Instances()[0].ID
		l.ok(l.complete(first, "ABANDON"))
		l.settles(map[string]int{"Warmed:Terminating:Wait": 1, "Warmed:Pending:Wait": 1})
		_, err = l.asg.CompleteLifecycleAction(l.ctx, &autoscaling.CompleteLifecycleActionInput{AutoScalingGroupName: web,
			LifecycleHookName: aws.String("out"), InstanceId: &first, LifecycleActionResult: aws.String("CONTINUE")})
		l.ok(err)
		l.settles(map[string]int{"Warmed:Pending:Wait": 1})
		l.ok(l.SetDesired("web", 1)) // nothing rests in the pool: a cold start
		l.settles(map[string]int{"Warmed:Pending:Wait": 1, "Pending:Wait": 1})
		for _, m := range l.Groups()[0].Members {
			l.ok(l.complete(m.InstanceID, "CONTINUE"))
		}
		l.settles(map[string]int{"Warmed:Stopped": 1, "InService": 1})
		l.ok(l.SetDesired("web", 0)) // back, and the pool has one too many
		l.settles(map[string]int{"Warmed:Pending:Wait": 1})
		_, err = l.ec2.StopInstances(l.ctx, &ec2.StopInstancesInput{InstanceIds: []string{first}, Hibernate: aws.Bool(true)})
		l.wantCode(err, "UnsupportedHibernationConfiguration")
	})
}

func TestRefreshThatReplacesRootVolumes(t *testing.T) {
	inLab(t, Options{Latency: LatencyTable{Running: Fixed(time.Second)}}, func(l *lab) {
		l.ok(l.CreateGroup(GroupSpec{Name: "web", Max: 3, Desired: 1, Template: TemplateRef{Mixed: true}, Launch: RunSpec{MetadataTags: true, Tags: map[string]string{"team": "a"}}}))
		l.settles(map[string]int{"InService": 1})
		i := l.Instances()[0]
		data := l.volume()
		l.ok(l.attach(data, i.ID, "/dev/sdf"))
		in := &autoscaling.StartInstanceRefreshInput{AutoScalingGroupName: aws.String("web"), Strategy: asgtypes.RefreshStrategyReplaceRootVolume}
		_, err := l.asg.StartInstanceRefresh(l.ctx, in)
		l.wantCode(err, "ValidationError")
		in.DesiredConfiguration = &asgtypes.DesiredConfiguration{MixedInstancesPolicy: &asgtypes.MixedInstancesPolicy{LaunchTemplate: &asgtypes.LaunchTemplate{
			Overrides: []asgtypes.LaunchTemplateOverrides{{ImageId: aws.String("ami-00000000000000002")}}}}}
		_, err = l.asg.StartInstanceRefresh(l.ctx, in)
		l.ok(err)
		for end := time.Now().Add(time.Hour); l.Groups()[0].Refreshes[0].Status != "Successful"; time.Sleep(time.Second) {
			if time.Now().After(end) {
				t.Fatalf("%+v", l.Groups()[0])
			}
		}
		now := l.Instances()
		if len(now) != 1 || now[0].ImageID != "ami-00000000000000002" || now[0].Address != i.Address || !l.hw.seen("replace root "+i.ID) {
			t.Errorf("instances %+v, %v", now, l.hw.log())
		}
		l.settles(map[string]int{"InService": 1})
		for _, v := range l.Volumes() {
			if v.ID == data && (v.Attachment == nil || v.Attachment.InstanceID != i.ID) {
				t.Errorf("the other volume is %+v", v)
			}
		}
		if tag, none := l.datum(i.ID, "tags/instance/team"), l.datum(i.ID, "tags/instance/Team"); tag != "a" || none != "404" {
			t.Errorf("the tags in the metadata are %q and %q", tag, none)
		}
	})
}
