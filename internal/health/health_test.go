package health_test

import (
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ebs-release/internal/fleet"
	"ebs-release/internal/health"
	"ebs-release/internal/lab/cloud"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	astypes "github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
)

func TestProgramsAsksNobody(t *testing.T) {
	if reasons, err := (health.Checker{Kind: health.Programs}).Look(t.Context(), []fleet.Member{{InstanceID: "i-1", Group: "web"}}); len(reasons) > 0 || err != nil {
		t.Errorf("%v, %v", reasons, err)
	}
	a := newAccount(t, nil)
	_, err := a.checker("program").Look(t.Context(), []fleet.Member{{InstanceID: "i-1", Group: "web"}})
	says(t, err, `"program" is no kind of health`, "programs, group, target-groups")
}

func TestGroup(t *testing.T) {
	a := newAccount(t, nil)
	members := a.group("web", 4, cloud.Traffic{})
	members = append(members, a.group("api", 1, cloud.Traffic{})...)
	c := a.checker(health.Group)
	if got := look(t, c, members); len(got) > 0 {
		t.Errorf("all are well: %v", got)
	}
	sick, aside, gone := members[0].InstanceID, members[1].InstanceID, members[2].InstanceID
	_, err := a.asg.SetInstanceHealth(t.Context(), &autoscaling.SetInstanceHealthInput{InstanceId: &sick, HealthStatus: aws.String("Unhealthy")})
	a.ok(err)
	_, err = a.asg.EnterStandby(t.Context(), &autoscaling.EnterStandbyInput{AutoScalingGroupName: web, InstanceIds: []string{aside}, ShouldDecrementDesiredCapacity: aws.Bool(true)})
	a.ok(err)
	a.waits(func() bool { return len(a.in("web", "Standby")) == 1 })
	a.ok(a.TerminateInstance(gone))
	a.waits(func() bool {
		return !slices.ContainsFunc(a.in("web", "InService"), func(m fleet.Member) bool { return m.InstanceID == gone })
	})
	reasons := look(t, c, append(members, fleet.Member{InstanceID: "i-never", Group: "nobody"}))
	if len(reasons) != 4 || reasons[sick] != "Unhealthy in the group web" || !strings.HasPrefix(reasons[aside], "in Standby in the group web: it gets no traffic. Try: aws autoscaling exit-standby") ||
		!strings.Contains(reasons[gone], "the group web") || reasons["i-never"] != "it is not in the group nobody any more" {
		t.Errorf("reasons %q", reasons)
	}
}

// TestEveryWordOfAutoScaling: only Healthy and InService is healthy.
func TestEveryWordOfAutoScaling(t *testing.T) {
	for state, want := range map[[2]string]string{
		{"InService", "Healthy"}:           "",
		{"InService", "Unhealthy"}:         "Unhealthy in the group web",
		{"InService", ""}:                  "of unknown health in the group web",
		{"Pending:Wait", "Healthy"}:        "Pending:Wait in the group web, not InService",
		{"Terminating", "Healthy"}:         "Terminating in the group web, not InService",
		{"ReplacingRootVolume", "Healthy"}: "ReplacingRootVolume in the group web, not InService",
	} {
		c := answers(t, health.Group, func(_ string, w http.ResponseWriter) {
			page := groupPage("web", "", "i-1")
			page = strings.Replace(page, "<HealthStatus>Healthy", "<HealthStatus>"+state[1], 1)
			io.WriteString(w, strings.Replace(page, "<LifecycleState>InService", "<LifecycleState>"+state[0], 1))
		})
		if got := look(t, c, []fleet.Member{{InstanceID: "i-1", Group: "web"}})["i-1"]; got != want {
			t.Errorf("%v: %q, want %q", state, got, want)
		}
	}
}

func TestTargetGroups(t *testing.T) {
	a := newAccount(t, nil)
	old, fresh, other := a.targetGroup("old"), a.targetGroup("new"), a.targetGroup("other")
	members := a.group("web", 3, cloud.Traffic{TargetGroups: []string{old}, Sources: []string{fresh}})
	members = append(members, a.group("api", 1, cloud.Traffic{Sources: []string{other}})...)
	for _, m := range members[:3] {
		a.turns(old, m.InstanceID, "healthy")
		a.turns(fresh, m.InstanceID, "healthy")
	}
	a.turns(other, members[3].InstanceID, "healthy")
	c := a.checker(health.TargetGroups)
	if got := look(t, c, members); len(got) > 0 {
		t.Errorf("all are well: %v", got)
	}
	for _, call := range []string{"DescribeTargetHealth", "DescribeAutoScalingGroups"} {
		n := 0
		for _, made := range a.Calls() {
			if made.Action == call {
				n++
			}
		}
		if want := map[string]int{"DescribeTargetHealth": 3, "DescribeAutoScalingGroups": 1}[call]; n != want {
			t.Errorf("%d calls of %s in one look, want %d", n, call, want)
		}
	}

	sick, draining := members[0].InstanceID, members[1].InstanceID
	a.breaks(sick)
	a.turns(old, sick, "unhealthy")
	a.turns(fresh, sick, "unhealthy")
	_, err := a.elb.DeregisterTargets(t.Context(), &elb.DeregisterTargetsInput{TargetGroupArn: &fresh, Targets: []elbtypes.TargetDescription{{Id: &draining}}})
	a.ok(err)
	reasons := look(t, c, members)
	if len(reasons) != 2 || !strings.HasSuffix(reasons[sick], ": Target.ResponseCodeMismatch (Health checks failed with these codes: [503])") ||
		reasons[draining] != "draining in the target group new: Target.DeregistrationInProgress (Target deregistration is in progress)" {
		t.Errorf("reasons %q", reasons)
	}
	a.BreakTargetHealth(other, true)
	if got := look(t, c, members)[members[3].InstanceID]; !strings.HasPrefix(got, "unavailable in the target group other: Elb.InternalError") {
		t.Errorf("got %q", got)
	}

	plain := a.group("plain", 1, cloud.Traffic{})
	_, err = c.Look(t.Context(), append(members, plain...))
	says(t, err, "the group plain has no target group to ask about health", "Try: `healthy = \"group\"`")
}

// instances is what a group's page has, and a token when there is more.
func groupPage(name, next string, ids ...string) string {
	var b strings.Builder
	for _, id := range ids {
		fmt.Fprintf(&b, "<member><InstanceId>%s</InstanceId><LifecycleState>InService</LifecycleState><HealthStatus>Healthy</HealthStatus></member>", id)
	}
	if next != "" {
		next = "<NextToken>" + next + "</NextToken>"
	}
	return `<DescribeAutoScalingGroupsResponse><DescribeAutoScalingGroupsResult><AutoScalingGroups><member><AutoScalingGroupName>` + name +
		`</AutoScalingGroupName><TargetGroupARNs><member>arn:aws:elasticloadbalancing:us-east-1:1:targetgroup/web/1</member></TargetGroupARNs><Instances>` + b.String() +
		`</Instances></member></AutoScalingGroups>` + next + `</DescribeAutoScalingGroupsResult></DescribeAutoScalingGroupsResponse>`
}

// answers is a checker whose AWS is a function of the action.
func answers(t *testing.T, kind string, answer func(action string, w http.ResponseWriter)) health.Checker {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		action, _, _ := strings.Cut(strings.TrimPrefix(string(body), "Action="), "&")
		w.Header().Set("Content-Type", "text/xml")
		answer(action+" "+string(body), w)
	}))
	t.Cleanup(server.Close)
	asg, balancers := clients(server.URL, cloud.Credentials{AccessKeyID: "AKIA", SecretAccessKey: "x"})
	return health.Checker{Kind: kind, Groups: asg, Balancers: balancers}
}

func TestPages(t *testing.T) {
	members := []fleet.Member{{InstanceID: "i-1", Group: "web"}, {InstanceID: "i-2", Group: "api"}}
	c := answers(t, health.Group, func(action string, w http.ResponseWriter) {
		if strings.Contains(action, "NextToken=more") {
			io.WriteString(w, groupPage("api", "", "i-2"))
			return
		}
		io.WriteString(w, groupPage("web", "more", "i-1"))
	})
	if got := look(t, c, members); len(got) > 0 {
		t.Errorf("reasons %v: is the second page read?", got)
	}
	endless := answers(t, health.Group, func(_ string, w http.ResponseWriter) { io.WriteString(w, groupPage("web", "more")) })
	_, err := endless.Look(t.Context(), members)
	says(t, err, "its answer does not end")

	var calls atomic.Int32
	many := answers(t, health.Group, func(action string, w http.ResponseWriter) {
		calls.Add(1)
		if strings.Contains(action, "AutoScalingGroupNames.member.101") {
			w.WriteHeader(http.StatusBadRequest)
		}
		io.WriteString(w, groupPage("g000", ""))
	})
	members = nil
	for n := range 250 {
		members = append(members, fleet.Member{InstanceID: fmt.Sprint("i-", n), Group: fmt.Sprintf("g%03d", n)})
	}
	if got := look(t, many, members); len(got) != 250 || calls.Load() != 3 {
		t.Errorf("%d reasons in %d calls", len(got), calls.Load())
	}
}

// TestEveryWordOfElasticLoadBalancing: only healthy is healthy, in each of an instance's entries.
func TestEveryWordOfElasticLoadBalancing(t *testing.T) {
	for _, tt := range []struct {
		states []string
		want   string
	}{
		{[]string{"healthy"}, ""},
		{[]string{"healthy", "healthy"}, ""},
		{[]string{"healthy", "initial"}, "initial in the target group web: R"},
		{[]string{"draining", "healthy"}, "draining in the target group web: R"},
		{[]string{"unhealthy.draining"}, "unhealthy.draining in the target group web: R"},
		{[]string{"unhealthy"}, "unhealthy in the target group web: R"},
		{[]string{"unused"}, "unused in the target group web: R"},
		{[]string{"unavailable"}, "unavailable in the target group web: R"},
		{[]string{"a new word"}, "a new word in the target group web: R"},
		{[]string{""}, "of unknown health in the target group web: R"},
		{[]string{"\x1b[31m" + strings.Repeat("x", 300)}, ""},
		{nil, "not registered in the target group web"},
	} {
		c := answers(t, health.TargetGroups, func(action string, w http.ResponseWriter) {
			if !strings.HasPrefix(action, "DescribeTargetHealth ") {
				io.WriteString(w, groupPage("web", "", "i-1"))
				return
			}
			io.WriteString(w, "<DescribeTargetHealthResponse><DescribeTargetHealthResult><TargetHealthDescriptions>")
			for _, state := range tt.states {
				var text strings.Builder
				xml.EscapeText(&text, []byte(state))
				fmt.Fprintf(w, "<member><Target><Id>i-1</Id></Target><TargetHealth><State>%s</State><Reason>R</Reason></TargetHealth></member>", text.String())
			}
			io.WriteString(w, "</TargetHealthDescriptions></DescribeTargetHealthResult></DescribeTargetHealthResponse>")
		})
		got := look(t, c, []fleet.Member{{InstanceID: "i-1", Group: "web"}})["i-1"]
		if len(tt.states) > 0 && len(tt.states[0]) > 100 { // bounded, and moves no terminal
			if len(got) > 300 || got == "" || strings.Contains(got, "\x1b") {
				t.Errorf("a long word: %q", got)
			}
			continue
		}
		if got != tt.want {
			t.Errorf("%q: %q, want %q", tt.states, got, tt.want)
		}
	}
}

func TestWhatAWSRefuses(t *testing.T) {
	var denied string
	a := newAccount(t, func(_ context.Context, c cloud.Check) bool { return c.Action != denied })
	arn := a.targetGroup("web")
	members := a.group("web", 1, cloud.Traffic{TargetGroups: []string{arn}})
	c := a.checker(health.TargetGroups)
	for action, ask := range map[string]func() error{
		"autoscaling:DescribeAutoScalingGroups":     func() error { _, err := c.Look(t.Context(), members); return err },
		"elasticloadbalancing:DescribeTargetHealth": func() error { _, err := c.Look(t.Context(), members); return err },
		"autoscaling:DescribeInstanceRefreshes":     func() error { return c.Idle(t.Context(), []string{"web"}) },
	} {
		denied = action
		says(t, ask(), "not allowed: AccessDenied", "Try: allow "+action+" in the role")
		denied = ""
		_, name, _ := strings.Cut(action, ":")
		before := len(a.Calls())
		disarm := a.Fault(cloud.Fault{Action: name, Effect: cloud.Effect{Fail: cloud.Throttle}})
		says(t, ask(), "AWS throttles this account", "who else calls "+action)
		disarm()
		if n := len(slices.DeleteFunc(a.Calls()[before:], func(c cloud.Call) bool { return c.Action != name })); n != 3 {
			t.Errorf("%s was tried %d times, want 3", name, n)
		}
		a.Fault(cloud.Fault{Action: name, Times: 2, Effect: cloud.Effect{Fail: cloud.ServerError}})
		if err := ask(); err != nil {
			t.Errorf("%s: after two errors: %v", name, err)
		}
	}
}

func TestAnswersThatAreNone(t *testing.T) {
	members := []fleet.Member{{InstanceID: "i-1", Group: "web"}}
	for name, tt := range map[string]struct {
		answer func(w http.ResponseWriter)
		want   string
	}{
		"a page for people":    {func(w http.ResponseWriter) { io.WriteString(w, "<html><body>log in first</body></html>") }, "ask Auto Scaling about web: "},
		"an error with a page": {func(w http.ResponseWriter) { w.WriteHeader(502); io.WriteString(w, "<html>Bad Gateway</html>") }, "502"},
		"without end": {func(w http.ResponseWriter) {
			io.WriteString(w, "<DescribeAutoScalingGroupsResponse><DescribeAutoScalingGroupsResult><AutoScalingGroups>")
			for range 2000 {
				if _, err := io.WriteString(w, "<member>"+strings.Repeat(" ", 16000)+"</member>"); err != nil {
					return
				}
			}
		}, "the answer is longer than 16 MiB"},
	} {
		for _, kind := range []string{health.Group, health.TargetGroups} {
			c := answers(t, kind, func(_ string, w http.ResponseWriter) { tt.answer(w) })
			reasons, err := c.Look(t.Context(), members)
			if reasons != nil {
				t.Errorf("%s: reasons %v", name, reasons)
			}
			says(t, err, tt.want)
			if err != nil && len(err.Error()) > 2000 {
				t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
			}
		}
	}
	nothing := answers(t, health.Group, func(string, http.ResponseWriter) {})
	if got := look(t, nothing, members)["i-1"]; got != "it is not in the group web any more" {
		t.Errorf("an empty answer: %q", got)
	}
	asked := make(chan struct{})
	hangs := answers(t, health.Group, func(string, http.ResponseWriter) { <-asked })
	defer close(asked)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := hangs.Look(ctx, members); err == nil {
		t.Error("an AWS that hangs has healthy members")
	}
}

func TestIdle(t *testing.T) {
	a := newAccount(t, nil)
	a.group("web", 1, cloud.Traffic{})
	c := a.checker(health.Programs) // whatever the kind is
	a.ok(c.Idle(t.Context(), []string{"web"}))
	started, err := a.asg.StartInstanceRefresh(t.Context(), &autoscaling.StartInstanceRefreshInput{
		AutoScalingGroupName: web, Preferences: &astypes.RefreshPreferences{BakeTime: aws.Int32(3600)}})
	a.ok(err)
	a.waits(func() bool { return a.Groups()[0].Refreshes[0].Status == "Baking" })
	says(t, c.Idle(t.Context(), []string{"web"}), "the instance refresh "+*started.InstanceRefreshId+" (Baking) replaces the members of the group web",
		"`aws autoscaling cancel-instance-refresh --auto-scaling-group-name web`")
	_, err = a.asg.CancelInstanceRefresh(t.Context(), &autoscaling.CancelInstanceRefreshInput{AutoScalingGroupName: web})
	a.ok(err)
	a.waits(func() bool { return a.Groups()[0].Refreshes[0].Status == "Cancelled" })
	a.ok(c.Idle(t.Context(), []string{"web"}))
	says(t, c.Idle(t.Context(), []string{"web", "nobody"}), "ask whether an instance refresh runs on nobody")

	for status, running := range map[string]bool{"Pending": true, "InProgress": true, "Cancelling": true, "RollbackInProgress": true, "Baking": true, "A new word": true, "": true,
		"Successful": false, "Failed": false, "Cancelled": false, "RollbackFailed": false, "RollbackSuccessful": false} {
		c := answers(t, health.Group, func(_ string, w http.ResponseWriter) {
			fmt.Fprintf(w, "<DescribeInstanceRefreshesResponse><DescribeInstanceRefreshesResult><InstanceRefreshes><member><InstanceRefreshId>08b9</InstanceRefreshId><Status>%s</Status></member></InstanceRefreshes></DescribeInstanceRefreshesResult></DescribeInstanceRefreshesResponse>", status)
		})
		if err := c.Idle(t.Context(), []string{"web"}); (err != nil) != running {
			t.Errorf("%q: %v", status, err)
		}
	}
}
