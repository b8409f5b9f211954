package e2evm

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/host"
	"ebs-release/internal/lab/policy"
	"ebs-release/internal/lab/vm"
)

// How long things may take on emulated machines that share two processors with other tests, and
// with whatever else this machine does. A boot alone takes about seven seconds. These only end a
// test that would wait for ever.
const (
	bootTime = 6 * time.Minute
	stepTime = 3 * time.Minute
)

// rig is a lab for one test, whose release server is a host with one published release, called one.
type rig struct {
	*testing.T
	lab    *lab.Lab
	server *host.Host
}

// setup is what tests do differently; the zero value is what most want.
type setup struct {
	latency    cloud.LatencyTable
	fileSystem string // of the release volume
}

// newRig starts a lab under the shipped policies; the test's end takes it down.
func newRig(t *testing.T, s setup) *rig {
	t.Helper()
	t.Parallel()
	roles, err := policy.Shipped()
	must(t, err)
	opts := lab.Options{
		Agent: built.agent, Publisher: built.publisher, ServerKey: built.key, Dir: t.TempDir(), Seed: 1, Policy: roles.Allow, Latency: s.latency,
		PublisherSettings: map[string]string{"settle": "300ms", "converge-deadline": "5m"},
	}
	l, err := lab.Start(within(t, stepTime), opts)
	must(t, err)
	r := &rig{T: t, lab: l}
	t.Cleanup(func() {
		if t.Failed() {
			r.showConsoles()
		}
		must(t, l.Close())
		if left, _ := os.ReadDir(opts.Dir); len(left) > 0 {
			t.Errorf("the lab left %v", left)
		}
	})
	l.Register(bareVM, vm.Spec{Image: built.bare})
	l.Register(memberVM, vm.Spec{Image: built.member})
	l.Register(serverVM, vm.Spec{Image: built.server})
	must(t, l.Account.CreateGroup(cloud.GroupSpec{Name: "web", Max: 10, Launch: member}))
	r.server, err = l.ReleaseServer(within(t, stepTime))
	must(t, err)
	r.ok("init", "--size", "1", "--file-system", cmp.Or(s.fileSystem, "ext4"))
	r.publish("one")
	return r
}

// in is the rig for a subtest.
func (r *rig) in(t *testing.T) *rig {
	sub := *r
	sub.T = t
	return &sub
}

// member is what a member is launched from.
var member = cloud.RunSpec{ImageID: memberVM, Role: "ebs-release-agent", Tags: map[string]string{"Name": "member"}}

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

// ok runs the publisher on the release server; it must end with 0.
func (r *rig) ok(args ...string) string {
	r.Helper()
	out, err := r.server.Run(within(r, 5*time.Minute), append([]string{"ebs-release"}, args...)...)
	if err != nil {
		r.Fatalf("%v\n%s", err, out.Stdout)
	}
	return out.Stdout
}

// publish makes a release whose file `version` has the name, and publishes it.
func (r *rig) publish(name string, args ...string) string {
	r.Helper()
	r.sh(source(name))
	return r.ok(append([]string{"publish", "/srv/source", "--wait-snapshot"}, args...)...)
}

// source is a shell script that makes the tree of a release in /srv/source.
func source(name string) string {
	return "mkdir -p /srv/source/bin; cd /srv/source; echo " + name + " >version; seq 1 20000 >data; cat >bin/server <<'END'\n" + application + "END\nchmod 755 bin/server\n"
}

// sh runs a shell script on the release server.
func (r *rig) sh(script string) string {
	r.Helper()
	out, err := r.server.Run(within(r, stepTime), "sh", "-euc", script)
	must(r, err)
	return strings.TrimSuffix(out.Stdout, "\n")
}

// on runs a shell script, as root, on a virtual machine.
func (r *rig) on(m *vm.Machine, script string) string {
	r.Helper()
	out, err := m.Run(within(r, bootTime), "sh", "-euc", script)
	must(r, err)
	return strings.TrimSuffix(out.Stdout, "\n")
}

// launch launches one instance and returns its machine, which boots.
func (r *rig) launch(spec cloud.RunSpec) *vm.Machine {
	r.Helper()
	id, err := r.lab.Account.RunInstance(r.Context(), spec)
	must(r, err)
	m, err := r.lab.Machine(within(r, stepTime), id)
	must(r, err)
	return m
}

// marked waits for a mark of the boot that is going on.
func (r *rig) marked(m *vm.Machine, mark string) {
	r.Helper()
	must(r, m.WaitMark(within(r, bootTime), mark))
}

// onConsole waits until the machine's console shows the word: no more than one, since many write
// there.
func (r *rig) onConsole(m *vm.Machine, word string) {
	r.Helper()
	_, err := m.WaitConsole(within(r, bootTime), regexp.MustCompile(regexp.QuoteMeta(word)))
	must(r, err)
}

// inJournal waits until a unit has said the text, in the boot that is going on.
func (r *rig) inJournal(m *vm.Machine, unit, text string) {
	r.Helper()
	for ctx := within(r, bootTime); ; {
		if strings.Contains(r.on(m, "journalctl --boot --output=cat --unit="+unit), text) {
			return
		}
		select {
		case <-time.After(time.Second): // journalctl --follow would have to be ended on the machine
		case <-ctx.Done():
			r.Fatalf("%s has not said %q on %s", unit, text, m.ID)
		}
	}
}

// reboot reboots a machine from inside.
func (r *rig) reboot(m *vm.Machine) { r.Helper(); must(r, m.Reboot(within(r, bootTime))) }

// ready waits for the application of the boot that is going on, and fails unless all is as a boot
// that went well leaves it: one volume, attached, reported, deleted with the instance; one mount,
// of this volume; the agent's and the application's units active, and nothing else failed.
func (r *rig) ready(m *vm.Machine, release string) {
	r.Helper()
	r.marked(m, starts(release))
	must(r, m.Booted(within(r, bootTime)))
	volumes := r.lab.VolumesFor(m.ID)
	if len(volumes) != 1 {
		r.Fatalf("%d volumes: %+v", len(volumes), volumes)
	}
	v := volumes[0]
	if v.State != "in-use" || v.Attachment == nil || v.Attachment.InstanceID != m.ID || !v.Attachment.DeleteOnTermination || v.Tags["ebs-release:state"] != "ready" {
		r.Errorf("the volume is %+v, attached %+v", v, v.Attachment)
	}
	if got := r.on(m, `findmnt -n -o SOURCE /release | xargs -n 1 -I '{}' sh -c 'cat /sys/block/$(basename {})/device/serial'`); strings.TrimSpace(got) != cloud.SerialOf(v.ID) {
		r.Errorf("at /release is %q, the volume is %s", got, v.ID)
	}
	if got := r.on(m, "systemctl is-active ebs-release-agent.service ebs-release.target application.service; systemctl --failed --plain --no-legend"); got != "active\nactive\nactive" {
		r.Errorf("units: %s", got)
	}
	if got := r.on(m, "ebs-release-agent status"); !strings.Contains(got, "ready") {
		r.Errorf("the agent's status: %s", got)
	}
}

// never fails when the application has started on this release in the boot that is going on.
func (r *rig) never(m *vm.Machine, release string) {
	r.Helper()
	if m.Marked(starts(release)) {
		r.Errorf("the application started on release %s", release)
	}
}

// properties are those of a unit, as systemctl show says them.
func (r *rig) properties(m *vm.Machine, unit string, names ...string) map[string]string {
	r.Helper()
	values := map[string]string{}
	for line := range strings.Lines(r.on(m, fmt.Sprintf("systemctl show --property=%s %s", strings.Join(names, ","), unit))) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		values[name] = value
	}
	return values
}

func (r *rig) showConsoles() {
	for _, pattern := range []string{"console/*.log", "vm/*.console", "vm/*.marks"} {
		files, _ := filepath.Glob(filepath.Join(r.lab.Dir(), pattern))
		for _, f := range files {
			data, _ := os.ReadFile(f)
			r.Logf("console %s:\n%s", filepath.Base(f), data[max(0, len(data)-8000):])
		}
	}
}
