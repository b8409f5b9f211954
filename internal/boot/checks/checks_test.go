package checks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/doctor"
	"ebs-release/internal/freeze"
	"ebs-release/internal/instance"
	"ebs-release/internal/mount"
	"ebs-release/internal/pointer"
	"ebs-release/internal/status"
	"ebs-release/internal/test/scratch"
	"ebs-release/internal/volume"
)

// patient is a doctor on a machine with systemd, which answers as says has it: "systemctl
// is-enabled" -> "enabled".
func patient(t *testing.T, says map[string]string) *Checks {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"run/systemd/system", "etc/ebs-release", "etc/ssh"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return &Checks{
		settings: Settings{
			Pointer: "http://127.0.0.1:9/x", ConfigFile: "agent.toml", RunDir: status.Dir(filepath.Join(root, "run")),
			Volume: volume.Request{Owner: volume.Owner{Role: volume.RoleMember, MountPoint: filepath.Join(root, "release")}},
		},
		root: root, log: slog.New(slog.DiscardHandler),
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
		check              func(*Checks) func(context.Context) doctor.Finding
		state              doctor.State
		says               string
	}{
		{"enabled", "systemctl is-enabled", "enabled\n", (*Checks).unitCheck, doctor.OK, "enabled"},
		{"not enabled", "systemctl is-enabled", "disabled\n", (*Checks).unitCheck, doctor.Fail, "Try: systemctl enable ebs-release-agent.service"},
		{"masked", "systemctl is-enabled", "masked\n", (*Checks).unitCheck, doctor.Fail, "masked"},
		{"not installed", "systemctl is-enabled", "", (*Checks).unitCheck, doctor.Fail, "Try: install the package"},
		{"no answer", "", "", (*Checks).unitCheck, doctor.Fail, "install"},
		{
			"an application as it should be", "systemctl show", "LoadState=loaded\nRequiredBy=app.service\nWants=app.service\nBefore=app.service\n",
			(*Checks).applicationCheck, doctor.OK, "app.service wait for ebs-release.target",
		},
		{"no application", "systemctl show", "LoadState=loaded\nRequiredBy=\nWants=\nBefore=shutdown.target\n", (*Checks).applicationCheck, doctor.Warn, "Requires=ebs-release.target"},
		{
			"not gated", "systemctl show", "LoadState=loaded\nRequiredBy=\nWants=app.service\nBefore=app.service\n",
			(*Checks).applicationCheck, doctor.Fail, "app.service is started by ebs-release.target but does not wait",
		},
		{
			"not ordered", "systemctl show", "LoadState=loaded\nRequiredBy=app.service\nWants=app.service\nBefore=\n",
			(*Checks).applicationCheck, doctor.Fail, "After=ebs-release.target",
		},
		{
			"not started with it", "systemctl show", "LoadState=loaded\nRequiredBy=app.service\nWants=\nBefore=app.service\n",
			(*Checks).applicationCheck, doctor.Warn, "WantedBy=ebs-release.target",
		},
		{"no target", "systemctl show", "LoadState=not-found\n", (*Checks).applicationCheck, doctor.Fail, "Try: install the package"},
		{"no cycle", "journalctl", "Started x\nReached target y\n", (*Checks).orderingCheck, doctor.OK, "no ordering cycle"},
		{"a cycle", "journalctl", "Started x\n" + cycle + "\nReached target y\n", (*Checks).orderingCheck, doctor.Fail, "network-online.target/start deleted"},
		{"no journal", "", "", (*Checks).orderingCheck, doctor.Warn, "Failed to connect"},
		{"the unit mounts for all", "systemctl show", "PrivateMounts=no\nProtectSystem=no\nBindPaths=\nProtectProc=default\nProcSubset=all\n", (*Checks).propagationCheck, doctor.OK, "namespace"},
		{"a drop-in hides mounts", "systemctl show", "PrivateMounts=no\nPrivateTmp=yes\nProtectSystem=strict\n", (*Checks).propagationCheck, doctor.Fail, "PrivateTmp=yes, ProtectSystem=strict"},
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

func (c *Checks) unitCheck() func(context.Context) doctor.Finding        { return c.unit }
func (c *Checks) applicationCheck() func(context.Context) doctor.Finding { return c.application }
func (c *Checks) orderingCheck() func(context.Context) doctor.Finding    { return c.ordering }
func (c *Checks) propagationCheck() func(context.Context) doctor.Finding {
	return c.mountPropagation
}

// The test binary plays the child that the checks start.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == freeze.TryWriteVerb {
		if err := freeze.TryWrite(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestDoctorTellsOfErrorsThatExt4Counted(t *testing.T) {
	point := t.TempDir()
	scratch.Mount(t, scratch.Disk(t, 16<<20, "mkfs.ext4", "-q"), point, "ext4", 0, "")
	mounted, err := mount.Look(point)
	if err != nil {
		t.Fatal(err)
	}
	d := patient(t, nil)
	d.settings.Volume.Owner.MountPoint = point
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
			if err := d.settings.RunDir.Write(tc.s); err != nil {
				t.Fatal(err)
			}
			if got := d.lastBoot(t.Context()); got.State != tc.state || !strings.Contains(got.String(), tc.says) {
				t.Errorf("%s, want %s with %q", got, tc.state, tc.says)
			}
		})
	}
}

// TestDoctorOutsideEC2 ends in time, with a line for each check.
func TestDoctorOutsideEC2(t *testing.T) {
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	d := patient(t, nil)
	report, err := doctor.Run(t.Context(), d.List(), 300*time.Millisecond, func(doctor.Finding) {})
	if err != nil || report.State != doctor.Fail {
		t.Errorf("%v: %+v", err, report)
	}
	states := map[string]doctor.State{}
	for _, c := range report.Checks {
		states[c.Name] = c.State
		if c.State != doctor.OK && c.Try == "" {
			t.Errorf("%s says nothing about what to do", c)
		}
	}
	if len(states) != len(d.List()) || states["metadata service"] != doctor.Fail || states["pointer"] != doctor.Fail || states["ec2:AttachVolume"] != doctor.Warn {
		t.Errorf("states = %v", states)
	}
}

// The keys on the volume are not looked at.
func TestDoctorTellsWhetherThePointerIsSigned(t *testing.T) {
	secret, err := pointer.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	const store = "0123456789abcdef"
	p := pointer.Pointer{
		Generation: 7, Release: "20261122T231500Z-" + strings.Repeat("a", 12), Digest: strings.Repeat("a", 64), Created: time.Now(), Store: store,
		Snapshots: map[string]string{"eu-west-1": "snap-0123456789abcdef0"},
	}
	signed, err := p.Sign(secret)
	if err != nil {
		t.Fatal(err)
	}
	other, err := pointer.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	p.Keys = []string{other.Public().String(), secret.Public().String()}
	rotating, err := p.Sign(other, secret)
	if err != nil {
		t.Fatal(err)
	}
	p.Keys = nil
	trusted, foreign := store+":"+secret.Public().String(), "fedcba9876543210:"+secret.Public().String()
	for _, tc := range []struct {
		name, document, trusted string
		least                   int64
		pointer, signature      doctor.State
	}{
		{"signed", string(signed), "", 0, doctor.OK, doctor.OK},
		{"unsigned", string(p.Render()), "", 0, doctor.OK, doctor.OK},
		{"signed by a trusted key", string(signed), trusted, 7, doctor.OK, doctor.OK},
		{"trusted for another store", string(signed), foreign, 0, doctor.OK, doctor.Fail},
		{"signed by a trusted key, and another one comes", string(rotating), trusted, 0, doctor.OK, doctor.Warn},
		{"unsigned, and keys are set", string(p.Render()), trusted, 0, doctor.OK, doctor.Fail},
		{"a generation below the least", string(signed), "", 8, doctor.Fail, doctor.OK},
	} {
		web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, tc.document) }))
		c := patient(t, nil)
		c.settings.Pointer, c.settings.Least = web.URL, tc.least
		if tc.trusted != "" {
			c.settings.Trusted = []string{tc.trusted}
		}
		read, sign := c.readPointer(t.Context()), c.signature(t.Context())
		web.Close()
		if read.State != tc.pointer || sign.State != tc.signature {
			t.Errorf("%s: %s; %s", tc.name, read, sign)
		}
	}
	if f := patient(t, nil).signature(t.Context()); f.State != doctor.Warn {
		t.Errorf("no pointer was read: %s", f)
	}
}

// While a rollout is open, doctor says what this instance is given.
func TestDoctorTellsTheSideOfARollout(t *testing.T) {
	secret, err := pointer.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	of := func(letter string) string { return "20261122T231500Z-" + strings.Repeat(letter, 12) }
	p := pointer.Pointer{
		Generation: 7, Release: of("a"), Digest: strings.Repeat("a", 64), Created: time.Now(),
		Snapshots: map[string]string{"eu-west-1": "snap-0123456789abcdef0"},
		Rollout: &pointer.Rollout{
			Held:  pointer.Held{Generation: 8, Release: of("b"), Digest: strings.Repeat("b", 64)},
			Share: map[string]string{"eu-west-1a": "ffffffffffffffff"}, Steps: []pointer.Step{{Percent: 100}},
		},
	}
	document, err := p.Sign(secret)
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(document) }))
	defer web.Close()
	for zone, want := range map[string]string{
		"eu-west-1a": "generation 8, release " + of("b") + ", with the rollout of generation 8",
		"eu-west-1b": "generation 7, release " + of("a") + ", without the rollout of generation 8",
		"":           "generation 7, release " + of("a") + "; a rollout of generation 8, and nobody knows whether this instance has it",
	} {
		c := patient(t, nil)
		c.settings.Pointer = web.URL
		if zone != "" {
			c.me = &instance.Identity{InstanceID: "i-1", AvailabilityZone: zone}
		}
		if f := c.readPointer(t.Context()); f.State != doctor.OK || !strings.Contains(f.String(), want) {
			t.Errorf("in %q: %s, want %s", zone, f, want)
		}
	}
}
