package e2evm

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/vm"
)

func TestVMSnapshotMissingThenPublished(t *testing.T) {
	r := newRig(t, setup{})
	snapshot := r.current()
	_, err := r.lab.EC2().DeleteSnapshot(t.Context(), &ec2.DeleteSnapshotInput{SnapshotId: &snapshot})
	must(t, err)
	m := r.launch(member)
	r.failed(m, snapshot, "create: ", "see whether "+snapshot+" is still there")
	r.publish("two")
	r.ready(m, "two")
	r.never(m, "one")
}

func TestVMAgentFailure(t *testing.T) {
	r := newRig(t, setup{})
	m := r.launch(member)
	allow := r.lab.Account.Fault(cloud.Fault{Action: "CreateVolume", Principal: m.ID, Effect: cloud.Effect{Fail: cloud.Unauthorized}})
	t.Run("not allowed", func(t *testing.T) {
		r := r.in(t)
		r.failed(m, "ec2:CreateVolume", "create: ", "not allowed: UnauthorizedOperation", "Try: allow ec2:CreateVolume")
		allow()
		r.ready(m, "one")
	})
	t.Run("snapshot of a blank disk", func(t *testing.T) {
		r := r.in(t)
		r.pointTo(r.snapshot(r.volume("")))
		m := r.launch(member)
		r.failed(m, "blank", "check: ", "the disk is blank, there is no file system on it")
		r.publish("two")
		r.ready(m, "two")
		r.never(m, "one")
	})
}

// failed waits for the end of a boot whose agent fails: for its reason in the journal, and for a
// word of it on the console, where EC2's get-console-output finds it. The application has not
// started, and all else has.
func (r *rig) failed(m *vm.Machine, word string, reason ...string) {
	r.Helper()
	must(r, m.Booted(within(r, bootTime)))
	for _, text := range reason {
		r.inJournal(m, "ebs-release-agent.service", text)
	}
	r.onConsole(m, word)
	if got := r.on(m, "systemctl is-active ssh.service multi-user.target; systemctl is-active ebs-release.target application.service || true"); got != "active\nactive\ninactive\ninactive" {
		r.Errorf("sshd, multi-user, our target and the application are\n%s", got)
	}
	if got := r.on(m, "findmnt /release || echo nothing"); got != "nothing" {
		r.Errorf("at /release is %s", got)
	}
	r.never(m, "one")
}
