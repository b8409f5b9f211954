package cloud

import (
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	asgtypes "github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

// states counts the members of the only group by lifecycle state.
func (l *lab) states() map[string]int {
	out := map[string]int{}
	for _, m := range l.Groups()[0].Members {
		out[m.State]++
	}
	return out
}

func (l *lab) settles(want map[string]int) {
	l.Helper()
	start := time.Now()
	for !maps.Equal(l.states(), want) {
		if time.Since(start) > time.Hour {
			l.Fatalf("members are %v, want %v", l.states(), want)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func TestGroupKeepsItsCapacity(t *testing.T) {
	latency := LatencyTable{Running: Fixed(5 * time.Second), Shutdown: Fixed(5 * time.Second), Scaling: Fixed(time.Second)}
	inLab(t, Options{Latency: latency}, func(l *lab) {
		l.ok(l.CreateGroup(GroupSpec{Name: "web", Max: 10, Desired: 3, Tags: map[string]string{"team": "a"}, Launch: RunSpec{Role: "r"}}))
		l.settles(map[string]int{"Pending": 3})
		l.settles(map[string]int{"InService": 3})
		_, err := l.asg.SetDesiredCapacity(l.ctx, &autoscaling.SetDesiredCapacityInput{AutoScalingGroupName: aws.String("web"), DesiredCapacity: aws.Int32(5)})
		l.ok(err)
		l.settles(map[string]int{"InService": 3, "Pending": 2})
		l.settles(map[string]int{"InService": 5})
		zones := map[string]int{}
		for _, i := range l.Instances() {
			zones[i.Zone]++
			if i.Tags["aws:autoscaling:groupName"] != "web" || i.Tags["team"] != "a" || i.Group != "web" {
				t.Errorf("instance %+v", i)
			}
		}
		if zones["us-east-1a"] != 3 || zones["us-east-1b"] != 2 {
			t.Errorf("zones %v", zones)
		}
		l.ok(l.TerminateInstance(l.Instances()[1].ID)) // by someone else: it is replaced
		l.settles(map[string]int{"InService": 4, "Terminating": 1, "Pending": 1})
		l.settles(map[string]int{"InService": 5})
		l.ok(l.SetDesired("web", 1))
		l.settles(map[string]int{"InService": 1, "Terminating": 4})
		l.settles(map[string]int{"InService": 1})
	})
}

func TestDescribeAutoScalingGroups(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		for n := range 60 {
			l.ok(l.CreateGroup(GroupSpec{Name: fmt.Sprintf("g%02d", n), Tags: map[string]string{"n": fmt.Sprint(n % 2)}}))
		}
		l.ok(l.CreateGroup(GroupSpec{Name: "web", Desired: 2}))
		pages, n := autoscaling.NewDescribeAutoScalingGroupsPaginator(l.asg, &autoscaling.DescribeAutoScalingGroupsInput{}), 0
		count := 0
		for ; pages.HasMorePages(); n++ {
			out, err := pages.NextPage(l.ctx)
			l.ok(err)
			count += len(out.AutoScalingGroups)
		}
		if n != 2 || count != 61 {
			t.Errorf("%d groups in %d pages", count, n)
		}
		time.Sleep(time.Second)
		out, err := l.asg.DescribeAutoScalingGroups(l.ctx, &autoscaling.DescribeAutoScalingGroupsInput{AutoScalingGroupNames: []string{"web", "nobody"}})
		l.ok(err)
		if len(out.AutoScalingGroups) != 1 {
			t.Fatalf("%d groups, want web; an unknown name is no error", len(out.AutoScalingGroups))
		}
		g := out.AutoScalingGroups[0]
		if *g.DesiredCapacity != 2 || *g.MaxSize != 2 || len(g.Instances) != 2 || g.Instances[0].LifecycleState != "InService" || *g.Instances[0].HealthStatus != "Healthy" {
			t.Errorf("got %+v", g)
		}
		ids := []string{*g.Instances[0].InstanceId, *g.Instances[1].InstanceId}
		detail, err := l.asg.DescribeAutoScalingInstances(l.ctx, &autoscaling.DescribeAutoScalingInstancesInput{InstanceIds: ids[:1]})
		l.ok(err)
		if i := detail.AutoScalingInstances; len(i) != 1 || *i[0].AutoScalingGroupName != "web" || *i[0].LifecycleState != "InService" {
			t.Errorf("got %+v", i)
		}
		tagged, err := l.asg.DescribeAutoScalingGroups(l.ctx, &autoscaling.DescribeAutoScalingGroupsInput{
			Filters: []asgtypes.Filter{{Name: aws.String("tag:n"), Values: []string{"1"}}}, MaxRecords: aws.Int32(100),
		})
		l.ok(err)
		if len(tagged.AutoScalingGroups) != 30 {
			t.Errorf("%d groups with the tag, want 30", len(tagged.AutoScalingGroups))
		}
		_, err = l.asg.DescribeAutoScalingGroups(l.ctx, &autoscaling.DescribeAutoScalingGroupsInput{MaxRecords: aws.Int32(101)})
		l.wantCode(err, "ValidationError")
		_, err = l.asg.DescribeAutoScalingGroups(l.ctx, &autoscaling.DescribeAutoScalingGroupsInput{AutoScalingGroupNames: make([]string, 51)})
		l.wantCode(err, "ValidationError")
	})
}

func TestGroupCalls(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		l.ok(l.CreateGroup(GroupSpec{Name: "web", Min: 1, Max: 4, Desired: 2}))
		l.settles(map[string]int{"InService": 2})
		web := aws.String("web")
		set := func(n int32, name string) error {
			_, err := l.asg.SetDesiredCapacity(l.ctx, &autoscaling.SetDesiredCapacityInput{AutoScalingGroupName: &name, DesiredCapacity: &n})
			return err
		}
		l.wantCode(set(5, "web"), "ValidationError")
		l.wantCode(set(0, "web"), "ValidationError")
		l.wantCode(set(1, "nobody"), "ValidationError")
		l.wantCode(l.CreateGroup(GroupSpec{Name: "web"}), "not an API error")
		_, err := l.asg.UpdateAutoScalingGroup(l.ctx, &autoscaling.UpdateAutoScalingGroupInput{AutoScalingGroupName: web, MinSize: aws.Int32(3)})
		l.ok(err)
		l.settles(map[string]int{"InService": 3}) // desired follows the minimum
		id := l.Groups()[0].Members[0].InstanceID
		terminate := func(decrement bool) error {
			_, err := l.asg.TerminateInstanceInAutoScalingGroup(l.ctx, &autoscaling.TerminateInstanceInAutoScalingGroupInput{
				InstanceId: &id, ShouldDecrementDesiredCapacity: &decrement,
			})
			return err
		}
		l.wantCode(terminate(true), "ValidationError") // below the minimum
		l.ok(terminate(false))
		l.reaches(id, "terminated")
		l.settles(map[string]int{"InService": 3})
		_, err = l.asg.DeleteAutoScalingGroup(l.ctx, &autoscaling.DeleteAutoScalingGroupInput{AutoScalingGroupName: web})
		l.wantCode(err, "ResourceInUse")
		_, err = l.asg.DeleteAutoScalingGroup(l.ctx, &autoscaling.DeleteAutoScalingGroupInput{AutoScalingGroupName: web, ForceDelete: aws.Bool(true)})
		l.ok(err)
		l.ok(l.Wait(l.ctx, func() bool { return len(l.Groups()) == 0 }))
	})
}

func TestLaunchHooks(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		l.ok(l.CreateGroup(GroupSpec{Name: "web", Desired: 2, Hooks: []Hook{{Name: "boot", Launch: true, Timeout: time.Minute, Abandon: true}}}))
		l.settles(map[string]int{"Pending:Wait": 2})
		members := l.Groups()[0].Members
		name, hook := aws.String("web"), aws.String("boot")
		complete := func(id, result string) error {
			_, err := l.asg.CompleteLifecycleAction(l.ctx, &autoscaling.CompleteLifecycleActionInput{
				AutoScalingGroupName: name, LifecycleHookName: hook, InstanceId: &id, LifecycleActionResult: &result,
			})
			return err
		}
		beat := func(id string) error {
			_, err := l.asg.RecordLifecycleActionHeartbeat(l.ctx, &autoscaling.RecordLifecycleActionHeartbeatInput{
				AutoScalingGroupName: name, LifecycleHookName: hook, InstanceId: &id,
			})
			return err
		}
		l.ok(complete(members[0].InstanceID, "CONTINUE"))
		l.settles(map[string]int{"InService": 1, "Pending:Wait": 1})
		time.Sleep(50 * time.Second)
		l.ok(beat(members[1].InstanceID))
		time.Sleep(50 * time.Second)
		if got := l.states(); got["Pending:Wait"] != 1 {
			t.Errorf("after a heartbeat: %v", got)
		}
		time.Sleep(20 * time.Second) // it times out: abandoned and replaced
		l.reaches(members[1].InstanceID, "terminated")
		l.settles(map[string]int{"InService": 1, "Pending:Wait": 1})
		l.wantCode(complete(members[1].InstanceID, "CONTINUE"), "ValidationError")
		l.wantCode(beat(members[0].InstanceID), "ValidationError")
	})
}

func TestTerminationHookKeepsTheMachine(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		l.ok(l.CreateGroup(GroupSpec{Name: "web", Desired: 1, Hooks: []Hook{{Name: "bye", Timeout: time.Minute}}}))
		l.settles(map[string]int{"InService": 1})
		id := l.Groups()[0].Members[0].InstanceID
		l.ok(l.SetDesired("web", 0))
		l.settles(map[string]int{"Terminating:Wait": 1})
		time.Sleep(30 * time.Second)
		if got := l.state(id); got != "running" {
			t.Errorf("instance is %q while the hook waits", got)
		}
		l.reaches(id, "terminated")
		l.settles(map[string]int{})
	})
}

func TestStoppedMemberIsReplaced(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		l.ok(l.CreateGroup(GroupSpec{Name: "web", Desired: 1}))
		l.settles(map[string]int{"InService": 1})
		id := l.Groups()[0].Members[0].InstanceID
		_, err := l.ec2.StopInstances(l.ctx, &ec2.StopInstancesInput{InstanceIds: []string{id}})
		l.ok(err)
		l.reaches(id, "terminated")
		l.settles(map[string]int{"InService": 1})
	})
}

func TestLaunchesThatFailAreTriedMoreAndMoreSlowly(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		launches := 0
		l.hw.launches(func(InstanceSpec) error { // one after the other: the group wants one instance
			launches++
			if launches > 5 {
				return nil
			}
			return errors.New("no power")
		})
		start := time.Now()
		l.ok(l.CreateGroup(GroupSpec{Name: "web", Desired: 1}))
		l.settles(map[string]int{"InService": 1})
		if took := time.Since(start); took < 30*time.Second || took > 5*time.Minute {
			t.Errorf("six launches took %v", took)
		}
	})
}
