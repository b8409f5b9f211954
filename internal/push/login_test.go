package push

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ebs-release/internal/test/blank"
)

// TestNoAgentIsForwardedToAMember: root on a member could log in to the others with it.
func TestNoAgentIsForwardedToAMember(t *testing.T) {
	dir := t.TempDir()
	socket, seen := filepath.Join(dir, "agent"), filepath.Join(dir, "seen")
	agent := exec.Command("ssh-agent", "-D", "-a", socket)
	agent.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = agent.Process.Kill(), agent.Wait() })
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if c, err := net.Dial("unix", socket); err == nil {
			_ = c.Close()
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	t.Setenv("SSH_AUTH_SOCK", socket)
	f := newFar(t, blank.Volume(t), "AllowAgentForwarding yes")
	script := strings.Replace(read(t, f.script), "\n", "\necho \"agent: $SSH_AUTH_SOCK\" >'"+seen+"'\n", 1)
	if err := os.WriteFile(f.script, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	f.open(t)
	if got := read(t, seen); got != "agent: \n" {
		t.Errorf("a member sees %q", got)
	}
}

// TestAHostKeyOfATagIsAKeyAlone: who may tag a volume writes it, and ssh reads a file with it.
func TestAHostKeyOfATagIsAKeyAlone(t *testing.T) {
	const good = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBES"
	for key, fine := range map[string]bool{
		good: true, good + " a comment": true,
		good + "\n* ssh-ed25519 AAAA": true, // what is behind the key is dropped
		"":                            false, "ssh-ed25519": false, "ssh-ed25519 -oProxyCommand=x": false, "@cert-authority * " + good: false,
		"* " + good: false, "ssh-ed25519\nAAAA* ssh-ed25519": false, "ssh-dss AAAA": false,
	} {
		target := Target{InstanceID: memberID, Address: "10.0.0.1", HostKey: key}
		if err := target.check(); (err == nil) != fine || fine && target.HostKey != good {
			t.Errorf("%q: %v, it is taken as %q", key, err, target.HostKey)
		}
	}
}
