package lab

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab/host"
)

func TestMain(m *testing.M) {
	host.RunInit()
	if len(os.Args) == 2 && os.Args[1] == doomedArg {
		os.Exit(doomed())
	}
	os.Exit(m.Run())
}

// The programs of these tests stand in for the real ones: the lab's own behaviour is tested here,
// theirs in package e2e.
const (
	standInAgent = `#!/bin/sh
# Boots on a release that was there all along.
[ "$1" = up ] && mkdir -p /release/releases/one && ln -sfn releases/one /release/current && cat /etc/ebs-release/agent.toml && echo "endpoint $AWS_ENDPOINT_URL"
`
	standInPublisher = `#!/bin/sh
case "$1" in
serve) exec perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(Listen => 5, LocalPort => 8080) or die; sleep' ;;
*) cat /etc/ebs-release/publisher.toml ;;
esac
`
)

func do(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func standIns(t *testing.T) Options {
	t.Helper()
	dir := t.TempDir()
	opts := Options{Agent: filepath.Join(dir, "agent"), Publisher: filepath.Join(dir, "publisher"), Dir: t.TempDir(), Seed: 1}
	do(t, os.WriteFile(opts.Agent, []byte(standInAgent), 0o755))
	do(t, os.WriteFile(opts.Publisher, []byte(standInPublisher), 0o755))
	return opts
}

func start(t *testing.T, opts Options) *Lab {
	t.Helper()
	l, err := Start(deadline(t, 3*time.Minute), opts)
	do(t, err)
	t.Cleanup(func() {
		do(t, l.Close())
		if left, _ := os.ReadDir(opts.Dir); len(left) > 0 {
			t.Errorf("the lab left %v", left)
		}
	})
	return l
}

// member launches one, which has booted and runs.
func member(t *testing.T, ctx context.Context, l *Lab) *host.Host {
	t.Helper()
	id, err := l.Account.RunInstance(ctx, l.Member())
	do(t, err)
	h, err := l.Booted(ctx, id)
	do(t, err)
	do(t, l.waitState(ctx, id, "running"))
	return h
}

func deadline(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestGroupScalesAndMembersBootToAnApplication(t *testing.T) {
	l := start(t, standIns(t))
	ctx := deadline(t, 3*time.Minute)
	do(t, l.Group("web", 2, 5))
	hosts, err := l.AllBooted(ctx, "web", 2)
	do(t, err)
	for _, h := range hosts {
		got, err := h.ReadFile(ctx, "/run/app.started")
		do(t, err)
		if got != "releases/one\n" {
			t.Errorf("%s: the application says %q", h.ID, got)
		}
		if console := h.Console(); !strings.Contains(console, "endpoint http://10.0.0.1\n") || !strings.Contains(console, `pointer = "http://10.0.0.4:8080/release.json"`) {
			t.Errorf("%s: console:\n%s", h.ID, console)
		}
	}
	do(t, l.Account.SetDesired("web", 0))
	do(t, l.InService(ctx, "web", 0))
	if _, err := l.Host(hosts[0].ID); err == nil {
		t.Error("a terminated instance has a machine")
	}
}

func TestReleaseServerReachesMembersBySSH(t *testing.T) {
	l := start(t, standIns(t))
	ctx := deadline(t, 3*time.Minute)
	do(t, l.Group("web", 1, 1))
	server, err := l.ReleaseServer(ctx)
	do(t, err)
	hosts, err := l.AllBooted(ctx, "web", 1)
	do(t, err)
	key, err := hosts[0].ReadFile(ctx, "/etc/ssh/ssh_host_ed25519_key.pub")
	do(t, err)
	do(t, server.WriteFile(ctx, "/root/known", []byte("member "+key), 0o600))
	out, err := server.Run(ctx, "ssh", "-o", "BatchMode=yes", "-o", "UserKnownHostsFile=/root/known", "-o", "HostKeyAlias=member", "-i", SSHKey, SSHUser+"@"+hosts[0].Address.String(), "id -un; hostname")
	do(t, err)
	if want := SSHUser + "\nip-10-0-0-5\n"; out.Stdout != want {
		t.Errorf("over ssh: %q, want %q", out.Stdout, want)
	}
	do(t, server.WriteFile(ctx, "/root/known", []byte("member ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA0000000000000000000000000000000000000000000\n"), 0o600))
	if _, err := server.Run(ctx, "ssh", "-o", "BatchMode=yes", "-o", "UserKnownHostsFile=/root/known", "-o", "HostKeyAlias=member", "-i", SSHKey, SSHUser+"@"+hosts[0].Address.String(), "true"); err == nil {
		t.Error("a wrong host key was taken")
	}
	conf, err := server.Run(ctx, "ebs-release", "config", "show")
	do(t, err)
	if !strings.Contains(conf.Stdout, `groups = ["web"]`) || !strings.Contains(conf.Stdout, `pointer-store = "/srv/release"`) {
		t.Errorf("settings of the publisher:\n%s", conf.Stdout)
	}
}

func TestRebootAndStopStartBootAgainOnTheSameDisk(t *testing.T) {
	l := start(t, standIns(t))
	ctx := deadline(t, 3*time.Minute)
	h := member(t, ctx, l)
	do(t, os.WriteFile(h.Path("/root/kept"), []byte("kept"), 0o600))
	do(t, l.Reboot(ctx, h.ID))
	do(t, l.StopStart(ctx, h.ID))
	if got, err := h.ReadFile(ctx, "/root/kept"); err != nil || got != "kept" {
		t.Errorf("after two boots: %q, %v", got, err)
	}
	if n := h.Boots(); n != 3 {
		t.Errorf("%d boots", n)
	}
}

func TestTwoLabsDoNotClash(t *testing.T) {
	one, two := start(t, standIns(t)), start(t, standIns(t)) // same seed: same ids, same addresses
	ctx := deadline(t, 3*time.Minute)
	for _, l := range []*Lab{one, two} {
		do(t, l.Group("web", 1, 1))
	}
	for _, l := range []*Lab{one, two} {
		_, err := l.AllBooted(ctx, "web", 1)
		do(t, err)
	}
}

func TestMissingProgramIsSaidAndNothingIsLeft(t *testing.T) {
	opts := standIns(t)
	opts.Agent = filepath.Join(t.TempDir(), "none")
	if _, err := Start(t.Context(), opts); err == nil || !strings.Contains(err.Error(), "ebs-release-agent") {
		t.Errorf("error is %v", err)
	}
	if left, _ := os.ReadDir(opts.Dir); len(left) > 0 {
		t.Errorf("the lab left %v", left)
	}
}
