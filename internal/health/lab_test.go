package health_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"ebs-release/internal/fleet"
	"ebs-release/internal/health"
	"ebs-release/internal/lab/cloud"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
)

// account is a lab whose machines are one web server, asked over HTTP by AWS's own SDK.
type account struct {
	*testing.T
	*cloud.Account
	asg *autoscaling.Client
	elb *elb.Client

	mu  sync.Mutex
	bad map[string]bool // addresses whose health check fails
}

// hardware is disks and machines that are only on paper.
type hardware struct{ cloud.Hardware }

func (hardware) CreateVolume(context.Context, string, int32, string) error { return nil }
func (hardware) DeleteVolume(context.Context, string) error                { return nil }
func (hardware) Launch(context.Context, cloud.InstanceSpec) error          { return nil }
func (hardware) Terminate(context.Context, string) error                   { return nil }

func newAccount(t *testing.T, policy cloud.Policy) *account {
	t.Helper()
	a := &account{T: t, bad: map[string]bool{}}
	machine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if host, _, _ := net.SplitHostPort(r.Host); a.bad[host] {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(machine.Close)
	var err error
	a.Account, err = cloud.New(cloud.Options{
		Hardware: hardware{}, Policy: policy, Seed: 1,
		Latency: cloud.LatencyTable{Replace: cloud.Fixed(time.Minute)}, // an unhealthy member stays to be looked at
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, machine.Listener.Addr().String())
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	api := httptest.NewServer(a.EC2Handler())
	t.Cleanup(api.Close)
	a.asg, a.elb = clients(api.URL, a.Admin())
	return a
}

// clients are those of the SDK, which try again at once.
func clients(url string, c cloud.Credentials) (*autoscaling.Client, *elb.Client) {
	keys := credentials.NewStaticCredentialsProvider(c.AccessKeyID, c.SecretAccessKey, c.SessionToken)
	retryer := retry.NewStandard(func(o *retry.StandardOptions) { o.MaxAttempts, o.MaxBackoff = 8, time.Millisecond })
	return autoscaling.New(autoscaling.Options{Region: "us-east-1", BaseEndpoint: &url, Credentials: keys, Retryer: retryer}),
		elb.New(elb.Options{Region: "us-east-1", BaseEndpoint: &url, Credentials: keys, Retryer: retryer})
}

func (a *account) checker(kind string) health.Checker {
	return health.Checker{Kind: kind, Groups: a.asg, Balancers: a.elb}
}

func (a *account) ok(err error) {
	a.Helper()
	if err != nil {
		a.Fatal(err)
	}
}

func (a *account) targetGroup(name string) string {
	a.Helper()
	arn, err := a.CreateTargetGroup(cloud.TargetGroupSpec{Name: name, Interval: 5 * time.Millisecond, HealthyAfter: 1, DeregistrationDelay: time.Hour})
	a.ok(err)
	return arn
}

// group makes a group and waits until its n members are in service, which it returns.
func (a *account) group(name string, n int32, traffic cloud.Traffic) []fleet.Member {
	a.Helper()
	a.ok(a.CreateGroup(cloud.GroupSpec{Name: name, Max: 2 * n, Traffic: traffic}))
	a.ok(a.SetDesired(name, n))
	a.waits(func() bool { return len(a.in(name, "InService")) == int(n) })
	return a.in(name, "InService")
}

// in are the members of a group in a lifecycle state.
func (a *account) in(name, state string) (members []fleet.Member) {
	for _, g := range a.Groups() {
		for _, m := range g.Members {
			if g.Name == name && m.State == state {
				members = append(members, fleet.Member{InstanceID: m.InstanceID, Group: name, LifecycleState: state})
			}
		}
	}
	return members
}

func (a *account) waits(ok func() bool) {
	a.Helper()
	ctx, cancel := context.WithTimeout(a.Context(), 10*time.Second)
	defer cancel()
	if a.Wait(ctx, ok) != nil {
		a.Fatal("what was waited for did not come")
	}
}

// turns waits until a target is in a state.
func (a *account) turns(arn, id, state string) {
	a.Helper()
	a.waits(func() bool {
		for _, g := range a.TargetGroups() {
			for _, t := range g.Targets {
				if g.ARN == arn && t.InstanceID == id && t.State == state {
					return true
				}
			}
		}
		return false
	})
}

func (a *account) breaks(id string) {
	for _, i := range a.Instances() {
		if i.ID == id {
			a.mu.Lock()
			a.bad[i.Address.String()] = true
			a.mu.Unlock()
		}
	}
}

// look returns the reasons, of which there are none for other members.
func look(t *testing.T, c health.Checker, members []fleet.Member) map[string]string {
	t.Helper()
	reasons, err := c.Look(t.Context(), members)
	if err != nil {
		t.Fatal(err)
	}
	return reasons
}

// says checks an error's words.
func says(t *testing.T, err error, want ...string) {
	t.Helper()
	for _, w := range want {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("the error is %q, want %q in it", err, w)
		}
	}
}

var web = aws.String("web")
