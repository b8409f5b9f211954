package cloud

import (
	"encoding/base64"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

func TestRunInstances(t *testing.T) {
	latency := LatencyTable{Power: Fixed(time.Second), Running: Fixed(5 * time.Second)}
	inLab(t, Options{Latency: latency}, func(l *lab) {
		in := &ec2.RunInstancesInput{
			ImageId: aws.String("ami-0123"), InstanceType: "m5.xlarge", MinCount: aws.Int32(1), MaxCount: aws.Int32(1), ClientToken: aws.String("x"),
			UserData: aws.String(base64.StdEncoding.EncodeToString([]byte("#!/bin/sh\n"))), Placement: &types.Placement{AvailabilityZone: aws.String("us-east-1b")},
			IamInstanceProfile: &types.IamInstanceProfileSpecification{Name: aws.String("web")}, TagSpecifications: tags("instance", "Name", "n"),
		}
		out, err := l.ec2.RunInstances(l.ctx, in)
		l.ok(err)
		i := out.Instances[0]
		if i.State.Name != "pending" || *i.PrivateIpAddress != "10.0.0.4" || *i.Placement.AvailabilityZone != "us-east-1b" || tagMap(i.Tags)["Name"] != "n" {
			t.Errorf("got %+v", i)
		}
		again, err := l.ec2.RunInstances(l.ctx, in)
		l.ok(err)
		if *again.Instances[0].InstanceId != *i.InstanceId {
			t.Error("the client token made a second instance")
		}
		time.Sleep(2 * time.Second)
		l.hw.mu.Lock()
		got := l.hw.specs[0]
		l.hw.mu.Unlock()
		if got.ID != *i.InstanceId || got.Role != "web" || string(got.UserData) != "#!/bin/sh\n" || got.Address.String() != "10.0.0.4" {
			t.Errorf("launched %+v", got)
		}
		if state := l.state(got.ID); state != "pending" { // row 1
			t.Errorf("the machine runs and EC2 says %s, want pending", state)
		}
		waiter := ec2.NewInstanceRunningWaiter(l.ec2)
		l.ok(waiter.Wait(l.ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{got.ID}}, time.Minute))
	})
}

func TestInstanceLifecycle(t *testing.T) {
	inLab(t, Options{Latency: LatencyTable{Shutdown: Fixed(time.Second), Running: Fixed(time.Second)}}, func(l *lab) {
		id := l.instance(RunSpec{})
		ids := []string{id}
		_, err := l.ec2.RebootInstances(l.ctx, &ec2.RebootInstancesInput{InstanceIds: ids})
		l.ok(err)
		stopped, err := l.ec2.StopInstances(l.ctx, &ec2.StopInstancesInput{InstanceIds: ids})
		l.ok(err)
		if c := stopped.StoppingInstances[0]; c.CurrentState.Name != "stopping" || c.PreviousState.Name != "running" {
			t.Errorf("got %+v", c)
		}
		_, err = l.ec2.StartInstances(l.ctx, &ec2.StartInstancesInput{InstanceIds: ids})
		l.wantCode(err, "IncorrectInstanceState")
		l.reaches(id, "stopped")
		_, err = l.ec2.RebootInstances(l.ctx, &ec2.RebootInstancesInput{InstanceIds: ids})
		l.wantCode(err, "IncorrectInstanceState")
		_, err = l.ec2.StartInstances(l.ctx, &ec2.StartInstancesInput{InstanceIds: ids})
		l.ok(err)
		l.reaches(id, "running")
		gone, err := l.ec2.TerminateInstances(l.ctx, &ec2.TerminateInstancesInput{InstanceIds: ids})
		l.ok(err)
		if gone.TerminatingInstances[0].CurrentState.Name != "shutting-down" {
			t.Errorf("got %+v", gone.TerminatingInstances[0])
		}
		l.reaches(id, "terminated")
		_, err = l.ec2.TerminateInstances(l.ctx, &ec2.TerminateInstancesInput{InstanceIds: ids}) // once more is no error
		l.ok(err)
		if want := []string{"launch " + id, "reboot " + id, "stop " + id, "start " + id, "terminate " + id}; !slices.Equal(l.hw.log(), want) {
			t.Errorf("hardware saw %v, want %v", l.hw.log(), want)
		}
		out, err := l.ec2.DescribeInstances(l.ctx, &ec2.DescribeInstancesInput{InstanceIds: ids})
		l.ok(err)
		if i := out.Reservations[0].Instances[0]; i.State.Name != "terminated" || i.PrivateIpAddress != nil || *i.StateReason.Code != reasonUser {
			t.Errorf("terminated: %+v", i)
		}
		time.Sleep(61 * time.Minute)
		_, err = l.ec2.DescribeInstances(l.ctx, &ec2.DescribeInstancesInput{InstanceIds: ids})
		l.wantCode(err, "InvalidInstanceID.NotFound")
	})
}

func TestAddressesAreUsedAgain(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		first := l.instance(RunSpec{})
		l.instance(RunSpec{})
		l.ok(l.TerminateInstance(first))
		l.reaches(first, "terminated")
		third := l.instance(RunSpec{})
		if got := l.Instances()[2]; got.ID != third || got.Address.String() != "10.0.0.4" {
			t.Errorf("third instance %+v, want the address of the first", got)
		}
	})
}

func TestDescribeInstancesPagesAndFilters(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		for n := range 11 {
			l.instance(RunSpec{Tags: map[string]string{"even": []string{"yes", "no"}[n%2]}})
		}
		l.ok(l.TerminateInstance(l.Instances()[10].ID))
		pages := ec2.NewDescribeInstancesPaginator(l.ec2, &ec2.DescribeInstancesInput{MaxResults: aws.Int32(5), Filters: []types.Filter{
			{Name: aws.String("instance-state-name"), Values: []string{"running"}}, {Name: aws.String("tag:even"), Values: []string{"yes"}},
		}})
		n := 0
		for pages.HasMorePages() {
			out, err := pages.NextPage(l.ctx)
			l.ok(err)
			for _, r := range out.Reservations {
				n += len(r.Instances)
			}
		}
		if n != 5 {
			t.Errorf("%d instances, want 5", n)
		}
		id := l.Instances()[0].ID
		_, err := l.ec2.DescribeInstances(l.ctx, &ec2.DescribeInstancesInput{MaxResults: aws.Int32(5), InstanceIds: []string{id}})
		l.wantCode(err, "InvalidParameterCombination")
		_, err = l.ec2.DescribeInstances(l.ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{id, "i-0123456789abcdef0"}})
		l.wantCode(err, "InvalidInstanceID.NotFound")
		_, err = l.ec2.DescribeInstances(l.ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{"10.0.0.4"}})
		l.wantCode(err, "InvalidInstanceID.Malformed")
	})
}

func TestLaunchThatFailsEndsTerminated(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		l.hw.launches(func(InstanceSpec) error { return errors.New("no power") })
		id, err := l.RunInstance(l.ctx, RunSpec{})
		l.ok(err)
		l.reaches(id, "terminated")
		if got := l.Instances()[0].Reason; got != reasonInternal {
			t.Errorf("reason %q", got)
		}
		l.ok(l.Wait(l.ctx, func() bool { return len(l.Volumes()) == 0 })) // the root volume goes, too
	})
}

func TestTerminateWhilePending(t *testing.T) {
	inLab(t, Options{Latency: LatencyTable{Power: Fixed(time.Minute)}}, func(l *lab) {
		id, err := l.RunInstance(l.ctx, RunSpec{})
		l.ok(err)
		l.ok(l.TerminateInstance(id))
		l.reaches(id, "terminated")
		time.Sleep(2 * time.Minute)
		if saw := l.hw.log(); len(saw) != 0 {
			t.Errorf("hardware saw %v, want nothing", saw)
		}
	})
}
