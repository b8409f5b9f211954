package lab

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/host"
)

// TestHealthChecksReachHosts: a target is healthy while a web server runs on its host, and gets the
// requests of the load balancer then.
func TestHealthChecksReachHosts(t *testing.T) {
	l := start(t, standIns(t))
	ctx := deadline(t, time.Minute)
	arn, err := l.Account.CreateTargetGroup(cloud.TargetGroupSpec{Name: "web", Port: 8000, HealthPath: "/health",
		Interval: 50 * time.Millisecond, Timeout: time.Second, HealthyAfter: 2, DeregistrationDelay: time.Second})
	do(t, err)
	do(t, l.Account.CreateGroup(cloud.GroupSpec{Name: "web", Max: 2, Desired: 2, Launch: l.Member(), Traffic: cloud.Traffic{Sources: []string{arn}}}))
	hosts, err := l.AllBooted(ctx, "web", 2)
	do(t, err)
	turns := func(h *host.Host, state, reason string) {
		t.Helper()
		var now cloud.Target
		if l.Account.Wait(ctx, func() bool {
			for _, target := range l.Account.TargetGroups()[0].Targets {
				if target.InstanceID == h.ID {
					now = target
				}
			}
			return now.State == state && now.Reason == reason
		}) != nil {
			t.Fatalf("%s is %+v, want %s %s", h.ID, now, state, reason)
		}
	}
	for _, h := range hosts {
		turns(h, "unhealthy", "Target.FailedHealthChecks") // nobody listens
	}
	serve, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan struct{})
	go func() { // ends with stop
		defer close(ended)
		hosts[0].Run(serve, "sh", "-ec", "mkdir /tmp/web; cd /tmp/web; echo fine > health; exec python3 -m http.server 8000")
	}()
	turns(hosts[0], "healthy", "")
	balancer := l.Account.Balancer(arn)
	for range 4 {
		w := httptest.NewRecorder()
		balancer.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://web/health", nil))
		if w.Code != http.StatusOK || w.Body.String() != "fine\n" {
			t.Errorf("got %d %q", w.Code, w.Body)
		}
	}
	if c := balancer.Count(); c.Requests != 4 || c.Failed != 0 || c.ByTarget[hosts[0].ID] != 4 {
		t.Errorf("counted %+v", c)
	}
	_, err = hosts[0].Run(ctx, "rm", "/tmp/web/health")
	do(t, err)
	turns(hosts[0], "unhealthy", "Target.ResponseCodeMismatch")
	stop()
	<-ended
	turns(hosts[0], "unhealthy", "Target.FailedHealthChecks")
	do(t, hosts[1].PowerOff()) // its address answers nothing
	turns(hosts[1], "unhealthy", "Target.FailedHealthChecks")
}
