package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/cli"
	"ebs-release/internal/config"
	"ebs-release/internal/doctor"
	"ebs-release/internal/exit"
	"ebs-release/internal/freeze"
	"ebs-release/internal/mount"
	"ebs-release/internal/status"
)

// patient is a doctor on a machine with systemd, which answers as says has it: "systemctl
// is-enabled" -> "enabled".
func patient(t *testing.T, says map[string]string) *bootChecks {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"run/systemd/system", "etc/ebs-release", "etc/ssh"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	values, err := config.Load(settingsTable(), "", nil, func(key string) string {
		return map[string]string{"EBS_RELEASE_POINTER": "http://127.0.0.1:9/x"}[key]
	})
	if err != nil {
		t.Fatal(err)
	}
	return &bootChecks{
		values: values, timeout: 300 * time.Millisecond, root: root, runDir: status.Dir(filepath.Join(root, "run")), log: slog.New(slog.DiscardHandler),
		space: func(string) (string, error) { return "mnt:[1]", nil },
		run: func(_ context.Context, stdout io.Writer, program string, args ...string) error {
			for call, answer := range says {
				if strings.HasPrefix(strings.Join(append([]string{program}, args...), " "), call) {
					_, err := io.WriteString(stdout, answer)
					return err
				}
			}
			return errors.New("Failed to connect to bus")
		},
	}
}

func TestDoctorJudgesSystemd(t *testing.T) {
	const cycle = "ebs-release-agent.service: Job network-online.target/start deleted to break ordering cycle starting with multi-user.target/start"
	for _, tc := range []struct {
		name, call, answer string
		check              func(*bootChecks) func(context.Context) doctor.Finding
		state              doctor.State
		says               string
	}{
		{"enabled", "systemctl is-enabled", "enabled\n", (*bootChecks).unitCheck, doctor.OK, "enabled"},
		{"not enabled", "systemctl is-enabled", "disabled\n", (*bootChecks).unitCheck, doctor.Fail, "Try: systemctl enable ebs-release-agent.service"},
		{"masked", "systemctl is-enabled", "masked\n", (*bootChecks).unitCheck, doctor.Fail, "masked"},
		{"not installed", "systemctl is-enabled", "", (*bootChecks).unitCheck, doctor.Fail, "Try: install the package"},
		{"no answer", "", "", (*bootChecks).unitCheck, doctor.Fail, "install"},
		{
			"an application as it should be", "systemctl show", "LoadState=loaded\nRequiredBy=app.service\nWants=app.service\nBefore=app.service\n",
			(*bootChecks).applicationCheck, doctor.OK, "app.service wait for ebs-release.target",
		},
		{"no application", "systemctl show", "LoadState=loaded\nRequiredBy=\nWants=\nBefore=shutdown.target\n", (*bootChecks).applicationCheck, doctor.Warn, "Requires=ebs-release.target"},
		{
			"not gated", "systemctl show", "LoadState=loaded\nRequiredBy=\nWants=app.service\nBefore=app.service\n",
			(*bootChecks).applicationCheck, doctor.Fail, "app.service is started by ebs-release.target but does not wait",
		},
		{
			"not ordered", "systemctl show", "LoadState=loaded\nRequiredBy=app.service\nWants=app.service\nBefore=\n",
			(*bootChecks).applicationCheck, doctor.Fail, "After=ebs-release.target",
		},
		{
			"not started with it", "systemctl show", "LoadState=loaded\nRequiredBy=app.service\nWants=\nBefore=app.service\n",
			(*bootChecks).applicationCheck, doctor.Warn, "WantedBy=ebs-release.target",
		},
		{"no target", "systemctl show", "LoadState=not-found\n", (*bootChecks).applicationCheck, doctor.Fail, "Try: install the package"},
		{"no cycle", "journalctl", "Started x\nReached target y\n", (*bootChecks).orderingCheck, doctor.OK, "no ordering cycle"},
		{"a cycle", "journalctl", "Started x\n" + cycle + "\nReached target y\n", (*bootChecks).orderingCheck, doctor.Fail, "network-online.target/start deleted"},
		{"no journal", "", "", (*bootChecks).orderingCheck, doctor.Warn, "Failed to connect"},
		{"the unit mounts for all", "systemctl show", "PrivateMounts=no\nProtectSystem=no\nBindPaths=\nProtectProc=default\nProcSubset=all\n", (*bootChecks).propagationCheck, doctor.OK, "namespace"},
		{"a drop-in hides mounts", "systemctl show", "PrivateMounts=no\nPrivateTmp=yes\nProtectSystem=strict\n", (*bootChecks).propagationCheck, doctor.Fail, "PrivateTmp=yes, ProtectSystem=strict"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			says := map[string]string{}
			if tc.call != "" {
				says[tc.call] = tc.answer
			}
			got := tc.check(patient(t, says))(t.Context())
			if got.State != tc.state || !strings.Contains(got.String(), tc.says) {
				t.Errorf("%s, want %s with %q", got, tc.state, tc.says)
			}
		})
	}
}

// Row 92: the journal of a boot may be larger than memory, and the line that matters is somewhere
// in it.
func TestDoctorReadsAJournalLineByLine(t *testing.T) {
	programs := t.TempDir()
	for name, script := range map[string]string{
		"journalctl": "yes a unit was started | head -c 50000000; echo x.service: Job y/start deleted to break ordering cycle starting with z/start; yes a unit was started | head -c 50000000",
		"systemctl":  "yes enabled | head -c 100000000",
	} {
		if err := os.WriteFile(filepath.Join(programs, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", programs+":"+os.Getenv("PATH"))
	d := patient(t, nil)
	d.run = runProgram
	if got := d.ordering(t.Context()); got.State != doctor.Fail || !strings.Contains(got.Says, "y/start deleted") {
		t.Error(got)
	}
	if said, err := d.ask(t.Context(), "systemctl"); err == nil || len(said) > 1<<20 {
		t.Errorf("%d bytes, %v: half an answer is none", len(said), err)
	}
}

func (d *bootChecks) unitCheck() func(context.Context) doctor.Finding        { return d.unit }
func (d *bootChecks) applicationCheck() func(context.Context) doctor.Finding { return d.application }
func (d *bootChecks) orderingCheck() func(context.Context) doctor.Finding    { return d.ordering }
func (d *bootChecks) propagationCheck() func(context.Context) doctor.Finding {
	return d.mountPropagation
}

// The test binary plays the child that the doctor starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == freeze.TryWriteVerb || os.Args[1] == diskWorkVerb) {
		main()
	}
	os.Exit(m.Run())
}

func TestDoctorTellsOfErrorsThatExt4Counted(t *testing.T) {
	_, point := member(t)
	mounted, err := mount.Look(point)
	if err != nil {
		t.Fatal(err)
	}
	d := patient(t, nil)
	d.timeout = 20 * time.Second
	if d.values, err = config.Load(settingsTable(), "", nil, func(key string) string { return map[string]string{"EBS_RELEASE_MOUNT_POINT": point}[key] }); err != nil {
		t.Fatal(err)
	}
	count := filepath.Join(d.root, "sys/fs/ext4", filepath.Base(mounted.Source), "errors_count")
	if err := os.MkdirAll(filepath.Dir(count), 0o755); err != nil {
		t.Fatal(err)
	}
	for errors, want := range map[string]doctor.State{"0\n": doctor.OK, "3\n": doctor.Warn} {
		if err := os.WriteFile(count, []byte(errors), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := d.writing(t.Context()); got.State != want {
			t.Errorf("%q: %s", errors, got)
		}
	}
}

func TestDoctorSeesThatItIsInAContainer(t *testing.T) {
	d := patient(t, nil)
	d.space = func(pid string) (string, error) { return "mnt:[" + pid + "]", nil }
	if got := d.mountPropagation(t.Context()); got.State != doctor.Fail || !strings.Contains(got.Says, "another mount namespace") {
		t.Error(got)
	}
}

func TestDoctorWithoutSystemd(t *testing.T) {
	d := patient(t, nil)
	if err := os.RemoveAll(filepath.Join(d.root, "run/systemd")); err != nil {
		t.Fatal(err)
	}
	for name, check := range map[string]func(context.Context) doctor.Finding{"unit": d.unit, "application": d.application, "ordering": d.ordering, "propagation": d.mountPropagation} {
		if got := check(t.Context()); got.State != doctor.OK {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestDoctorTellsOfTheLastBoot(t *testing.T) {
	for _, tc := range []struct {
		name  string
		s     status.Status
		state doctor.State
		says  string
	}{
		{"failed", status.Status{State: status.Failed, Error: "attach: not allowed. Try: allow ec2:AttachVolume in the role"}, doctor.Fail, "attach: not allowed. Try: allow ec2:AttachVolume in the role"},
		{"failed without advice", status.Status{State: status.Failed, Error: "it failed"}, doctor.Fail, "Try: journalctl -u ebs-release-agent"},
		{"ready", status.Status{State: status.Ready, Generation: 7}, doctor.OK, "generation 7"},
		{"going on", status.Status{State: status.Booting, Stage: "attach"}, doctor.Warn, "stage attach"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := patient(t, nil)
			if err := d.runDir.Write(tc.s); err != nil {
				t.Fatal(err)
			}
			if got := d.lastBoot(t.Context()); got.State != tc.state || !strings.Contains(got.String(), tc.says) {
				t.Errorf("%s, want %s with %q", got, tc.state, tc.says)
			}
		})
	}
}

// TestDoctorOutsideEC2 ends in time, with a line for each check, and exit 1.
func TestDoctorOutsideEC2(t *testing.T) {
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	d, a := patient(t, nil), newAgent(t, nil)
	a.output = cli.JSON
	err := a.diagnose(t.Context(), d)
	stdout := a.out.String()
	var report doctor.Report
	if err := json.Unmarshal([]byte(stdout), &report); err != nil {
		t.Fatalf("%v in %s", err, stdout)
	}
	if exit.Code(err) != exit.Failed || report.State != doctor.Fail || report.Schema != 1 || !strings.Contains(err.Error(), "checks failed") {
		t.Errorf("%v: %+v", err, report)
	}
	states := map[string]doctor.State{}
	for _, c := range report.Checks {
		states[c.Name] = c.State
		if c.State != doctor.OK && c.Try == "" {
			t.Errorf("%s says nothing about what to do", c)
		}
	}
	if len(states) != len((&bootChecks{}).checks()) || states["metadata service"] != doctor.Fail || states["pointer"] != doctor.Fail || states["ec2:AttachVolume"] != doctor.Warn {
		t.Errorf("states = %v", states)
	}
}

func TestConfigCheck(t *testing.T) {
	for _, tc := range []struct {
		name string
		env  map[string]string
		code int
		says string
	}{
		{"right", map[string]string{"EBS_RELEASE_POINTER": "http://r/release.json"}, exit.Done, "ok: the pointer is http://r/release.json"},
		{"no pointer", nil, exit.Usage, "there is no pointer. Try: set --pointer"},
		{"wrong value", map[string]string{"EBS_RELEASE_POINTER": "http://r/", "EBS_RELEASE_DEADLINE": "4"}, exit.Usage, `setting deadline is "4" (from environment EBS_RELEASE_DEADLINE)`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, stdout, stderr := newAgent(t, tc.env).do(t, "config", "check")
			if code != tc.code || !strings.Contains(stdout+stderr, tc.says) {
				t.Errorf("exit %d: %s%s", code, stdout, stderr)
			}
		})
	}
}
