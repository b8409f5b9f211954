package e2evm

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab/vm"
)

// TestVMDiskHangs: the disk of a member answers nothing any more, and what waits for it cannot be
// killed. The units stop within the times that they have, and mount and volume stay. (That the
// machine goes down by itself is not promised: its kernel waits for the disk, and EC2 cuts the
// power.)
func TestVMDiskHangs(t *testing.T) {
	r := newRig(t, setup{})
	must(t, r.lab.Account.SetDesired("web", 1))
	must(t, r.lab.InService(within(t, bootTime), "web", 1))
	m, err := r.lab.Machine(within(t, stepTime), r.lab.Members("web")[0].InstanceID)
	must(t, err)
	r.ready(m, "one")
	volume := r.lab.VolumesFor(m.ID)[0].ID
	r.on(m, `printf 'follow-interval = "2s"\n' >> /etc/ebs-release/agent.toml`)
	r.sh(source("two"))
	out, err := r.server.Run(within(t, stepTime), "ebs-release", "publish", "/srv/source",
		"--reach", "follow", "--ssh-key", "/nowhere", "--converge-deadline", "5s")
	if err == nil || out.Code != 5 { // nobody follows yet
		t.Fatalf("exit %d, %s", out.Code, out.Stderr)
	}

	// What is read is in memory by now, so that the application does not hang as well.
	must(t, m.Hang(within(t, stepTime), volume, true))
	const follow, agent = "ebs-release-follow.service", "ebs-release-agent.service"
	r.on(m, "systemctl start "+follow)
	r.held(m, follow)
	r.stops(m, follow, 4*10*time.Second)

	// Another boot finds that somebody still holds what is mounted, says so, and leaves it.
	r.on(m, "systemctl --no-block restart "+agent)
	r.inJournal(m, agent, "replace the mounted release")
	r.stops(m, agent, 4*60*time.Second)
	if got := r.on(m, "findmnt -n -o TARGET /release"); got != "/release" {
		t.Errorf("at /release is %q", got)
	}

	if v := r.lab.VolumesFor(m.ID); len(v) != 1 || v[0].ID != volume || v[0].State != "in-use" {
		t.Errorf("its volumes: %+v", v)
	}
}

// held waits until the kernel holds a process of a unit.
func (r *rig) held(m *vm.Machine, unit string) {
	r.Helper()
	got := r.on(m, `for i in $(seq 120); do sleep 1
for p in $(cat /sys/fs/cgroup/system.slice/`+unit+`/cgroup.procs 2>/dev/null); do
if grep -qs ') D ' /proc/$p/task/*/stat; then exit; fi
done
done; systemctl status `+unit+`; ps -eLo pid,stat,wchan:20,args`)
	if got != "" {
		r.Fatalf("%s is not held:\n%s", unit, got)
	}
}

// stops stops a unit, which has to be done within its times.
func (r *rig) stops(m *vm.Machine, unit string, limit time.Duration) {
	r.Helper()
	took := r.on(m, "began=$(date +%s); systemctl stop "+unit+"; echo $(($(date +%s) - began))")
	seconds, err := strconv.Atoi(strings.TrimSpace(took))
	must(r, err)
	r.Logf("%s stopped after %d s", unit, seconds)
	if limit += 20 * time.Second; time.Duration(seconds)*time.Second > limit { // of a busy machine
		r.Errorf("%s stopped after %d s, want %s at most", unit, seconds, limit)
	}
}
