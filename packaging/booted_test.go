package packaging_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// lifeUnderSystemd does it all with systemd as PID 1 of a container: what the scripts lead to, and
// whether the server works from inside its sandbox.
func lifeUnderSystemd(t *testing.T, tree tree, v1, v2 map[string]string) {
	for name, path := range map[string]string{"agent1": v1["ebs-release-agent.deb"], "publisher1": v1["ebs-release.deb"], "agent2": v2["ebs-release-agent.deb"], "publisher2": v2["ebs-release.deb"]} {
		run(t, "cp", path, tree.path(name+".deb"))
	}
	c := boot(t, tree)
	c.run(t, "dpkg", "--install", "/agent1.deb", "/publisher1.deb")
	c.is(t, "ebs-release-agent.service", "enabled", "inactive")
	c.is(t, "ebs-release-follow.service", "disabled", "inactive")
	c.is(t, "ebs-release-serve.socket", "disabled", "inactive")
	c.is(t, "ebs-release-gc.timer", "disabled", "inactive")
	c.is(t, "ebs-release-rollout.timer", "disabled", "inactive")

	write(t, tree.path("var/lib/ebs-release/pointer/release.json"), "{\"schema\":1}\n")
	c.run(t, "systemctl", "enable", "--now", "ebs-release-serve.socket")
	c.inNetwork(t, "ip", "link", "set", "lo", "up")
	if got := c.inNetwork(t, "curl", "--silent", "--show-error", "--fail", "--max-time", "10", "http://127.0.0.1/release.json"); got != "{\"schema\":1}\n" {
		t.Errorf("the server answered %q", got)
	}
	c.is(t, "ebs-release-serve.service", "static", "active")
	server := c.run(t, "systemctl", "show", "--property=MainPID,User", "ebs-release-serve.service")
	if !strings.Contains(server, "User=ebs-release-serve") {
		t.Errorf("the server is not the user that systemd made up for it: %s", server)
	}

	c.run(t, "dpkg", "--install", "/agent2.deb", "/publisher2.deb")
	c.is(t, "ebs-release-agent.service", "enabled", "inactive")
	if after := c.run(t, "systemctl", "show", "--property=MainPID,User", "ebs-release-serve.service"); after != server {
		t.Errorf("the upgrade restarted the server: %s, before %s", after, server)
	}

	// Nobody has said yet where the pointer is: one line on the console, no second try, and the
	// boot goes on.
	c.try(t, "systemctl", "start", "ebs-release-agent.service")
	if got := c.run(t, "systemctl", "show", "--property=ExecMainStatus,NRestarts,Result", "ebs-release-agent.service"); got != "Result=exit-code\nNRestarts=0\nExecMainStatus=2\n" {
		t.Errorf("the agent without a configuration: %s", got)
	}
	c.is(t, "ebs-release.target", "static", "inactive")
	c.is(t, "ebs-release-agent.path", "static", "active")

	// A setting that comes late is read: it is another wrong one here, so the agent ends with 2
	// again, and once.
	run := func() string {
		return c.run(t, "systemctl", "show", "--property=InvocationID", "ebs-release-agent.service")
	}
	before := run()
	write(t, tree.path("etc/ebs-release/agent.toml"), "pointer = \"late\"\n")
	for deadline := time.Now().Add(20 * time.Second); run() == before; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the agent was not started for a changed setting:\n%s", c.try(t, "systemctl", "status", "ebs-release-agent.path"))
		}
	}
	c.run(t, "systemctl", "stop", "ebs-release-agent.service")
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if c.try(t, "systemctl", "is-active", "ebs-release-agent.path") == "inactive\n" { // by a job of its own
			break
		}
	}
	c.is(t, "ebs-release-agent.path", "static", "inactive") // who stops the agent stops the watch
	c.saysOnConsole(t, "ebs-release-agent: ", "pointer")
	write(t, tree.path("etc/ebs-release/disabled"), "")
	c.run(t, "systemctl", "reset-failed", "ebs-release-agent.service")
	c.run(t, "systemctl", "start", "ebs-release-agent.service") // its condition does not hold: nothing happens, which is no failure
	c.is(t, "ebs-release-agent.service", "enabled", "inactive")

	c.run(t, "dpkg", "--purge", "ebs-release-agent", "ebs-release")
	if got := c.try(t, "systemctl", "is-active", "ebs-release-serve.service", "ebs-release-serve.socket"); got != "inactive\ninactive\n" {
		t.Errorf("after the package was removed its server is %s", got)
	}
}

// container is a tree with systemd as PID 1.
type container struct {
	leader string // its PID 1, seen from here
	log    string // the file that has what it wrote to the console
}

// boot starts the tree in systemd-nspawn, in a network of its own, and waits for the end of its
// boot. The test's end switches it off.
func boot(t *testing.T, tree tree) container {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "console"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	nspawn := exec.Command("systemd-nspawn", "--directory="+tree.root, fmt.Sprintf("--machine=ebs-release-%d", os.Getpid()), "--boot", "--private-network",
		"--register=no", "--keep-unit", "--console=read-only")
	// A read-only console is a terminal all the same: without one there is no /dev/console to write
	// to.
	nspawn.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	nspawn.Stdout, nspawn.Stderr = log, log
	if err := nspawn.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- nspawn.Wait() }()
	c := container{log: log.Name()}
	t.Cleanup(func() {
		if c.leader != "" {
			c.try(t, "systemctl", "poweroff", "--no-block")
		}
		select {
		case <-ended:
		case <-time.After(time.Minute):
			_ = nspawn.Process.Kill()
			<-ended
		}
		if t.Failed() {
			t.Logf("console:\n%s", read(t, c.log))
		}
	})

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	for {
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", nspawn.Process.Pid))
		if leader := strings.TrimSpace(string(children)); leader != "" {
			// nsenter fails while the container is being made, and systemctl while its systemd is
			// starting.
			out, _ := exec.CommandContext(ctx, "nsenter", c.enter(leader, "systemctl", "is-system-running", "--wait")...).Output()
			if state := strings.TrimSpace(string(out)); state == "running" || state == "degraded" {
				c.leader = leader
				return c
			}
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case err := <-ended:
			ended <- err
			t.Fatalf("systemd-nspawn ended: %v\n%s", err, read(t, c.log))
		case <-ctx.Done():
			t.Fatal("the container did not boot within five minutes")
		}
	}
}

func (c container) enter(leader string, args ...string) []string {
	return append([]string{"--target=" + leader, "--mount", "--uts", "--ipc", "--net", "--pid"}, args...)
}

// saysOnConsole waits for a line on the console with all words in it: journald writes a line with
// one write(2), a moment after it was said.
func (c container) saysOnConsole(t *testing.T, words ...string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		for line := range strings.Lines(read(t, c.log)) {
			if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
				return
			}
		}
	}
	t.Errorf("no line on the console has %q:\n%s", words, read(t, c.log))
}

// run runs a program in the container that must succeed.
func (c container) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.command(t, args...)
	if err != nil {
		t.Fatalf("in the container: %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// try runs one that may fail.
func (c container) try(t *testing.T, args ...string) string {
	t.Helper()
	out, _ := c.command(t, args...)
	return out
}

func (c container) command(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Minute) // also in the test's clean-up
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter", c.enter(c.leader, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// inNetwork runs a program of this machine in the container's network.
func (c container) inNetwork(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, "nsenter", append([]string{"--target=" + c.leader, "--net"}, args...)...)
}

// is checks a unit.
func (c container) is(t *testing.T, unit, enabled, active string) {
	t.Helper()
	if got := strings.TrimSpace(c.try(t, "systemctl", "is-enabled", unit)); got != enabled {
		t.Errorf("%s is %s, want %s", unit, got, enabled)
	}
	if got := strings.TrimSpace(c.try(t, "systemctl", "is-active", unit)); got != active {
		t.Errorf("%s is %s, want %s", unit, got, active)
	}
}
