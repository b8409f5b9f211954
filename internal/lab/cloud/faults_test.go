package cloud

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

func TestFaults(t *testing.T) {
	for name, c := range map[string]struct {
		effect   Effect
		code     string // "" for a broken or hung call
		volumes  int    // made all the same
		recorded string
	}{
		"throttled":           {Effect{Fail: Throttle}, "RequestLimitExceeded", 0, "RequestLimitExceeded"},
		"server error":        {Effect{Fail: ServerError}, "InternalError", 0, "InternalError"},
		"server error, done":  {Effect{Fail: ServerError, After: true}, "InternalError", 1, "InternalError"},
		"not found":           {Effect{Fail: NotFound}, "InvalidVolume.NotFound", 0, "InvalidVolume.NotFound"},
		"unauthorized":        {Effect{Fail: Unauthorized}, "UnauthorizedOperation", 0, "UnauthorizedOperation"},
		"own error":           {Effect{Fail: Answer, Code: "VolumeLimitExceeded", Message: "m"}, "VolumeLimitExceeded", 0, "VolumeLimitExceeded"},
		"reset before":        {Effect{Fail: Reset}, "not an API error", 0, ""},
		"reset after":         {Effect{Fail: Reset, After: true}, "not an API error", 1, ""},
		"hung before":         {Effect{Fail: Hang}, "not an API error", 0, ""},
		"hung after":          {Effect{Fail: Hang, After: true}, "not an API error", 1, ""},
		"only late":           {Effect{Delay: 3 * time.Second}, "", 1, ""},
		"late for the client": {Effect{Delay: time.Minute}, "not an API error", 1, ""}, // EC2 goes on when the client leaves
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, Options{}, func(l *lab) {
				l.Fault(Fault{Action: "CreateVolume", Principal: "admin", Skip: 1, Times: 1, Effect: c.effect})
				create := func() error {
					ctx, cancel := context.WithTimeout(l.ctx, 10*time.Second)
					defer cancel()
					_, err := l.ec2.CreateVolume(ctx, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1)})
					return err
				}
				l.ok(create())
				l.wantCode(create(), c.code)
				l.ok(create())
				time.Sleep(time.Minute)
				if got := len(l.Volumes()) - 2; got != c.volumes {
					t.Errorf("the call made %d volumes, want %d", got, c.volumes)
				}
				calls := l.Calls()
				if len(calls) != 3 || calls[1].Code != c.recorded || !calls[1].Faulted || calls[0].Faulted || calls[2].Resource == "" {
					t.Errorf("recorded %+v", calls)
				}
			})
		})
	}
}

func TestFaultCallsBackInTheMiddle(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		seen := -1
		disarm := l.Fault(Fault{Action: "Create*", Effect: Effect{After: true, Do: func(c Call) {
			if c.Action == "CreateVolume" {
				seen = len(l.Volumes())
			}
		}}})
		l.volume()
		if seen != 1 {
			t.Errorf("called back with %d volumes there, want 1", seen)
		}
		disarm()
		l.volume()
		if seen != 1 {
			t.Error("called back when disarmed")
		}
	})
}

func TestSDKRetriesWhatIsRetryable(t *testing.T) {
	for name, effect := range map[string]Effect{
		"throttled": {Fail: Throttle}, "server error": {Fail: ServerError}, "reset": {Fail: Reset},
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, Options{}, func(l *lab) {
				l.Fault(Fault{Times: 2, Effect: effect})
				client := l.client(l.Admin(), func(o *ec2.Options) { o.Retryer = retry.NewStandard() })
				if _, err := client.DescribeVolumes(l.ctx, &ec2.DescribeVolumesInput{}); err != nil {
					t.Errorf("the third attempt should have been good: %v", err)
				}
				if n := len(l.Calls()); n != 3 {
					t.Errorf("%d calls, want 3", n)
				}
			})
		})
	}
}

func TestDiskFaultsGoWithCallsThatAreAnsweredWell(t *testing.T) {
	inLab(t, Options{Latency: LatencyTable{Volume: Fixed(5 * time.Second)}}, func(l *lab) {
		instance := l.instance(RunSpec{})
		l.Fault(Fault{Action: "AttachVolume", Times: 1, Effect: Effect{Disk: DiskFault{Stuck: true}}})
		made, err := l.ec2.CreateVolume(l.ctx, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(2)})
		l.ok(err)
		l.wantCode(l.attach(*made.VolumeId, instance, "/dev/xvdaa"), "IncorrectState") // not available yet
		l.reaches(*made.VolumeId, "available")
		l.ok(l.attach(*made.VolumeId, instance, "/dev/xvdaa"))
		time.Sleep(time.Minute)
		if got := l.state(*made.VolumeId); got != "attaching" {
			t.Errorf("state %q", got)
		}
		other := l.volume()
		l.ok(l.attach(other, instance, "/dev/xvdab"))
		l.reaches(other, "attached")
	})
}

func TestDiskFaults(t *testing.T) {
	for name, c := range map[string]struct {
		fault DiskFault
		state string        // after ten seconds
		disk  time.Duration // when the machine gets it; -1: never
		event string
	}{
		"stuck":     {DiskFault{Stuck: true}, "attaching", -1, "attach"},
		"late":      {DiskFault{Late: 5 * time.Second}, "attached", 6 * time.Second, "attach"},
		"never":     {DiskFault{Never: true}, "attached", -1, "attach"},
		"size zero": {DiskFault{SizeZero: 4 * time.Second}, "attached", 5 * time.Second, "attach"},
		"empty":     {DiskFault{SizeZero: 4 * time.Second}, "attached", time.Second, "attach-empty"},
		"sound":     {DiskFault{}, "attached", time.Second, "attach"},
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, Options{Latency: LatencyTable{Device: Fixed(time.Second), Attached: Fixed(2 * time.Second)}}, func(l *lab) {
				l.Fault(Fault{Action: "AttachVolume", Effect: Effect{Disk: c.fault}})
				volume, instance := l.volume(), l.instance(RunSpec{})
				l.ok(l.attach(volume, instance, "/dev/xvdaa"))
				event := c.event + " " + volume + " " + instance
				if c.disk > 0 {
					time.Sleep(c.disk - 100*time.Millisecond)
					if l.hw.seen(event) {
						t.Error("the disk came too early")
					}
					time.Sleep(200 * time.Millisecond)
				} else {
					time.Sleep(10 * time.Second)
				}
				if got := l.hw.seen(event); got != (c.disk > 0) {
					t.Errorf("the disk is there: %v", got)
				}
				time.Sleep(10 * time.Second)
				if got := l.state(volume); got != c.state {
					t.Errorf("state %q, want %q", got, c.state)
				}
			})
		})
	}
}

func TestVanishingVolumeAndErrors(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		create := func() string {
			out, err := l.ec2.CreateVolume(l.ctx, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1)})
			l.ok(err)
			return *out.VolumeId
		}
		l.Fault(Fault{Action: "CreateVolume", Times: 1, Effect: Effect{Disk: DiskFault{Vanish: 3 * time.Second}}})
		id := create()
		time.Sleep(2 * time.Second)
		if got := l.state(id); got != "creating" {
			t.Errorf("state %q, want creating", got)
		}
		l.reaches(id, "")
		l.Fault(Fault{Action: "Create*", Times: 1, Effect: Effect{Disk: DiskFault{Error: true}}})
		l.reaches(create(), "error")
		volume := create()
		l.reaches(volume, "available")
		l.Fault(Fault{Action: "CreateSnapshot", Effect: Effect{Disk: DiskFault{Error: true}}})
		out, err := l.ec2.CreateSnapshot(l.ctx, &ec2.CreateSnapshotInput{VolumeId: &volume})
		l.ok(err)
		l.reaches(*out.SnapshotId, "error")
	})
}

func TestRequestLimits(t *testing.T) {
	inLab(t, Options{Latency: LatencyTable{Limits: AWSLimits()}}, func(l *lab) {
		burst := func(call func() error) (good int) {
			for range 700 {
				switch err := call(); codeOf(err) {
				case "":
					good++
				case "RequestLimitExceeded", "Throttling":
				default:
					t.Fatal(err)
				}
			}
			return good
		}
		filtered := func() error {
			_, err := l.ec2.DescribeVolumes(l.ctx, &ec2.DescribeVolumesInput{Filters: []types.Filter{{Name: aws.String("status"), Values: []string{"x"}}}})
			return err
		}
		plain := func() error { _, err := l.ec2.DescribeVolumes(l.ctx, &ec2.DescribeVolumesInput{}); return err }
		attach := func() error {
			_, err := l.ec2.AttachVolume(l.ctx, &ec2.AttachVolumeInput{
				VolumeId: aws.String("vol-0123456789abcdef0"), InstanceId: aws.String("i-0123456789abcdef0"), Device: aws.String("/dev/sdf"),
			})
			if codeOf(err) == "InvalidInstanceID.NotFound" {
				return nil // it was admitted
			}
			return err
		}
		groups := func() error {
			_, err := l.asg.DescribeAutoScalingGroups(l.ctx, &autoscaling.DescribeAutoScalingGroupsInput{})
			return err
		}
		identity := func() error {
			_, err := l.sts.GetCallerIdentity(l.ctx, &sts.GetCallerIdentityInput{})
			return err
		}
		for _, c := range []struct {
			name string
			call func() error
			want int
		}{
			{"identities", identity, 600}, {"filtered", filtered, 100}, {"unfiltered", plain, 50}, {"mutating", attach, 50}, {"auto scaling", groups, 100},
		} {
			if got := burst(c.call); got != c.want {
				t.Errorf("%s: %d calls went through, want %d", c.name, got, c.want)
			}
		}
		time.Sleep(2 * time.Second)
		if got := burst(filtered); got != 40 {
			t.Errorf("after two seconds: %d, want 40", got)
		}
		if got := burst(attach); got != 10 {
			t.Errorf("after two seconds: %d, want 10", got)
		}
	})
}

// Row 5: an id that was just made is not found yet, and a Describe may go back in time; both pass.
func TestReadsMayBeOld(t *testing.T) {
	inLab(t, Options{Latency: LatencyTable{Lag: Lag{Chance: 0.7, Max: 2 * time.Second}}}, func(l *lab) {
		out, err := l.ec2.CreateVolume(l.ctx, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1)})
		l.ok(err)
		id := *out.VolumeId
		l.reaches(id, "available")
		count := map[string]int{}
		look := func() {
			out, err := l.ec2.DescribeVolumes(l.ctx, &ec2.DescribeVolumesInput{VolumeIds: []string{id}})
			if err != nil {
				count[codeOf(err)]++
				return
			}
			state := string(out.Volumes[0].State)
			count[state]++
			if count["available"] > 0 && state == "creating" {
				count["back in time"]++
			}
		}
		for range 1000 {
			time.Sleep(time.Millisecond)
			look()
		}
		_, err = l.ec2.DeleteVolume(l.ctx, &ec2.DeleteVolumeInput{VolumeId: aws.String("vol-0123456789abcdef0")})
		l.wantCode(err, "InvalidVolume.NotFound")
		if count["InvalidVolume.NotFound"] == 0 || count["available"] == 0 || count["back in time"] == 0 {
			t.Errorf("in the first second: %v", count)
		}
		time.Sleep(2 * time.Second)
		clear(count)
		for range 100 {
			look()
		}
		if count["available"] != 100 {
			t.Errorf("after the longest lag: %v", count)
		}
	})
}

func TestRealisticLatencies(t *testing.T) {
	inLab(t, Options{Latency: Realistic()}, func(l *lab) {
		var create, attach time.Duration
		const n = 20
		for range n {
			start := time.Now()
			volume := l.volume()
			create += time.Since(start)
			instance := l.instance(RunSpec{})
			for l.attach(volume, instance, "/dev/xvdaa") != nil { // not found yet, or throttled
				time.Sleep(time.Second)
			}
			start = time.Now()
			l.reaches(volume, "attached")
			attach += time.Since(start)
		}
		if mean := create / n; mean < 1200*time.Millisecond || mean > 3*time.Second {
			t.Errorf("create took %v on average", mean)
		}
		if mean := attach / n; mean < time.Second || mean > 4*time.Second {
			t.Errorf("attach took %v on average", mean)
		}
	})
}

// Over a real socket a broken connection is one to the SDK, too.
func TestResetOverTCP(t *testing.T) {
	a, err := New(Options{Hardware: &memory{}})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	server := httptest.NewServer(a.EC2Handler())
	defer server.Close()
	a.Fault(Fault{Times: 1, Effect: Effect{Fail: Reset}})
	admin := a.Admin()
	client := ec2.New(ec2.Options{Region: a.Region(), BaseEndpoint: &server.URL, Credentials: static(admin), Retryer: aws.NopRetryer{}, HTTPClient: &http.Client{}})
	_, err = client.DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{})
	if retryable := (retry.RetryableConnectionError{}).IsErrorRetryable(err); err == nil || retryable != aws.TrueTernary && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a broken connection", err)
	}
	if _, err := client.DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{}); err != nil {
		t.Error(err)
	}
}
