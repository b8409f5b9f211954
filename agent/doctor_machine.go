package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"ebs-release/internal/mount"
	"ebs-release/internal/output"
	"ebs-release/internal/status"
)

const (
	agentUnit     = "ebs-release-agent.service"
	releaseTarget = "ebs-release.target"
)

// noSystemd is what the checks about units say on a machine without it.
const noSystemd = "systemd does not run here: start `ebs-release-agent up` and then the application yourself"

// runProgram runs a program. Its error has the words of its stderr.
func runProgram(ctx context.Context, stdout io.Writer, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.WaitDelay = time.Second
	var stderr output.Ends
	cmd.Stdout, cmd.Stderr = stdout, &stderr
	err := cmd.Run()
	if words := stderr.Words(1000); err != nil && words != "" {
		err = fmt.Errorf("%w: %s", err, words)
	}
	return err
}

// ask runs a program, and returns what it says on stdout.
func (d *doctor) ask(ctx context.Context, program string, args ...string) (string, error) {
	var said output.Ends
	err := d.run(ctx, &said, program, args...)
	if err == nil && said.Cut() {
		err = fmt.Errorf("%s says too much", program)
	}
	return said.String(), err
}

// mountPoint asks what the boot asks; one that is not there yet the boot makes.
func (d *doctor) mountPoint(context.Context) finding {
	point := d.values.Get("mount-point")
	if _, err := os.Lstat(point); errors.Is(err, fs.ErrNotExist) {
		if info, err := os.Stat(filepath.Dir(point)); err != nil || !info.IsDir() {
			return fail("mkdir -p "+filepath.Dir(point), "%s cannot be made: %s is no directory", point, filepath.Dir(point))
		}
		return ok("%s is not there yet; the boot makes it", point)
	}
	mounted, err := mount.Look(point)
	if err != nil {
		words, try := err.Error(), "make it an empty directory of its own: install -d -m 0555 "+point
		if before, after, found := strings.Cut(words, ". Try: "); found {
			words, try = before, after
		}
		return fail(try, "%s", words)
	}
	if mounted == nil {
		return ok("%s is an empty directory", point)
	}
	for _, v := range d.mine {
		if newMachine(point, d.log).isMounted(*mounted, v.ID, v.Attachment.Device) {
			return ok("%s is %s", point, v.ID)
		}
	}
	if d.api == nil || d.denied {
		return warn("see ec2:DescribeVolumes", "%s is mounted (%s), and whether that is this instance's volume is not known", point, mounted)
	}
	return fail("umount "+point, "%s is mounted, and is no release volume of this instance: %s", point, mounted)
}

func mountNamespace(pid string) (string, error) { return os.Readlink("/proc/" + pid + "/ns/mnt") }

// namespaceOptions give a unit a mount namespace of its own, which hides what it mounts (systemd #9873).
const namespaceOptions = "PrivateMounts,PrivateTmp,PrivateDevices,PrivateIPC,PrivateNetwork,PrivateUsers,ProtectSystem,ProtectHome,ProtectControlGroups," +
	"ProtectKernelTunables,ProtectKernelLogs,ProtectKernelModules,ProtectHostname,ProtectProc,ProcSubset,DynamicUser,RootDirectory,RootImage," +
	"TemporaryFileSystem,BindPaths,BindReadOnlyPaths,ReadOnlyPaths,ReadWritePaths,InaccessiblePaths,NoExecPaths,ExecPaths"

// mountPropagation: a mount made here, and one made by the unit, is seen by everybody.
func (d *doctor) mountPropagation(ctx context.Context) finding {
	own, err := d.space("self")
	if err != nil {
		return fail("mount /proc", "%v", err)
	}
	first, err := d.space("1")
	if err != nil {
		return warn("run the doctor as root", "PID 1's mount namespace cannot be seen: %v", err)
	}
	if own != first {
		return fail("run it outside of the container, or of the unit that hides mounts", "this program is in another mount namespace than PID 1: nobody sees what it mounts")
	}
	if !d.systemd() {
		return ok("this program is in PID 1's mount namespace")
	}
	show, err := d.ask(ctx, "systemctl", "show", agentUnit, "--property="+namespaceOptions)
	if err != nil {
		return warn("systemctl status "+agentUnit, "cannot ask systemd about the unit: %v", err)
	}
	var bad []string
	for key, value := range properties(show) {
		if !slices.Contains([]string{"", "no", "default", "all"}, value) {
			bad = append(bad, key+"="+value)
		}
	}
	if slices.Sort(bad); len(bad) > 0 {
		return fail("take it out of the unit's drop-ins: systemctl edit "+agentUnit, "the unit has %s, so nobody sees what the agent mounts", strings.Join(bad, ", "))
	}
	return ok("the unit mounts in PID 1's namespace")
}

func (d *doctor) e2fsck(context.Context) finding {
	path, err := exec.LookPath("e2fsck")
	if err != nil {
		return fail("install e2fsprogs", "there is no e2fsck, which an ext4 volume that was not unmounted needs")
	}
	return ok("%s", path)
}

func (d *doctor) sshHostKey(context.Context) finding {
	key, err := hostKey(filepath.Join(d.root, "etc/ssh"))
	if err != nil {
		return warn("ssh-keygen -A", "the publisher cannot push to this member: %s", short(err))
	}
	kind, _, _ := strings.Cut(key, " ")
	return ok("%s", kind)
}

// systemd: sd_booted(3).
func (d *doctor) systemd() bool {
	_, err := os.Lstat(filepath.Join(d.root, "run/systemd/system"))
	return err == nil
}

func (d *doctor) unit(ctx context.Context) finding {
	disabled := filepath.Join(d.root, "etc/ebs-release/disabled")
	if _, err := os.Lstat(disabled); err == nil {
		return warn("rm "+disabled+", unless this machine becomes an AMI", "%s exists: no boot starts the agent", disabled)
	}
	if !d.systemd() {
		return ok(noSystemd)
	}
	state, err := d.ask(ctx, "systemctl", "is-enabled", agentUnit)
	switch state = strings.TrimSpace(state); {
	case strings.HasPrefix(state, "enabled"):
		return ok("%s is enabled", agentUnit)
	case state == "":
		return fail("install the package ebs-release-agent", "no %s: %v", agentUnit, err)
	}
	return fail("systemctl enable "+agentUnit, "%s is %s: no boot starts it", agentUnit, state)
}

// application: something waits for the target (Requires=) and is started with it (WantedBy=).
func (d *doctor) application(ctx context.Context) finding {
	if !d.systemd() {
		return ok(noSystemd)
	}
	show, err := d.ask(ctx, "systemctl", "show", releaseTarget, "--property=LoadState,RequiredBy,Wants,Before")
	if err != nil {
		return warn("systemctl status "+releaseTarget, "cannot ask systemd about %s: %v", releaseTarget, err)
	}
	return judgeApplication(properties(show))
}

func judgeApplication(target map[string]string) finding {
	if state := target["LoadState"]; state != "loaded" {
		return fail("install the package ebs-release-agent", "%s is %q", releaseTarget, state)
	}
	gated, started, ordered := strings.Fields(target["RequiredBy"]), strings.Fields(target["Wants"]), strings.Fields(target["Before"])
	started = slices.DeleteFunc(started, func(u string) bool { return u == agentUnit })
	for _, u := range started {
		if !slices.Contains(gated, u) || !slices.Contains(ordered, u) {
			return fail("give it Requires="+releaseTarget+" and After="+releaseTarget, "%s is started by %s but does not wait for it: it may start without a release", u, releaseTarget)
		}
	}
	for _, u := range gated {
		if !slices.Contains(ordered, u) {
			return fail("give it After="+releaseTarget, "%s requires %s but is not ordered after it: it may start without a release", u, releaseTarget)
		}
		if !slices.Contains(started, u) {
			return warn("give it WantedBy="+releaseTarget+" in [Install], then systemctl reenable "+u, "%s waits for %s, but is not started when only a later try succeeds", u, releaseTarget)
		}
	}
	if len(gated) == 0 {
		return warn("give the application's unit Requires="+releaseTarget+", After="+releaseTarget+" and WantedBy="+releaseTarget, "no unit waits for %s", releaseTarget)
	}
	return ok("%s wait for %s", strings.Join(gated, ", "), releaseTarget)
}

// properties reads what `systemctl show` says.
func properties(show string) map[string]string {
	found := map[string]string{}
	for line := range strings.Lines(show) {
		if key, value, is := strings.Cut(strings.TrimSpace(line), "="); is {
			found[key] = value
		}
	}
	return found
}

// ordering: systemd breaks a cycle by leaving out a job, which may be anybody's (amazon-eks-ami #2269).
func (d *doctor) ordering(ctx context.Context) finding {
	if !d.systemd() {
		return ok(noSystemd)
	}
	left := ""
	lines := &output.Lines{Each: func(line string) { // the journal of a long boot is larger than a doctor may be
		if strings.Contains(line, "to break ordering cycle") {
			left = strings.TrimSpace(line)
		}
	}}
	if err := d.run(ctx, lines, "journalctl", "--boot", "--no-pager", "--quiet", "--output=cat", "_PID=1"); err != nil {
		return warn("journalctl -b _PID=1 | grep 'ordering cycle'", "cannot read this boot's journal: %v", err)
	}
	lines.End()
	if left != "" {
		return fail("journalctl -b _PID=1 | grep 'ordering cycle'; then drop an After= or Before= of it", "systemd left a unit out of this boot: %s", left)
	}
	return ok("no ordering cycle in this boot")
}

// lastBoot is what the boot of this machine came to.
func (d *doctor) lastBoot(context.Context) finding {
	s, err := d.runDir.Read()
	if err != nil {
		return warn("ebs-release-agent up, which writes it anew", "%s", short(err))
	}
	switch s.State {
	case status.Failed:
		words, try, found := strings.Cut(s.Error, ". Try: ")
		if !found {
			try = "journalctl -u " + agentUnit
		}
		return fail(try, "%s", words)
	case status.Ready:
		if s.Warning != "" { // a later start of the agent failed, and the member serves on
			words, try, found := strings.Cut(s.Warning, ". Try: ")
			if !found {
				try = "journalctl -u " + agentUnit
			}
			return warn(try, "generation %d is served; %s", s.Generation, words)
		}
		return ok("ready in %s: generation %d", s.Finished.Sub(s.Started).Round(time.Millisecond), s.Generation)
	case status.Booting:
		return warn("ebs-release-agent wait", "it goes on, stage %s", s.Stage)
	}
	return ok("the agent has not run since this machine started")
}
