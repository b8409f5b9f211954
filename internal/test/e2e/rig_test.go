package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/bucket"
	"ebs-release/internal/lab/host"
	"ebs-release/internal/lab/policy"
	"ebs-release/internal/store"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

// rig is a lab with a release server, for one test.
type rig struct {
	*testing.T
	lab    *lab.Lab
	server *host.Host
	ec2    *ec2.Client // with the rights of the account's owner
	inS3   bool        // the pointer store
	leaves bool        // a publish leaves its snapshot to whoever comes next, as users' do
}

// newRig starts a lab; the test's end takes it down. change may be nil.
func newRig(t *testing.T, change func(*lab.Options)) *rig {
	t.Helper()
	t.Parallel() // each lab is alone on its network, and most of a test is waiting
	opts := lab.Options{
		Agent: programs.agent, Publisher: programs.publisher, Dir: t.TempDir(), Seed: 1,
		AgentSettings:     map[string]string{"deadline": "30s"},
		Policy:            shippedPolicies(t).Allow,
		PublisherSettings: map[string]string{"settle": "300ms", "converge-deadline": "30s", "member-timeout": "20s"},
	}
	if change != nil {
		change(&opts)
	}
	start := 30 * time.Second
	if opts.S3 {
		start = 5 * time.Minute // the first on a machine builds the S3 server
	}
	l, err := lab.Start(within(t, start), opts)
	must(t, err)
	r := &rig{T: t, lab: l, ec2: l.EC2(), inS3: opts.S3}
	t.Cleanup(func() {
		if t.Failed() {
			r.showConsoles()
		}
		for _, c := range l.Account.Calls() {
			if c.Unpaged && strings.HasPrefix(c.Principal, "i-") { // row 42
				t.Errorf("%s called %s without MaxResults", c.Principal, c.Action)
			}
		}
		must(t, l.Close())
		if left, _ := os.ReadDir(opts.Dir); len(left) > 0 {
			t.Errorf("the lab left %v", left)
		}
	})
	r.server, err = l.ReleaseServer(within(t, 30*time.Second))
	must(t, err)
	must(t, l.Group("web", 0, 100))
	return r
}

// shippedPolicies are those that the packages come with: every test runs under them.
func shippedPolicies(t *testing.T, without ...string) *policy.Roles {
	t.Helper()
	roles, err := policy.Shipped(without...)
	must(t, err)
	return roles
}

// published starts a lab in which `source`, a small tree, is published as generation 1.
func published(t *testing.T, change func(*lab.Options)) *rig {
	t.Helper()
	r := newRig(t, change)
	r.first()
	return r
}

// first publishes generation 1.
func (r *rig) first() {
	r.Helper()
	r.ok("init", "--size", "1")
	r.sh("mkdir -p /srv/source/bin && cd /srv/source && echo one > version && printf '#!/bin/sh\n' > bin/run && chmod 755 bin/run && ln -s bin/run start && seq 1 20000 > data")
	r.ok("publish", "/srv/source")
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// within is a context with a deadline that ends with the test.
func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// publisher runs the publisher on the release server. What a test boots from is the release's own
// snapshot, unless the rig leaves that.
func (r *rig) publisher(args ...string) host.Output {
	r.Helper()
	if !r.leaves && slices.Contains([]string{"publish", "rollback"}, args[0]) && !slices.Contains(args, "--no-snapshot") {
		args = append(slices.Clip(args), "--wait-snapshot")
	}
	out, _ := r.server.Run(within(r, 90*time.Second), append([]string{"ebs-release"}, args...)...)
	return out
}

// ok runs the publisher, which must end with 0.
func (r *rig) ok(args ...string) string {
	r.Helper()
	out := r.publisher(args...)
	if out.Code != 0 {
		r.Fatalf("ebs-release %s: exit %d\n%s%s", strings.Join(args, " "), out.Code, out.Stdout, out.Stderr)
	}
	return out.Stdout
}

// sh runs a shell script on the release server.
func (r *rig) sh(script string) string { r.Helper(); return r.on(r.server, script) }

// on runs a shell script, as root, on a host.
func (r *rig) on(h *host.Host, script string) string {
	r.Helper()
	out, err := h.Run(within(r, 30*time.Second), "sh", "-euc", script)
	must(r, err)
	return strings.TrimSuffix(out.Stdout, "\n")
}

// member launches one instance outside any group and waits for the end of its boot, which the error
// tells about.
func (r *rig) member() (*host.Host, error) {
	r.Helper()
	id, err := r.lab.Account.RunInstance(r.Context(), r.lab.Member())
	must(r, err)
	return r.lab.Booted(within(r, 60*time.Second), id)
}

// scale sets the desired capacity of the group "web" and waits until all n members have booted.
func (r *rig) scale(n int32) []*host.Host {
	r.Helper()
	must(r, r.lab.Account.SetDesired("web", n))
	hosts, err := r.lab.AllBooted(within(r, 60*time.Second), "web", int(n))
	must(r, err)
	return hosts
}

// inStore is what a lab with S3 has under a key, without the last newline.
func (r *rig) inStore(key string) string {
	r.Helper()
	_, prefix, err := store.ParseS3(lab.StoreInS3)
	must(r, err)
	data, err := os.ReadFile(filepath.Join(r.lab.Dir(), "s3/objects", bucket.Name, prefix, key))
	must(r, err)
	return strings.TrimSuffix(string(data), "\n")
}

// status is what `ebs-release status --output json` says.
type status struct {
	Schema     int
	Generation int64
	Release    string
	Members    []struct {
		InstanceID     string `json:"instance_id"`
		LifecycleState string `json:"lifecycle_state"`
		Generation     int64
		State, Address string
		Standing       string
	}
}

func (r *rig) status() status {
	r.Helper()
	var s status
	must(r, json.Unmarshal([]byte(r.ok("status", "--output", "json")), &s))
	return s
}

// pointer replaces the pointer behind the publisher's back.
func (r *rig) pointer(data string) {
	r.Helper()
	must(r, r.server.WriteFile(within(r, 10*time.Second), filepath.Join(lab.PointerStore, "release.json.new"), []byte(data), 0o644))
	r.sh("mv " + lab.PointerStore + "/release.json.new " + lab.PointerStore + "/release.json")
}

// lastLine is the line that an operator reads first.
func lastLine(s string) string {
	s = strings.TrimRight(s, "\n")
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// refused checks the one line that a program ends with.
func refused(t *testing.T, out host.Output, code int, want ...string) {
	t.Helper()
	line := lastLine(out.Stderr)
	for _, w := range want {
		if !strings.Contains(line, w) {
			t.Errorf("the last line is %q, want %q in it", line, w)
		}
	}
	if out.Code != code {
		t.Errorf("exit %d, want %d\n%s%s", out.Code, code, out.Stdout, out.Stderr)
	}
}

// account is what must not change when a program refuses to go on.
func (r *rig) account() string {
	var b strings.Builder
	for _, v := range r.lab.Account.Volumes() {
		if v.State != "deleted" && v.State != "deleting" {
			fmt.Fprintf(&b, "%s %s\n", v.ID, v.State)
		}
	}
	for _, s := range r.lab.Account.Snapshots() {
		fmt.Fprintf(&b, "%s %s\n", s.ID, s.State)
	}
	return b.String()
}

func (r *rig) showConsoles() {
	files, _ := filepath.Glob(filepath.Join(r.lab.Dir(), "console", "*.log"))
	for _, f := range files {
		data, _ := os.ReadFile(f)
		r.Logf("console %s:\n%s", filepath.Base(f), data[max(0, len(data)-6000):])
	}
}
