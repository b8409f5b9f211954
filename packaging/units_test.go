package packaging_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// distributions are the directories of testdata/cloud-init: their README files say where each
// ordering comes from.
var distributions = []string{"debian-12", "ubuntu-24.04", "amazon-2023", "rhel-9"}

// ourUnits are the unit files as the two packages install them.
var ourUnits = []string{
	"../systemd/ebs-release-agent.service",
	"../systemd/ebs-release-agent.path",
	"../systemd/ebs-release.target",
	"../systemd/ebs-release-follow.service",
	"../systemd/ebs-release-launch.service",
	"../systemd/ebs-release-warm.service",
	"../systemd/ebs-release-sleep.service",
	"../systemd/ebs-release-activate.service",
	"../systemd/ebs-release-before@.service",
	"units/ebs-release-serve.socket",
	"units/ebs-release-serve.service",
	"units/ebs-release-gc.service",
	"units/ebs-release-gc.timer",
	"units/ebs-release-rollout.service",
	"units/ebs-release-rollout.timer",
}

// application is what the documentation tells the author of an application to write.
const application = `[Unit]
Description=An application on /release
Requires=ebs-release.target
After=ebs-release.target
RequiresMountsFor=/release
AssertPathIsMountPoint=/release

[Service]
ExecStart=/usr/bin/true

[Install]
WantedBy=ebs-release.target
`

// TestNoOrderingCycle loads the boot of each distribution with both packages and an application
// installed, and asks systemd for its jobs.
func TestNoOrderingCycle(t *testing.T) {
	for _, distribution := range distributions {
		t.Run(distribution, func(t *testing.T) {
			root := bootRoot(t, distribution)
			if found := verify(t, root); found != "" {
				t.Errorf("systemd-analyze verify multi-user.target:\n%s", found)
			}
			for _, want := range []string{
				"etc/systemd/system/multi-user.target.wants/ebs-release-agent.service",
				"etc/systemd/system/ebs-release.target.wants/application.service",
			} {
				if _, err := os.Lstat(filepath.Join(root, want)); err != nil {
					t.Errorf("the boot does not start it, so nothing was verified: %v", err)
				}
			}
			if links, _ := filepath.Glob(filepath.Join(root, "etc/systemd/system/*/ebs-release-serve.*")); len(links) > 0 {
				t.Errorf("installing the publisher opens a port: %v", links)
			}
			timer := filepath.Join(root, "etc/systemd/system/timers.target.wants/ebs-release-gc.timer")
			if _, err := os.Lstat(timer); err == nil {
				t.Error("installing the publisher deletes snapshots every hour")
			}
			follow := filepath.Join(root, "etc/systemd/system/ebs-release.target.wants/ebs-release-follow.service")
			if _, err := os.Lstat(follow); err == nil {
				t.Error("installing the agent makes a member follow")
			}
			systemctl(t, root, "enable", "ebs-release-gc.timer", "ebs-release-rollout.timer", "ebs-release-follow.service") // as the documentation says
			if found := verify(t, root); found != "" {
				t.Errorf("systemd-analyze verify multi-user.target, of a member that follows:\n%s", found)
			}
			if _, err := os.Lstat(follow); err != nil {
				t.Errorf("the operator cannot make a member follow: %v", err)
			}
			if _, err := os.Lstat(timer); err != nil {
				t.Errorf("the operator cannot enable gc: %v", err)
			}
		})
	}
}

// TestOrderingCycleWouldBeFound plants the orderings that others fell for (failures.md row 22).
func TestOrderingCycleWouldBeFound(t *testing.T) {
	for _, tt := range []struct {
		distribution, ordering string
		cycle                  bool
	}{
		{"debian-12", "After=cloud-final.service", false}, // which waits for multi-user.target, and that does not wait for the agent
		{"debian-12", "After=cloud-final.service\nBefore=multi-user.target", true},
		{"ubuntu-24.04", "After=cloud-final.service\nBefore=multi-user.target", true},
		{"rhel-9", "After=cloud-final.service\nBefore=multi-user.target", true},
		{"amazon-2023", "After=cloud-final.service\nBefore=multi-user.target", false}, // its cloud-final does not wait for multi-user.target: what was tested there alone fails elsewhere
		{"debian-12", "Before=cloud-init.service", true},
		{"ubuntu-24.04", "Before=cloud-init-network.service", true},
		{"amazon-2023", "Before=cloud-init.service", true},
		{"rhel-9", "Before=cloud-init-network.service", true},
		{"debian-12", "Before=local-fs.target", true},
		{"amazon-2023", "Before=network.target", true},
	} {
		t.Run(tt.distribution+" "+tt.ordering, func(t *testing.T) {
			root := bootRoot(t, tt.distribution)
			write(t, filepath.Join(root, "etc/systemd/system/ebs-release-agent.service.d/planted.conf"), "[Unit]\n"+tt.ordering+"\n")
			found := verify(t, root)
			if got := strings.Contains(found, "ordering cycle"); got != tt.cycle {
				t.Errorf("ordering cycle found: %v, want %v\n%s", got, tt.cycle, found)
			}
		})
	}
}

// TestUnitsAreSandboxed holds the exposure levels (0 is safe, 10 is not): the agent has to mount
// for everyone, which rules out what makes a mount namespace.
func TestUnitsAreSandboxed(t *testing.T) {
	root := bootRoot(t, "debian-12")
	for unit, limit := range map[string]float64{
		"ebs-release-agent.service":  4.5,
		"ebs-release-follow.service": 4.3,
		"ebs-release-warm.service":   4.3,
		"ebs-release-serve.service":  1.0,
	} {
		out, err := exec.Command("systemd-analyze", "security", "--offline=yes", "--root="+root, "--no-pager", unit).CombinedOutput()
		if err != nil {
			t.Fatalf("systemd-analyze security %s: %v\n%s", unit, err, out)
		}
		m := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`).FindSubmatch(out)
		if m == nil {
			t.Fatalf("systemd-analyze security %s did not say a level:\n%s", unit, out)
		}
		if level, _ := strconv.ParseFloat(string(m[1]), 64); level > limit {
			t.Errorf("%s: exposure %.1f, want %.1f or better:\n%s", unit, level, limit, out)
		}
	}
}

// TestAgentMakesNoMountNamespace: any of these options would hide /release from everyone else, or
// keep what was replaced there (failures.md row 25; systemd.exec(5), "implies" and "file system
// namespace").
func TestAgentMakesNoMountNamespace(t *testing.T) {
	unit := read(t, "../systemd/ebs-release-agent.service") + read(t, "../systemd/ebs-release-follow.service") + read(t, "../systemd/ebs-release-warm.service")
	for _, option := range []string{
		"BindPaths", "BindReadOnlyPaths", "DynamicUser", "ExecPaths", "ExtensionImages", "ExtensionDirectories", "InaccessiblePaths", "LogNamespace", "MountAPIVFS",
		"MountFlags", "MountImages", "NoExecPaths", "PrivateDevices", "PrivateIPC", "PrivateMounts", "PrivateNetwork", "PrivateTmp", "PrivateUsers", "ProcSubset",
		"ProtectControlGroups", "ProtectHome", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables", "ProtectProc", "ProtectSystem",
		"ReadOnlyPaths", "ReadWritePaths", "RootDirectory", "RootImage", "TemporaryFileSystem",
	} {
		if m := regexp.MustCompile(`(?m)^` + option + `=(.*)$`).FindStringSubmatch(unit); m != nil && m[1] != "no" && m[1] != "false" && m[1] != "" {
			t.Errorf("a unit of the agent has %s", m[0])
		}
	}
}

// bootRoot is a root file system of unit files: systemd's own from this machine, the distribution's
// cloud-init, ours, and an application.
func bootRoot(t *testing.T, distribution string) string {
	t.Helper()
	root := t.TempDir()
	system := filepath.Join(root, "usr/lib/systemd/system")
	if err := os.MkdirAll(system, 0o755); err != nil {
		t.Fatal(err)
	}
	own, err := filepath.Glob("/usr/lib/systemd/system/*")
	if err != nil || len(own) == 0 {
		t.Fatalf("this machine has no systemd to take the targets from: %v", err)
	}
	for _, path := range own {
		name := filepath.Base(path)
		if strings.HasSuffix(name, ".target") || strings.HasSuffix(name, ".wants") || strings.HasPrefix(name, "systemd-") || strings.HasPrefix(name, "dbus.") {
			run(t, "cp", "-a", path, system)
		}
	}
	for _, program := range []string{"true", "rm", "sh", "systemctl", "ebs-release", "ebs-release-agent"} {
		write(t, filepath.Join(root, "usr/bin", program), "#!/bin/sh\n")
		if err := os.Chmod(filepath.Join(root, "usr/bin", program), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(root, "etc/passwd"), "root:x:0:0::/root:/bin/sh\n")
	write(t, filepath.Join(root, "etc/group"), "root:x:0:\n")

	var enable []string
	theirs, _ := filepath.Glob(filepath.Join("testdata/cloud-init", distribution, "*.*"))
	if len(theirs) == 0 {
		t.Fatalf("there is no testdata/cloud-init/%s", distribution)
	}
	for _, path := range theirs {
		unit := read(t, path)
		write(t, filepath.Join(system, filepath.Base(path)), unit)
		if strings.Contains(unit, "[Install]") {
			enable = append(enable, filepath.Base(path))
		}
	}
	write(t, filepath.Join(system, "sshd.service"), "[Unit]\nAfter=network.target\n[Service]\nExecStart=/usr/bin/true\n[Install]\nWantedBy=multi-user.target\n")
	if distribution == "ubuntu-24.04" || distribution == "amazon-2023" {
		enable = append(enable, "systemd-networkd.service")
	}
	systemctl(t, root, append([]string{"enable", "sshd.service"}, enable...)...)
	// What cloud-init-generator does at every boot.
	systemctl(t, root, "add-wants", "multi-user.target", "cloud-init.target")

	for _, path := range ourUnits {
		write(t, filepath.Join(system, filepath.Base(path)), read(t, path))
	}
	for _, path := range []string{"../systemd/90-ebs-release.preset", "units/90-ebs-release-serve.preset"} {
		write(t, filepath.Join(root, "usr/lib/systemd/system-preset", filepath.Base(path)), read(t, path))
	}
	write(t, filepath.Join(system, "application.service"), application)
	systemctl(t, root, "preset", "ebs-release-agent.service", "ebs-release-follow.service", "ebs-release-serve.socket", "ebs-release-serve.service", "ebs-release-gc.timer", "ebs-release-rollout.timer")
	systemctl(t, root, "enable", "application.service")
	return root
}

// verify returns what systemd complains about in a boot to multi-user.target: cycles, and anything
// in our units.
func verify(t *testing.T, root string) string {
	t.Helper()
	units := []string{"--root=" + root, "--man=no", "verify", "multi-user.target", "ebs-release-agent.path", "ebs-release.target", "ebs-release-follow.service", "ebs-release-activate.service", "ebs-release-launch.service", "ebs-release-warm.service", "ebs-release-sleep.service", "ebs-release-before@.service", "ebs-release-serve.socket", "ebs-release-serve.service", "ebs-release-gc.timer", "ebs-release-gc.service", "ebs-release-rollout.timer", "ebs-release-rollout.service"}
	out, err := exec.Command("systemd-analyze", units...).CombinedOutput()
	if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
		t.Fatal(err)
	}
	var found bytes.Buffer
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "ordering cycle") || strings.Contains(line, "deleted to break") || strings.Contains(line, "ebs-release") || strings.Contains(line, "application") {
			found.WriteString(line)
		}
	}
	return found.String()
}

func systemctl(t *testing.T, root string, args ...string) {
	t.Helper()
	run(t, "systemctl", append([]string{"--root=" + root, "--quiet"}, args...)...)
}

// run runs a program that must succeed, and returns what it wrote.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(fmt.Errorf("write: %w", err))
	}
}

// TestLateSettingsAreRead: the agent's unit brings the watch along, so it is there at each boot
// that starts the agent, and only then (row 74).
func TestLateSettingsAreRead(t *testing.T) {
	if unit := read(t, "../systemd/ebs-release-agent.service"); !strings.Contains(unit, "\nWants=ebs-release-agent.path\n") {
		t.Error("nothing starts the watch")
	}
	watch := read(t, "../systemd/ebs-release-agent.path")
	for _, line := range []string{
		"PartOf=ebs-release-agent.service", // an agent that was stopped stays stopped
		"ConditionPathExists=!/etc/ebs-release/disabled",
		"PathChanged=/etc/ebs-release/agent.toml", "PathChanged=/etc/default/ebs-release-agent",
	} {
		if !strings.Contains(watch, "\n"+line+"\n") {
			t.Errorf("the watch has no %q", line)
		}
	}
	// Those fire for what is there already, again and again.
	for _, option := range []string{"PathExists=", "PathExistsGlob=", "DirectoryNotEmpty="} {
		if regexp.MustCompile(`(?m)^` + option).MatchString(watch) {
			t.Errorf("the watch has %s", option)
		}
	}
}

// A Go program that crashes exits 2, which is wrong configuration to the unit: with these it ends
// by a signal, and is started again.
func TestACrashIsNoWrongConfiguration(t *testing.T) {
	for _, name := range []string{"../systemd/ebs-release-agent.service", "../systemd/ebs-release-follow.service"} {
		unit := read(t, name)
		for _, line := range []string{"Environment=GOTRACEBACK=crash\n", "LimitCORE=0\n", "RestartPreventExitStatus=2\n"} {
			if !strings.Contains(unit, line) {
				t.Errorf("%s has no %q", name, line)
			}
		}
	}
}

// What only root may read there, such as keys, is not for programs of the owner of the tree.
func TestProgramsDoNotGetTheAgentsEnvironment(t *testing.T) {
	for _, name := range []string{"ebs-release-activate.service", "ebs-release-before@.service"} {
		if unit := read(t, "../systemd/"+name); regexp.MustCompile(`(?m)^EnvironmentFile=`).MatchString(unit) {
			t.Errorf("%s reads an EnvironmentFile=", name)
		}
	}
}
