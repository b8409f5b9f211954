package e2e

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/cloud"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
)

// application serves the release that was current when it started, on port 8000; a start takes a
// moment. Its health check fails while it drains. /drained says whether the load balancer has left:
// after three failed checks, or none at all, no request for half a second.
const application = `#!/usr/bin/python3
import http.server, os, sys, threading, time

DRAIN = "/tmp/application.drain"
os.setgid(61200)
os.setuid(61200)
open("/tmp/application.pid", "w").write(str(os.getpid()))
version = open("/release/current/version").read().strip()
time.sleep(0.3)
lock = threading.Lock()
failed = busy = 0
last = began = 0.0

class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128

class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, code, text):
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_GET(self):
        global failed, busy, last, began
        draining = os.path.exists(DRAIN)
        now = time.monotonic()
        with lock:
            if not draining:
                failed, began = 0, 0.0
            elif not began:
                began = now
        if self.path == "/version":
            return self.answer(500 if version.startswith("bad") else 200, version)
        if self.path == "/health":
            failed += draining
            return self.answer(503 if draining or version.startswith("bad") else 200, "")
        if self.path == "/drained":
            left = (failed >= 3 or not failed and now - began > 3) and not busy and now - last > 0.5
            return self.answer(200 if draining and left else 503, "")
        with lock:
            busy, last = busy + 1, now
        time.sleep(0.02)
        self.answer(500 if version.startswith("bad") else 200, version)
        with lock:
            busy -= 1

Server(("", 8000), Handler).serve_forever()
`

// The operator's programs on a member behind a load balancer: out of it, a new start, back into it.
var behindBalancer = map[string]string{
	"/usr/bin/application": `#!/bin/sh
set -eu
cd /release/current/
[ "$1" = run ] || { readlink /release/current > /run/app.started; exit 0; }
cd /
while :; do /usr/bin/application.py || sleep 0.1; done
`,
	"/usr/bin/application.py": application,
	"/etc/ebs-release/drain.d/10-drain": `#!/bin/sh
set -eu
touch /tmp/application.drain
while :; do
	case $(curl -s -m 5 -o /dev/null -w '%{http_code}' http://127.0.0.1:8000/drained || :) in
	200 | 000) exit 0 ;; # 000: nobody serves here
	esac
	sleep 0.1
done
`,
	"/etc/ebs-release/activate.d/10-restart": `#!/bin/sh
kill "$(cat /tmp/application.pid)" 2>/dev/null || : # it is started again
`,
	"/etc/ebs-release/ready.d/10-serves": `#!/bin/sh
set -eu
test "$(curl -fsS -m 5 http://127.0.0.1:8000/version)" = "$(cat /release/current/version)"
rm -f /tmp/application.drain
`,
}

// balanced is a rig whose group "web" is behind a load balancer, which clients ask all the time.
type balanced struct {
	*rig
	balancer *cloud.Balancer
	arn      string
}

func newBalanced(t *testing.T, change func(*lab.Options)) *balanced {
	t.Helper()
	r := published(t, func(o *lab.Options) {
		o.MemberFiles = behindBalancer
		o.AgentSettings["ready-timeout"] = "8s"
		o.PublisherSettings["member-timeout"] = "60s" // drains, restarts and waits until it serves
		o.Latency.Routing = 200 * time.Millisecond
		if change != nil {
			change(o)
		}
	})
	arn, err := r.lab.Account.CreateTargetGroup(cloud.TargetGroupSpec{Name: "web", Port: 8000, HealthPath: "/health",
		Interval: 200 * time.Millisecond, HealthyAfter: 2, DeregistrationDelay: 5 * time.Second})
	must(t, err)
	must(t, r.lab.Account.AttachTrafficSource("web", arn))
	return &balanced{r, r.lab.Account.Balancer(arn), arn}
}

// serving waits until n members get requests.
func (b *balanced) serving(n int) {
	b.Helper()
	must(b, b.lab.Account.Wait(within(b, time.Minute), func() bool { return b.healthy() == n }))
	time.Sleep(300 * time.Millisecond) // until the load balancer knows them: see Latency.Routing
}

func (b *balanced) healthy() (n int) {
	for _, g := range b.lab.Account.TargetGroups() {
		for _, t := range g.Targets {
			if t.State == "healthy" {
				n++
			}
		}
	}
	return n
}

// clients ask until the function that is returned is called, which says what the load balancer has
// counted meanwhile, and the fewest members that were healthy.
func (b *balanced) clients() (stop func() (cloud.BalancerCount, int)) {
	before, fewest := b.balancer.Count(), b.healthy()
	quit := make(chan struct{})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() { // ends with quit
			for {
				select {
				case <-quit:
					return
				case <-time.After(10 * time.Millisecond):
				}
				b.balancer.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "http://web/", nil))
			}
		})
	}
	all.Go(func() {
		for {
			changed := b.lab.Account.Changed()
			fewest = min(fewest, b.healthy())
			select {
			case <-quit:
				return
			case <-changed:
			}
		}
	})
	return func() (cloud.BalancerCount, int) {
		close(quit)
		all.Wait()
		after := b.balancer.Count()
		after.Requests, after.Failed = after.Requests-before.Requests, after.Failed-before.Failed
		return after, fewest
	}
}

// TestARestartEverywhereFailsRequests: what a rollout is there for. A publish without steps has all
// members out of the load balancer at once.
func TestARestartEverywhereFailsRequests(t *testing.T) {
	b := newBalanced(t, nil)
	b.scale(2)
	b.serving(2)
	stop := b.clients()
	b.sh("echo two > /srv/source/version")
	b.ok("publish", "/srv/source")
	count, fewest := stop()
	if count.Failed == 0 || fewest > 0 {
		t.Errorf("%d of %d requests failed, at least %d members were healthy: does the rig see a restart?", count.Failed, count.Requests, fewest)
	}
	t.Logf("%d of %d requests failed: %q", count.Failed, count.Requests, count.Why)
}

// inSteps are the settings of a rollout behind a load balancer, a quarter of four members at once.
func inSteps(o *lab.Options) {
	for key, value := range map[string]string{
		"steps": "1,50%", "at-once": "1", "healthy": "target-groups", "health-timeout": "60s", "converge-deadline": "2m",
	} {
		o.PublisherSettings[key] = value
	}
}

// TestNoRequestFailsInARollout: an application that restarts, behind a load balancer, with a
// program that drains. No request fails, neither of a good release nor of a bad one, and never is
// more than one of four members out of service.
func TestNoRequestFailsInARollout(t *testing.T) {
	b := newBalanced(t, inSteps)
	members := b.scale(4)
	b.serving(4)
	stop := b.clients()
	b.sh("echo two > /srv/source/version")
	b.ok("publish", "/srv/source")
	b.allHave(members, "two", 2)
	b.sh("echo bad three > /srv/source/version")
	refused(t, b.publisher("publish", "/srv/source"), 6)
	b.allHave(members, "two", 4)
	count, fewest := stop()
	if count.Failed > 0 || count.Requests < 100 {
		t.Errorf("%d of %d requests failed: %q", count.Failed, count.Requests, count.Why)
	}
	if fewest < 3 {
		t.Errorf("only %d of 4 members were healthy at a time", fewest)
	}
	for _, h := range members {
		if got := b.on(h, "curl -fsS http://127.0.0.1:8000/"); got != "two" {
			t.Errorf("%s serves %q", h.ID, got)
		}
	}
	t.Logf("%d requests, at least %d of 4 members healthy", count.Requests, fewest)
}

// TestNoRolloutBeginsDuringAnInstanceRefresh: it replaces members, which a step counts.
func TestNoRolloutBeginsDuringAnInstanceRefresh(t *testing.T) {
	b := newBalanced(t, inSteps)
	asg := autoscaling.New(b.autoscaling())
	_, err := asg.StartInstanceRefresh(t.Context(), &autoscaling.StartInstanceRefreshInput{
		AutoScalingGroupName: aws.String("web"), Preferences: &types.RefreshPreferences{BakeTime: aws.Int32(3600)}})
	must(t, err)
	b.scale(1)
	b.serving(1)
	refused(t, b.publisher("publish", "/srv/source"), 3, "replaces the members of the group web", "aws autoscaling cancel-instance-refresh --auto-scaling-group-name web")
	if got := b.publisher("doctor").Stdout; !strings.Contains(got, "replaces the members of the group web") || !strings.Contains(got, "all, by target-groups") {
		t.Errorf("doctor does not say it:\n%s", got)
	}
	_, err = asg.CancelInstanceRefresh(t.Context(), &autoscaling.CancelInstanceRefreshInput{AutoScalingGroupName: aws.String("web")})
	must(t, err)
	must(t, b.lab.Account.Wait(within(t, 10*time.Second), func() bool { return b.lab.Account.Groups()[0].Refreshes[0].Status == "Cancelled" }))
	b.sh("echo two > /srv/source/version")
	b.ok("publish", "/srv/source")
	if got := b.publisher("doctor").Stdout; strings.Contains(got, "replaces the members") || !strings.Contains(got, "none is going on") {
		t.Errorf("doctor still says it:\n%s", got)
	}
}

// autoscaling are the options of a client with the rights of the account's owner.
func (b *balanced) autoscaling() autoscaling.Options {
	admin := b.lab.Account.Admin()
	return autoscaling.Options{BaseEndpoint: &b.lab.Endpoint, Region: b.lab.Account.Region(),
		Credentials: credentials.NewStaticCredentialsProvider(admin.AccessKeyID, admin.SecretAccessKey, "")}
}
