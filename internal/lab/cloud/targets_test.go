package cloud

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
)

// network is what the instances of a lab in memory answer, by address and port.
type network struct {
	mu     sync.Mutex
	answer func(place string, w http.ResponseWriter, r *http.Request) // nil: nobody listens
}

func (n *network) answers(f func(place string, w http.ResponseWriter, r *http.Request)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answer = f
}

// status answers all requests so.
func (n *network) status(code int) {
	n.answers(func(_ string, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) })
}

func (n *network) dial(_ context.Context, _, address string) (net.Conn, error) {
	n.mu.Lock()
	answer := n.answer
	n.mu.Unlock()
	if answer == nil {
		return nil, errors.New("connection refused")
	}
	client, server := net.Pipe()
	go func() { // ends with the connection
		defer server.Close()
		r, err := http.ReadRequest(bufio.NewReader(server))
		if err != nil {
			return
		}
		w := httptest.NewRecorder()
		answer(address, w, r)
		w.Result().Write(server)
	}()
	return client, nil
}

func (l *lab) balancing(c Credentials) *elb.Client {
	return elb.New(elb.Options{
		Region: l.Region(), BaseEndpoint: aws.String(endpoint), Credentials: static(c), HTTPClient: l.http(), Retryer: aws.NopRetryer{},
	})
}

// health is what DescribeTargetHealth says, by instance: "healthy", or "unhealthy Target.Timeout".
func (l *lab) health(arn string, ids ...string) map[string]string {
	l.Helper()
	in := &elb.DescribeTargetHealthInput{TargetGroupArn: &arn}
	for _, id := range ids {
		in.Targets = append(in.Targets, elbtypes.TargetDescription{Id: aws.String(id)})
	}
	out, err := l.balancing(l.Admin()).DescribeTargetHealth(l.ctx, in)
	l.ok(err)
	states := map[string]string{}
	for _, d := range out.TargetHealthDescriptions {
		states[*d.Target.Id] = strings.TrimSpace(fmt.Sprint(d.TargetHealth.State, " ", d.TargetHealth.Reason))
	}
	return states
}

// turns waits, at most an hour of the bubble's time, until a target's health is so, and says how
// long that took, to a tenth of a second.
func (l *lab) turns(arn, id, want string) time.Duration {
	l.Helper()
	start := time.Now()
	for l.health(arn, id)[id] != want {
		if time.Since(start) > time.Hour {
			l.Fatalf("%s is %q, want %q", id, l.health(arn, id)[id], want)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return time.Since(start)
}

func (l *lab) targetGroup(spec TargetGroupSpec) string {
	l.Helper()
	arn, err := l.CreateTargetGroup(spec)
	l.ok(err)
	return arn
}

func between(t *testing.T, what string, took, low, high time.Duration) {
	t.Helper()
	if took < low || took > high {
		t.Errorf("%s took %s, want %s to %s", what, took, low, high)
	}
}

func TestTargetHealth(t *testing.T) {
	n := &network{}
	inLab(t, Options{Dial: n.dial, Latency: LatencyTable{Register: Fixed(3 * time.Second)}}, func(l *lab) {
		arn := l.targetGroup(TargetGroupSpec{Name: "web", Port: 8080, HealthPath: "/health"})
		id := l.instance(RunSpec{})
		n.answers(func(place string, w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/health" || !strings.HasSuffix(place, ":8080") || r.Header.Get("User-Agent") != "ELB-HealthChecker/2.0" {
				t.Errorf("checked %s%s as %s", place, r.URL.Path, r.UserAgent())
			}
		})
		if got := l.health(arn, id)[id]; got != "unused Target.NotRegistered" {
			t.Errorf("before its registration: %s", got)
		}
		register := &elb.RegisterTargetsInput{TargetGroupArn: &arn, Targets: []elbtypes.TargetDescription{{Id: &id}}}
		_, err := l.balancing(l.Admin()).RegisterTargets(l.ctx, register)
		l.ok(err)
		if got := l.health(arn)[id]; got != "initial Elb.RegistrationInProgress" {
			t.Errorf("at once: %s", got)
		}
		between(t, "the first check", l.turns(arn, id, "healthy"), 3*time.Second, 4*time.Second)

		n.status(503) // two in a row, 30 s apart
		between(t, "becoming unhealthy", l.turns(arn, id, "unhealthy Target.ResponseCodeMismatch"), 30*time.Second, 61*time.Second)
		n.answers(func(string, http.ResponseWriter, *http.Request) { time.Sleep(6 * time.Second) })
		l.turns(arn, id, "unhealthy Target.Timeout")
		n.answers(nil)
		l.turns(arn, id, "unhealthy Target.FailedHealthChecks")
		n.status(200) // five in a row
		between(t, "becoming healthy again", l.turns(arn, id, "healthy"), 120*time.Second, 151*time.Second)
		n.status(302)
		l.turns(arn, id, "unhealthy Target.ResponseCodeMismatch")
		n.status(200)

		l.BreakTargetHealth(arn, true)
		if got := l.health(arn)[id]; got != "unavailable Elb.InternalError" {
			t.Errorf("broken: %s", got)
		}
		l.BreakTargetHealth(arn, false)
		l.ok(l.StopInstance(id))
		l.turns(arn, id, "unused Target.InvalidState")
		l.ok(l.StartInstance(id))
		l.turns(arn, id, "healthy")

		_, err = l.balancing(l.Admin()).DeregisterTargets(l.ctx, &elb.DeregisterTargetsInput{TargetGroupArn: &arn, Targets: register.Targets})
		l.ok(err)
		if got := l.health(arn)[id]; got != "draining Target.DeregistrationInProgress" {
			t.Errorf("deregistered: %s", got)
		}
		between(t, "draining", l.turns(arn, id, "unused Target.NotRegistered"), 300*time.Second, 301*time.Second)
		if got := l.health(arn); len(got) != 0 {
			t.Errorf("an empty group has %v", got)
		}
	})
}

func TestTargetGroupRules(t *testing.T) {
	n := &network{}
	n.status(200)
	inLab(t, Options{Dial: n.dial, Policy: func(_ context.Context, c Check) bool { return c.Principal.InstanceID == "" }}, func(l *lab) {
		arn := l.targetGroup(TargetGroupSpec{Name: "web", Unused: true})
		id, off := l.instance(RunSpec{Role: "r"}), l.instance(RunSpec{})
		l.ok(l.StopInstance(off))
		l.reaches(off, "stopped")
		client := l.balancing(l.Admin())
		register := func(arn, id string) error {
			_, err := client.RegisterTargets(l.ctx, &elb.RegisterTargetsInput{TargetGroupArn: &arn, Targets: []elbtypes.TargetDescription{{Id: &id}}})
			return err
		}
		l.wantCode(register(arn, off), "InvalidTarget")
		l.wantCode(register(arn+"0", id), "TargetGroupNotFound")
		l.wantCode(register(arn, "10.0.0.4"), "ValidationError")
		l.ok(register(arn, id))
		time.Sleep(time.Minute)
		if got := l.health(arn)[id]; got != "unused Target.NotInUse" {
			t.Errorf("no load balancer: %s", got)
		}
		_, err := client.DescribeTargetHealth(l.ctx, &elb.DescribeTargetHealthInput{TargetGroupArn: aws.String(arn + "0")})
		l.wantCode(err, "TargetGroupNotFound")
		l.Fault(Fault{Action: "DescribeTargetHealth", Times: 1, Effect: Effect{Fail: Throttle}})
		_, err = client.DescribeTargetHealth(l.ctx, &elb.DescribeTargetHealthInput{TargetGroupArn: &arn})
		l.wantCode(err, "Throttling")
		role := l.mint("ASIA", Principal{Account: "123456789012", InstanceID: id, Role: "r"}, time.Now().Add(time.Hour))
		_, err = l.balancing(role).DescribeTargetHealth(l.ctx, &elb.DescribeTargetHealthInput{TargetGroupArn: &arn})
		l.wantCode(err, "AccessDenied")
	})
}

// members are the lifecycle state and health of the only group's members, as the API has them.
func (l *lab) members() map[string]string {
	l.Helper()
	out, err := l.asg.DescribeAutoScalingGroups(l.ctx, &autoscaling.DescribeAutoScalingGroupsInput{})
	l.ok(err)
	states := map[string]string{}
	for _, i := range out.AutoScalingGroups[0].Instances {
		states[*i.InstanceId] = fmt.Sprint(i.LifecycleState, " ", *i.HealthStatus)
	}
	return states
}

func TestAutoScalingRegistersAndDrains(t *testing.T) {
	n := &network{}
	n.status(200)
	latency := LatencyTable{Register: Fixed(2 * time.Second), Scaling: Fixed(time.Second)}
	inLab(t, Options{Dial: n.dial, Latency: latency}, func(l *lab) {
		old := l.targetGroup(TargetGroupSpec{Name: "old", Interval: time.Second, DeregistrationDelay: 20 * time.Second})
		fresh := l.targetGroup(TargetGroupSpec{Name: "new", Interval: time.Second, DeregistrationDelay: 20 * time.Second})
		l.wantCode(l.CreateGroup(GroupSpec{Name: "web", Traffic: Traffic{TargetGroups: []string{"arn:nobody"}}}), "not an API error")
		l.ok(l.CreateGroup(GroupSpec{Name: "web", Max: 5, Desired: 1, Hooks: []Hook{{Name: "in", Launch: true, Timeout: 10 * time.Second}, {Name: "out", Timeout: time.Minute}},
			Traffic: Traffic{TargetGroups: []string{old}, Sources: []string{fresh}}}))
		l.settles(map[string]int{"Pending:Wait": 1})
		id := l.Groups()[0].Members[0].InstanceID
		if got := l.health(old, id)[id]; got != "unused Target.NotRegistered" {
			t.Errorf("registered before its hook is done: %s", got)
		}
		l.settles(map[string]int{"InService": 1})
		l.turns(old, id, "healthy")
		l.turns(fresh, id, "healthy")

		out, err := l.asg.DescribeAutoScalingGroups(l.ctx, &autoscaling.DescribeAutoScalingGroupsInput{})
		l.ok(err)
		g := out.AutoScalingGroups[0]
		if !slices.Equal(g.TargetGroupARNs, []string{old}) || len(g.TrafficSources) != 2 || *g.TrafficSources[1].Identifier != fresh || *g.TrafficSources[1].Type != "elbv2" || *g.HealthCheckType != "EC2" {
			t.Errorf("got %+v", g)
		}
		pages := autoscaling.NewDescribeTrafficSourcesPaginator(l.asg, &autoscaling.DescribeTrafficSourcesInput{AutoScalingGroupName: aws.String("web"), MaxRecords: aws.Int32(1)})
		var sources []string
		for pages.HasMorePages() {
			page, err := pages.NextPage(l.ctx)
			l.ok(err)
			for _, s := range page.TrafficSources {
				sources = append(sources, *s.Identifier+" "+*s.State)
			}
		}
		if !slices.Equal(sources, []string{old + " InService", fresh + " InService"}) {
			t.Errorf("sources %v", sources)
		}

		// A request is in flight when the group shrinks: the instance stays until its end.
		release := make(chan struct{})
		n.answers(func(_ string, _ http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/long" {
				<-release
			}
		})
		b := l.Balancer(fresh)
		ended := make(chan int)
		go func() {
			w := httptest.NewRecorder()
			b.ServeHTTP(w, httptest.NewRequest("GET", "http://web/long", nil))
			ended <- w.Code
		}()
		time.Sleep(time.Second)
		l.ok(l.SetDesired("web", 0))
		l.settles(map[string]int{"Terminating": 1})
		time.Sleep(10 * time.Second)
		if got := l.states(); !maps.Equal(got, map[string]int{"Terminating": 1}) || l.health(fresh)[id] != "draining Target.DeregistrationInProgress" {
			t.Errorf("with a request in flight: %v, %v", got, l.health(fresh))
		}
		close(release)
		if code := <-ended; code != 200 {
			t.Errorf("the request in flight: %d", code)
		}
		l.settles(map[string]int{"Terminating:Wait": 1}) // before the 20 s are over
		if got := l.health(old)[id]; got != "draining Target.DeregistrationInProgress" {
			t.Errorf("shown as %s until the delay is over", got)
		}
		l.settles(map[string]int{})
		if c := b.Count(); c.Requests != 1 || c.Failed != 0 || c.ByTarget[id] != 1 {
			t.Errorf("counted %+v", c)
		}
	})
}

// An idle member goes when the load balancer knows that it goes, or when the delay is over.
func TestDrainingTakesUntilTheLoadBalancerKnows(t *testing.T) {
	n := &network{}
	n.status(200)
	for delay, want := range map[time.Duration]time.Duration{time.Minute: 3 * time.Second, time.Second: time.Second} {
		inLab(t, Options{Dial: n.dial, Latency: LatencyTable{Routing: 3 * time.Second}}, func(l *lab) {
			arn := l.targetGroup(TargetGroupSpec{Name: "web", DeregistrationDelay: delay})
			l.ok(l.CreateGroup(GroupSpec{Name: "web", Max: 1, Desired: 1, Traffic: Traffic{Sources: []string{arn}}}))
			l.settles(map[string]int{"InService": 1})
			l.turns(arn, l.Groups()[0].Members[0].InstanceID, "healthy")
			start := time.Now()
			l.ok(l.SetDesired("web", 0))
			l.settles(map[string]int{})
			between(t, "draining", time.Since(start), want, want+time.Second/2)
		})
	}
}

func TestUnhealthyMembersAreReplaced(t *testing.T) {
	n := &network{}
	n.status(200)
	inLab(t, Options{Dial: n.dial, Latency: LatencyTable{Replace: Fixed(5 * time.Second)}}, func(l *lab) {
		arn := l.targetGroup(TargetGroupSpec{Name: "web", Interval: time.Second, DeregistrationDelay: -1})
		l.ok(l.CreateGroup(GroupSpec{Name: "web", Max: 5, Desired: 2, Traffic: Traffic{TargetGroups: []string{arn}, ELBHealth: true, Grace: 30 * time.Second}}))
		l.settles(map[string]int{"InService": 2})
		sick, well := l.Groups()[0].Members[0].InstanceID, l.Groups()[0].Members[1].InstanceID
		address := ""
		for _, i := range l.Instances() {
			if i.ID == sick {
				address = i.Address.String()
			}
		}
		l.turns(arn, sick, "healthy")
		n.answers(func(place string, w http.ResponseWriter, _ *http.Request) {
			if strings.HasPrefix(place, address+":") {
				w.WriteHeader(500)
			}
		})
		l.turns(arn, sick, "unhealthy Target.ResponseCodeMismatch")
		if got := l.members()[sick]; got != "InService Healthy" {
			t.Errorf("within the grace period: %s", got)
		}
		start := time.Now()
		for l.members()[sick] == "InService Healthy" {
			time.Sleep(100 * time.Millisecond)
		}
		between(t, "the grace period", time.Since(start), 20*time.Second, 31*time.Second)
		if got := l.members()[sick]; got != "InService Unhealthy" {
			t.Errorf("after it: %s", got)
		}
		n.status(200)
		for l.members()[sick] == "InService Unhealthy" {
			time.Sleep(100 * time.Millisecond)
		}
		l.settles(map[string]int{"InService": 2})
		if _, there := l.members()[sick]; there || l.members()[well] != "InService Healthy" {
			t.Errorf("members %v", l.members())
		}
		set := func(id, health string, respect bool) error {
			_, err := l.asg.SetInstanceHealth(l.ctx, &autoscaling.SetInstanceHealthInput{InstanceId: &id, HealthStatus: &health, ShouldRespectGracePeriod: &respect})
			return err
		}
		l.wantCode(set(sick, "Unhealthy", true), "ValidationError")
		l.wantCode(set(well, "Fine", true), "ValidationError")
		time.Sleep(time.Minute)
		l.ok(set(well, "Unhealthy", true))
		if got := l.members()[well]; got != "InService Unhealthy" {
			t.Errorf("set unhealthy: %s", got)
		}
		l.ok(set(well, "Healthy", true))
		time.Sleep(time.Minute)
		if got := l.members()[well]; got != "InService Healthy" {
			t.Errorf("set healthy: %s", got)
		}
	})
}

func TestATargetGroupThatNeverWorkedReplacesNobody(t *testing.T) {
	n := &network{}
	n.status(500)
	inLab(t, Options{Dial: n.dial}, func(l *lab) {
		arn := l.targetGroup(TargetGroupSpec{Name: "web", Interval: time.Second})
		l.ok(l.CreateGroup(GroupSpec{Name: "web", Max: 5, Desired: 1, Traffic: Traffic{TargetGroups: []string{arn}, ELBHealth: true}}))
		l.settles(map[string]int{"InService": 1})
		id := l.Groups()[0].Members[0].InstanceID
		l.turns(arn, id, "unhealthy Target.ResponseCodeMismatch")
		time.Sleep(10 * time.Minute)
		if got := l.members()[id]; got != "InService Healthy" {
			t.Errorf("got %s", got)
		}
	})
}

func TestAttachingATargetGroupRegistersMembers(t *testing.T) {
	n := &network{}
	n.status(200)
	inLab(t, Options{Dial: n.dial}, func(l *lab) {
		arn := l.targetGroup(TargetGroupSpec{Name: "web", Interval: time.Second})
		l.ok(l.CreateGroup(GroupSpec{Name: "web", Max: 2, Desired: 1}))
		l.settles(map[string]int{"InService": 1})
		if l.AttachTrafficSource("web", "arn:nobody") == nil || l.AttachTrafficSource("nobody", arn) == nil {
			t.Error("attached to nothing")
		}
		l.ok(l.AttachTrafficSource("web", arn))
		l.ok(l.SetDesired("web", 2))
		l.settles(map[string]int{"InService": 2})
		for _, m := range l.Groups()[0].Members {
			l.turns(arn, m.InstanceID, "healthy")
		}
	})
}

func TestStandby(t *testing.T) {
	n := &network{}
	n.status(200)
	inLab(t, Options{Dial: n.dial}, func(l *lab) {
		arn := l.targetGroup(TargetGroupSpec{Name: "web", Interval: time.Second, DeregistrationDelay: time.Second})
		l.ok(l.CreateGroup(GroupSpec{Name: "web", Max: 2, Desired: 2, Traffic: Traffic{TargetGroups: []string{arn}}}))
		l.settles(map[string]int{"InService": 2})
		id := l.Groups()[0].Members[0].InstanceID
		enter := func() error {
			_, err := l.asg.EnterStandby(l.ctx, &autoscaling.EnterStandbyInput{AutoScalingGroupName: aws.String("web"), InstanceIds: []string{id}, ShouldDecrementDesiredCapacity: aws.Bool(true)})
			return err
		}
		l.ok(enter())
		l.settles(map[string]int{"InService": 1, "Standby": 1})
		l.turns(arn, id, "unused Target.NotRegistered")
		l.wantCode(enter(), "ValidationError")
		_, err := l.asg.ExitStandby(l.ctx, &autoscaling.ExitStandbyInput{AutoScalingGroupName: aws.String("web"), InstanceIds: []string{id}})
		l.ok(err)
		l.settles(map[string]int{"InService": 2})
		l.turns(arn, id, "healthy")
	})
}

func TestInstanceRefresh(t *testing.T) {
	inLab(t, Options{Latency: LatencyTable{Scaling: Fixed(5 * time.Second), Running: Fixed(10 * time.Second)}}, func(l *lab) {
		l.ok(l.CreateGroup(GroupSpec{Name: "web", Max: 5, Desired: 3}))
		l.settles(map[string]int{"InService": 3})
		old := l.members()
		web := aws.String("web")
		refreshes := func() (out []string) {
			got, err := l.asg.DescribeInstanceRefreshes(l.ctx, &autoscaling.DescribeInstanceRefreshesInput{AutoScalingGroupName: web})
			l.ok(err)
			for _, r := range got.InstanceRefreshes {
				out = append(out, fmt.Sprint(r.Status, " ", *r.PercentageComplete))
			}
			return out
		}
		passes := func(want ...string) {
			l.Helper()
			start := time.Now()
			for !slices.Equal(refreshes(), want) {
				if time.Since(start) > time.Hour {
					l.Fatalf("refreshes %v, want %v", refreshes(), want)
				}
				time.Sleep(100 * time.Millisecond)
			}
		}
		begin := func() error {
			_, err := l.asg.StartInstanceRefresh(l.ctx, &autoscaling.StartInstanceRefreshInput{AutoScalingGroupName: web})
			return err
		}
		cancel := func() error {
			_, err := l.asg.CancelInstanceRefresh(l.ctx, &autoscaling.CancelInstanceRefreshInput{AutoScalingGroupName: web})
			return err
		}
		l.wantCode(cancel(), "ActiveInstanceRefreshNotFound")
		l.ok(begin())
		l.wantCode(begin(), "InstanceRefreshInProgress")
		for _, want := range []string{"Pending 0", "InProgress 0", "InProgress 33", "InProgress 66", "Successful 100"} {
			passes(want)
		}
		for id := range l.members() {
			if _, stayed := old[id]; stayed {
				t.Errorf("%s was not replaced", id)
			}
		}
		l.ok(begin())
		passes("InProgress 33", "Successful 100") // the newest first
		l.ok(cancel())
		passes("Cancelling 33", "Successful 100")
		passes("Cancelled 33", "Successful 100")
		l.settles(map[string]int{"InService": 3})
		_, err := l.asg.DescribeInstanceRefreshes(l.ctx, &autoscaling.DescribeInstanceRefreshesInput{AutoScalingGroupName: aws.String("nobody")})
		l.wantCode(err, "ValidationError")
	})
}

func TestBalancer(t *testing.T) {
	n := &network{}
	inLab(t, Options{Dial: n.dial, Latency: LatencyTable{Routing: time.Second}}, func(l *lab) {
		arn := l.targetGroup(TargetGroupSpec{Name: "web", Interval: 10 * time.Second, Timeout: 5 * time.Second})
		b := l.Balancer(arn)
		ask := func() int {
			w := httptest.NewRecorder()
			b.ServeHTTP(w, httptest.NewRequest("GET", "http://web/x", nil))
			return w.Code
		}
		if ask() != 503 || b.Count().Failed != 1 {
			t.Errorf("without a target: %+v", b.Count())
		}
		n.status(200)
		one, two := l.instance(RunSpec{}), l.instance(RunSpec{})
		for _, id := range []string{one, two} {
			l.mu.Lock()
			l.ok(l.register(arn, id))
			l.mu.Unlock()
			l.turns(arn, id, "healthy")
		}
		time.Sleep(2 * time.Second)
		for range 10 {
			if code := ask(); code != 200 {
				t.Errorf("got %d", code)
			}
		}
		if c := b.Count(); c.ByTarget[one] != 5 || c.ByTarget[two] != 5 {
			t.Errorf("not by turns: %+v", c)
		}
		l.mu.Lock()
		l.deregister(arn, one)
		l.mu.Unlock()
		before := b.Count().ByTarget[one]
		ask()
		ask()
		if b.Count().ByTarget[one] == before {
			t.Error("it knew of the draining at once")
		}
		time.Sleep(2 * time.Second)
		before = b.Count().ByTarget[one]
		ask()
		ask()
		if b.Count().ByTarget[one] != before {
			t.Error("a draining target got a request")
		}
		n.status(500)
		if code := ask(); code != 500 || b.Count().Failed != 2 {
			t.Errorf("%d, %+v", code, b.Count())
		}
		n.answers(nil)
		if code := ask(); code != 502 || b.Count().Failed != 3 || len(b.Count().Why) != 3 {
			t.Errorf("%d, %+v", code, b.Count())
		}
	})
}
