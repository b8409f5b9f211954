package checks

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

	"ebs-release/internal/advice"
	"ebs-release/internal/device"
	"ebs-release/internal/doctor"
	"ebs-release/internal/freeze"
	"ebs-release/internal/instance"
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
func (c *Checks) ask(ctx context.Context, program string, args ...string) (string, error) {
	var said output.Ends
	err := c.run(ctx, &said, program, args...)
	if err == nil && said.Cut() {
		err = fmt.Errorf("%s says too much", program)
	}
	return said.String(), err
}

// mountPoint asks what the boot asks; one that is not there yet the boot makes.
func (c *Checks) mountPoint(context.Context) doctor.Finding {
	point := c.settings.Volume.Owner.MountPoint
	if _, err := os.Lstat(point); errors.Is(err, fs.ErrNotExist) {
		if info, err := os.Stat(filepath.Dir(point)); err != nil || !info.IsDir() {
			return doctor.Failure("mkdir -p "+filepath.Dir(point), "%s cannot be made: %s is no directory", point, filepath.Dir(point))
		}
		return doctor.Fine("%s is not there yet; the boot makes it", point)
	}
	mounted, err := mount.Look(point)
	if err != nil {
		return doctor.Failed(advice.Try(err, "make it an empty directory of its own: install -d -m 0555 %s", point))
	}
	if mounted == nil {
		return doctor.Fine("%s is an empty directory", point)
	}
	for _, v := range c.mine {
		if device.New(c.log).Below(mounted.Major, mounted.Minor, v.ID, v.Attachment.Device) {
			return doctor.Fine("%s is %s", point, v.ID)
		}
	}
	if c.api == nil || c.denied {
		return doctor.Warning("see ec2:DescribeVolumes",
			"%s is mounted (%s), and whether that is this instance's volume is not known", point, mounted)
	}
	return doctor.Failure("umount "+point, "%s is mounted, and is no release volume of this instance: %s", point, mounted)
}

func mountNamespace(pid string) (string, error) { return os.Readlink("/proc/" + pid + "/ns/mnt") }

// namespaceOptions give a unit a mount namespace of its own, which hides what it mounts (systemd
// #9873).
const namespaceOptions = "PrivateMounts,PrivateTmp,PrivateDevices,PrivateIPC,PrivateNetwork,PrivateUsers," +
	"ProtectSystem,ProtectHome,ProtectControlGroups,ProtectKernelTunables,ProtectKernelLogs,ProtectKernelModules," +
	"ProtectHostname,ProtectProc,ProcSubset,DynamicUser,RootDirectory,RootImage," +
	"TemporaryFileSystem,BindPaths,BindReadOnlyPaths,ReadOnlyPaths,ReadWritePaths,InaccessiblePaths,NoExecPaths,ExecPaths"

// mountPropagation: a mount made here, and one made by the unit, is seen by everybody.
func (c *Checks) mountPropagation(ctx context.Context) doctor.Finding {
	own, err := c.space("self")
	if err != nil {
		return doctor.Failure("mount /proc", "%v", err)
	}
	first, err := c.space("1")
	if err != nil {
		return doctor.Warning("run the doctor as root", "PID 1's mount namespace cannot be seen: %v", err)
	}
	if own != first {
		return doctor.Failure("run it outside of the container, or of the unit that hides mounts",
			"this program is in another mount namespace than PID 1: nobody sees what it mounts")
	}
	if !c.systemd() {
		return doctor.Fine("this program is in PID 1's mount namespace")
	}
	show, err := c.ask(ctx, "systemctl", "show", agentUnit, "--property="+namespaceOptions)
	if err != nil {
		return doctor.Warning("systemctl status "+agentUnit, "cannot ask systemd about the unit: %v", err)
	}
	var bad []string
	for key, value := range properties(show) {
		if !slices.Contains([]string{"", "no", "default", "all"}, value) {
			bad = append(bad, key+"="+value)
		}
	}
	if slices.Sort(bad); len(bad) > 0 {
		return doctor.Failure("take it out of the unit's drop-ins: systemctl edit "+agentUnit,
			"the unit has %s, so nobody sees what the agent mounts", strings.Join(bad, ", "))
	}
	return doctor.Fine("the unit mounts in PID 1's namespace")
}

func (c *Checks) e2fsck(context.Context) doctor.Finding {
	path, err := exec.LookPath("e2fsck")
	if err != nil {
		return doctor.Failure("install e2fsprogs", "there is no e2fsck, which an ext4 volume that was not unmounted needs")
	}
	return doctor.Fine("%s", path)
}

func (c *Checks) sshHostKey(context.Context) doctor.Finding {
	key, err := instance.HostKey(filepath.Join(c.root, "etc/ssh"))
	if err != nil {
		return doctor.Warning("ssh-keygen -A", "the publisher cannot push to this member: %s", short(err))
	}
	kind, _, _ := strings.Cut(key, " ")
	return doctor.Fine("%s", kind)
}

// systemd: sd_booted(3).
func (c *Checks) systemd() bool {
	_, err := os.Lstat(filepath.Join(c.root, "run/systemd/system"))
	return err == nil
}

func (c *Checks) unit(ctx context.Context) doctor.Finding {
	disabled := filepath.Join(c.root, "etc/ebs-release/disabled")
	if _, err := os.Lstat(disabled); err == nil {
		return doctor.Warning("rm "+disabled+", unless this machine becomes an AMI", "%s exists: no boot starts the agent", disabled)
	}
	if !c.systemd() {
		return doctor.Fine(noSystemd)
	}
	state, err := c.ask(ctx, "systemctl", "is-enabled", agentUnit)
	switch state = strings.TrimSpace(state); {
	case strings.HasPrefix(state, "enabled"):
		return doctor.Fine("%s is enabled", agentUnit)
	case state == "":
		return doctor.Failure("install the package ebs-release-agent", "no %s: %v", agentUnit, err)
	}
	return doctor.Failure("systemctl enable "+agentUnit, "%s is %s: no boot starts it", agentUnit, state)
}

// application: something waits for the target (Requires=) and is started with it (WantedBy=).
func (c *Checks) application(ctx context.Context) doctor.Finding {
	if !c.systemd() {
		return doctor.Fine(noSystemd)
	}
	show, err := c.ask(ctx, "systemctl", "show", releaseTarget, "--property=LoadState,RequiredBy,Wants,Before")
	if err != nil {
		return doctor.Warning("systemctl status "+releaseTarget, "cannot ask systemd about %s: %v", releaseTarget, err)
	}
	return judgeApplication(properties(show))
}

func judgeApplication(target map[string]string) doctor.Finding {
	if state := target["LoadState"]; state != "loaded" {
		return doctor.Failure("install the package ebs-release-agent", "%s is %q", releaseTarget, state)
	}
	gated, started, ordered := strings.Fields(target["RequiredBy"]), strings.Fields(target["Wants"]), strings.Fields(target["Before"])
	started = slices.DeleteFunc(started, func(u string) bool { return u == agentUnit })
	for _, u := range started {
		if !slices.Contains(gated, u) || !slices.Contains(ordered, u) {
			return doctor.Failure("give it Requires="+releaseTarget+" and After="+releaseTarget,
				"%s is started by %s but does not wait for it: it may start without a release", u, releaseTarget)
		}
	}
	for _, u := range gated {
		if !slices.Contains(ordered, u) {
			return doctor.Failure("give it After="+releaseTarget,
				"%s requires %s but is not ordered after it: it may start without a release", u, releaseTarget)
		}
		if !slices.Contains(started, u) {
			return doctor.Warning("give it WantedBy="+releaseTarget+" in [Install], then systemctl reenable "+u,
				"%s waits for %s, but is not started when only a later try succeeds", u, releaseTarget)
		}
	}
	if len(gated) == 0 {
		return doctor.Warning("give the application's unit Requires="+releaseTarget+", After="+releaseTarget+" and WantedBy="+releaseTarget,
			"no unit waits for %s", releaseTarget)
	}
	return doctor.Fine("%s wait for %s", strings.Join(gated, ", "), releaseTarget)
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

// ordering: systemd breaks a cycle by leaving out a job, which may be anybody's (amazon-eks-ami
// #2269).
func (c *Checks) ordering(ctx context.Context) doctor.Finding {
	if !c.systemd() {
		return doctor.Fine(noSystemd)
	}
	left := ""
	lines := &output.Lines{Each: func(line string) { // the journal of a long boot is larger than a doctor may be
		if strings.Contains(line, "to break ordering cycle") {
			left = strings.TrimSpace(line)
		}
	}}
	if err := c.run(ctx, lines, "journalctl", "--boot", "--no-pager", "--quiet", "--output=cat", "_PID=1"); err != nil {
		return doctor.Warning("journalctl -b _PID=1 | grep 'ordering cycle'", "cannot read this boot's journal: %v", err)
	}
	lines.End()
	if left != "" {
		return doctor.Failure("journalctl -b _PID=1 | grep 'ordering cycle'; then drop an After= or Before= of it",
			"systemd left a unit out of this boot: %s", left)
	}
	return doctor.Fine("no ordering cycle in this boot")
}

// lastBoot is what the boot of this machine came to.
func (c *Checks) lastBoot(context.Context) doctor.Finding {
	s, err := c.settings.RunDir.Read()
	if err != nil {
		return doctor.Warning("ebs-release-agent up, which writes it anew", "%s", short(err))
	}
	switch s.State {
	case status.Failed:
		return doctor.Failed(advice.Try(advice.Parse(s.Error), "journalctl -u %s", agentUnit))
	case status.Ready:
		if s.Warning != "" { // a later start of the agent failed, and the member serves on
			warning := fmt.Errorf("generation %d is served; %w", s.Generation, advice.Parse(s.Warning))
			return doctor.Warned(advice.Try(warning, "journalctl -u %s", agentUnit))
		}
		return doctor.Fine("ready in %s: generation %d", s.Finished.Sub(s.Started).Round(time.Millisecond), s.Generation)
	case status.Warmed:
		return doctor.Fine("in the warm pool: generation %d is prepared, and nothing is served", s.Generation)
	case status.Booting:
		return doctor.Warning("ebs-release-agent wait", "it goes on, stage %s", s.Stage)
	}
	return doctor.Fine("the agent has not run since this machine started")
}

// frozenTime is how long a write may take, within a Timeout: nothing on a member freezes its file
// system for longer.
const frozenTime = 2 * time.Second

// renew is what to do about a file system that is damaged, or of which a process holds the old
// state.
const renew = "stop what uses it, umount it, ebs-release-agent up, which checks the volume or makes another, and start again what used it"

// writing looks whether a push could write: the kernel makes a file system read-only when it finds
// errors, and somebody may have frozen it. Readers do not notice. Nothing is read from the disk,
// which may not answer.
func (c *Checks) writing(ctx context.Context) doctor.Finding {
	point := c.settings.Volume.Owner.MountPoint
	mounted, err := mount.Look(point)
	if err != nil || mounted == nil {
		return doctor.Fine("nothing is mounted at %s", point)
	}
	if why := mounted.ReadOnly(); why != "" {
		return doctor.Failure("dmesg (the kernel does that after errors); "+renew,
			"nothing can be written to %s: it is %s in mountinfo", point, why)
	}
	err = freeze.Writable(ctx, point, frozenTime)
	switch {
	case errors.Is(err, freeze.ErrStuck):
		thaw := "fsfreeze --unfreeze " + point + " (a backup may have frozen it)"
		return doctor.Failure(thaw+"; was it not frozen: dmesg, its disk does not answer", "%s", short(err))
	case err != nil:
		return doctor.Failure("dmesg; "+renew, "%s", short(err))
	}
	if n := c.recordedErrors(*mounted); n != "" && n != "0" {
		return doctor.Warning("dmesg; "+renew, "ext4 has found errors on it (%s)", n)
	}
	return doctor.Fine("writes to %s come through", point)
}

// recordedErrors is how many errors ext4 has counted on a file system since e2fsck found it clean;
// "": it is another kind.
func (c *Checks) recordedErrors(mounted mount.Mounted) string {
	name, _, err := device.New(c.log).Which(mounted.Major, mounted.Minor)
	if err != nil {
		return ""
	}
	count, _ := os.ReadFile(filepath.Join(c.root, "sys/fs/ext4", name, "errors_count"))
	return strings.TrimSpace(string(count))
}
