package main

import (
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/doctor"
	"ebs-release/internal/exit"
	"ebs-release/internal/gc"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/status"
)

const treeOwner = 61234 // has no name

// pending is a member whose current release has programs that did not run yet. They note who runs
// them, and fail while a file is there.
func pending(t *testing.T) (a *agent, v *release.Volume, hooks, ran, fail string) {
	t.Helper()
	a, point := member(t)
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	hooks, ran, fail = dir+"/activate.d", dir+"/ran", dir+"/fail"
	must(t, os.MkdirAll(dir+"/source", 0o755))
	must(t, os.WriteFile(dir+"/source/file", []byte("one"), 0o644))
	v = open(t, point)
	made, err := v.Ingest(t.Context(), dir+"/source", time.Now(), gc.Wanted{})
	must(t, err)
	must(t, v.Activate(t.Context(), made.ID, made.Digest, 5))
	must(t, v.Init(treeOwner, treeOwner))
	must(t, os.Mkdir(hooks, 0o755))
	must(t, os.WriteFile(ran, nil, 0o644))
	must(t, os.Chmod(ran, 0o666))
	script := fmt.Sprintf("#!/bin/sh\necho $(id -u) $(id -G) $EBS_RELEASE_GENERATION >> %s\nif test -e %s; then echo no such socket; exit 7; fi\n", ran, fail)
	must(t, os.WriteFile(hooks+"/50-reload", []byte(script), 0o755))
	for at := dir; at != "/"; at = filepath.Dir(at) { // the owner of the tree has to get there
		must(t, os.Chmod(at, 0o755|fileMode(t, at)))
	}
	return a, v, hooks, ran, fail
}

func fileMode(t *testing.T, path string) os.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	return info.Mode()
}

// The programs run as the owner of the tree, with none of root's groups, until they have succeeded.
func TestActivateRunsAsTheOwnerOfTheTree(t *testing.T) {
	a, v, hooks, ran, fail := pending(t)
	must(t, os.WriteFile(fail, nil, 0o644))
	code, _, stderr := a.do(t, "activate", "--programs", filepath.Dir(hooks))
	if code != exit.Failed || !strings.Contains(stderr, "50-reload ended with exit code 7: no such socket") {
		t.Errorf("exit %d, %s", code, stderr)
	}
	if ended, err := a.runDir.ReadPrograms(); err != nil || ended == nil || ended.Generation != 5 || !strings.Contains(ended.Error, "no such socket") {
		t.Errorf("%+v, %v", ended, err)
	}
	if done, err := v.ProgramsDone(); err != nil || done {
		t.Errorf("done %v, %v", done, err)
	}
	must(t, os.Remove(fail))
	for range 2 { // the second time there is nothing to do
		if code, stdout, stderr := a.do(t, "activate", "--programs", filepath.Dir(hooks)); code != exit.Done || stdout != "all programs have succeeded for generation 5\n" {
			t.Errorf("exit %d, %s%s", code, stdout, stderr)
		}
	}
	if ended, err := a.runDir.ReadPrograms(); err != nil || *ended != (status.Programs{Schema: 1, Generation: 5}) {
		t.Errorf("%+v, %v", ended, err)
	}
	if done, err := v.ProgramsDone(); err != nil || !done {
		t.Errorf("done %v, %v", done, err)
	}
	text, err := os.ReadFile(ran)
	must(t, err)
	if want := strings.Repeat(fmt.Sprintf("%d %[1]d 5\n", treeOwner), 2); string(text) != want {
		t.Errorf("it ran:\n%swant\n%s", text, want)
	}
	must(t, a.runDir.Write(status.Status{State: status.Booting}))
	if code, _, _ := a.do(t, "activate", "--programs", filepath.Dir(hooks)); code != exit.Unchanged {
		t.Errorf("while a boot is under way: exit %d", code)
	}
}

// What is for the agent alone does not reach the programs, nor do root's names.
func TestActivateGivesProgramsAPlainEnvironment(t *testing.T) {
	a, _, hooks, ran, _ := pending(t)
	must(t, os.WriteFile(hooks+"/50-reload", []byte("#!/bin/sh\n/usr/bin/env > "+ran+"\n"), 0o755))
	for _, name := range []string{"HTTP_PROXY", "AWS_SECRET_ACCESS_KEY", "EBS_RELEASE_POINTER", "HOME", "LANG"} {
		t.Setenv(name, "/of-the-agent")
	}
	if code, _, stderr := a.do(t, "activate", "--programs", filepath.Dir(hooks)); code != exit.Done {
		t.Fatalf("exit %d, %s", code, stderr)
	}
	text, err := os.ReadFile(ran)
	must(t, err)
	got := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		name, _, _ := strings.Cut(line, "=")
		got[name] = true
	}
	for _, shell := range []string{"PWD", "OLDPWD", "SHLVL", "_"} {
		delete(got, shell)
	}
	want := map[string]bool{"PATH": true, "LANG": true, "EBS_RELEASE_GENERATION": true, "EBS_RELEASE_ID": true, "EBS_RELEASE_PATH": true, "EBS_RELEASE_PREVIOUS": true}
	if !maps.Equal(got, want) {
		t.Errorf("a program has:\n%s", text)
	}
}

// follow says what activate said, though systemd runs that.
func TestFollowHasSystemdRunThePrograms(t *testing.T) {
	a, _, _, _, _ := pending(t)
	bin := t.TempDir()
	systemctl := func(script string) {
		t.Helper()
		must(t, os.WriteFile(bin+"/systemctl", []byte("#!/bin/sh\n"+script), 0o755))
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	f := &follower{program: &a.program, log: slog.New(slog.DiscardHandler)}
	systemctl(`test "$*" = "start ebs-release-activate.service"`)
	if err := f.RunPrograms(t.Context()); err != nil {
		t.Error(err)
	}
	systemctl("echo Job failed. >&2; exit 1")
	if err := f.RunPrograms(t.Context()); err == nil || !strings.Contains(err.Error(), "Job failed") || !strings.Contains(err.Error(), "journalctl -u ebs-release-activate") {
		t.Error(err)
	}
	must(t, a.runDir.WritePrograms(status.Programs{Generation: 5, Error: "50-reload ended with exit code 7"}))
	if err := f.RunPrograms(t.Context()); err == nil || !strings.Contains(err.Error(), "Job failed") || strings.Contains(err.Error(), "50-reload") {
		t.Errorf("of a unit that did not start: %v", err)
	}
	systemctl(`echo '{"generation": 5, "error": "50-reload ended with exit code 7"}' > ` + string(a.runDir) + "/activate.json; exit 1")
	if err := f.RunPrograms(t.Context()); err == nil || err.Error() != "50-reload ended with exit code 7" {
		t.Error(err)
	}
}

func TestStatusShowsWhatFollowSaw(t *testing.T) {
	a, _, _, _, _ := pending(t)
	if _, stdout, _ := a.do(t, "status"); strings.Contains(stdout, "looked") {
		t.Errorf("of a member that does not follow:\n%s", stdout)
	}
	saw := status.Follow{
		Looked: time.Now().Add(-2 * time.Minute), Generation: 6, Release: "20261122T231500Z-9f31c0de77aa",
		Trouble: "read pointer: connection refused", Since: time.Date(2026, 11, 22, 23, 15, 0, 0, time.UTC),
	}
	must(t, a.runDir.WriteFollow(saw))
	code, stdout, _ := a.do(t, "status")
	for _, want := range []string{"s ago: generation 6, release 20261122T231500Z-9f31c0de77aa", "connection refused (since 2026-11-22T23:15:00Z)"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("status has no %q:\n%s", want, stdout)
		}
	}
	if _, stdout, _ = a.do(t, "status", "--output", "json"); !strings.Contains(stdout, `"trouble": "read pointer: connection refused"`) || code != exit.Done {
		t.Errorf("exit %d, %s", code, stdout)
	}
	if !strings.Contains(stdout, `"pending": true`) {
		t.Errorf("no program has run, and it says:\n%s", stdout)
	}
	must(t, os.WriteFile(filepath.Join(string(a.runDir), "follow.json"), []byte("{"), 0o644))
	if code, stdout, _ := a.do(t, "status"); code != exit.Done || !strings.Contains(stdout, "follow.json") {
		t.Errorf("of a broken file: exit %d, %s", code, stdout)
	}
}

// What the boot has just reported is not reported again. Whatever was reported later counts more.
func TestFollowBeginsWithWhatWasReported(t *testing.T) {
	a := newAgent(t, nil)
	last := func() status.Reported {
		t.Helper()
		s, err := a.lastSeen()
		must(t, err)
		return s.Reported
	}
	if got := last(); got != (status.Reported{}) {
		t.Errorf("before a boot: %+v", got)
	}
	ready := status.Status{State: status.Ready, Generation: 4, Release: "r4", VolumeID: "vol-1", Finished: time.Now()}
	must(t, a.runDir.Write(ready))
	if got, want := last(), (status.Reported{VolumeID: "vol-1", Generation: 4, Release: "r4", Ready: true}); got != want {
		t.Errorf("after a boot: %+v", got)
	}
	ready.Pending = true
	must(t, a.runDir.Write(ready))
	if got := last(); got.Ready {
		t.Errorf("after an up that reported hook-failed: %+v", got)
	}
	ready.Finished = time.Now().Add(-time.Hour)
	must(t, a.runDir.Write(ready))
	if got := last(); got != (status.Reported{}) {
		t.Errorf("an hour later: %+v", got)
	}
	told := status.Reported{VolumeID: "vol-1", Generation: 7}
	must(t, a.runDir.WriteFollow(status.Follow{Reported: told}))
	if got := last(); got != told {
		t.Errorf("after a look: %+v", got)
	}
}

func TestFollowInterval(t *testing.T) {
	for _, tc := range []struct {
		env  map[string]string
		want time.Duration
	}{
		{map[string]string{"EBS_RELEASE_POINTER": "http://x/release.json"}, 10 * time.Second},
		{map[string]string{"EBS_RELEASE_POINTER": "s3://bucket/prod"}, 30 * time.Second},
		{map[string]string{"EBS_RELEASE_POINTER": "s3://bucket/prod", "EBS_RELEASE_FOLLOW_INTERVAL": "5s"}, 5 * time.Second},
	} {
		a := newAgent(t, tc.env)
		a.command()
		values, err := a.settings()
		if got := followInterval(values); err != nil || got != tc.want {
			t.Errorf("%v: %v, %v", tc.env, got, err)
		}
	}
	for _, value := range []string{"0", "10", "999ms", "61m", "-5s", "soon"} {
		a := newAgent(t, map[string]string{"EBS_RELEASE_FOLLOW_INTERVAL": value})
		if code, _, stderr := a.do(t, "follow"); code != exit.Usage || !strings.Contains(stderr, "from 1s to 1h") {
			t.Errorf("%s: exit %d, %s", value, code, stderr)
		}
	}
	a := newAgent(t, nil)
	for _, args := range [][]string{{"follow"}, {"follow", "--keep", "0", "--pointer", "http://x/"}} {
		if code, _, _ := a.do(t, args...); code != exit.Usage {
			t.Errorf("%v: exit %d", args, code)
		}
	}
}

// The programs before a flip run in a unit whose name says for what, and none is started for
// nothing. What it does is what its agent does.
func TestFollowHasSystemdRunTheProgramsBefore(t *testing.T) {
	a, v, hooks, ran, _ := pending(t)
	folder := filepath.Dir(hooks)
	made, err := v.Current()
	must(t, err)
	must(t, os.WriteFile(folder+"/source/file", []byte("two"), 0o644))
	next, err := v.Ingest(t.Context(), folder+"/source", time.Now().Add(time.Hour), gc.Wanted{Keep: 3})
	must(t, err)
	bin := t.TempDir()
	must(t, os.WriteFile(bin+"/systemctl", []byte("#!/bin/sh\necho \"$@\" > "+bin+"/asked\n"), 0o755))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	f := &follower{program: &a.program, log: slog.New(slog.DiscardHandler), programs: folder}
	to := pointer.Pointer{Generation: 6, Release: next.ID, Digest: next.Digest}
	if drained, err := f.Drain(t.Context(), to); drained || err != nil {
		t.Errorf("without a program: %v, %v", drained, err)
	}
	for _, name := range []string{"stage.d", "drain.d"} {
		must(t, os.Mkdir(folder+"/"+name, 0o755))
		script := fmt.Sprintf("#!/bin/sh\necho %s $(id -u) $(cat $EBS_RELEASE_STAGED/file) $EBS_RELEASE_PREVIOUS >> %s\necho no; exit 7\n", name, ran)
		must(t, os.WriteFile(folder+"/"+name+"/10-a", []byte(script), 0o755))
	}
	drained, err := f.Drain(t.Context(), to)
	asked, readErr := os.ReadFile(bin + "/asked")
	unit, ok := strings.CutPrefix(string(asked), "start ebs-release-before@")
	if !drained || err != nil || readErr != nil || !ok || unit != "drain.d:6:"+next.ID+".service\n" {
		t.Errorf("%v, %v, it asked for %s", drained, err, asked)
	}
	for _, arg := range []string{"stage.d:6:" + next.ID, strings.TrimSuffix(strings.TrimSpace(unit), ".service")} {
		code, _, stderr := a.do(t, "before", arg, "--programs", folder)
		if ended, err := a.runDir.ReadPrograms(); code != exit.Failed || err != nil || !strings.Contains(ended.Error, "10-a ended with exit code 7: no") {
			t.Errorf("%s: exit %d, %s, %+v, %v", arg, code, stderr, ended, err)
		}
	}
	text, err := os.ReadFile(ran)
	must(t, err)
	if want := fmt.Sprintf("stage.d %d two %s\ndrain.d %[1]d two %[2]s\n", treeOwner, made); string(text) != want {
		t.Errorf("it ran:\n%swant\n%s", text, want)
	}
	if drained, err := v.Drained(); err != nil || !drained {
		t.Errorf("drained %v, %v", drained, err)
	}
	if code, _, stderr := a.do(t, "activate", "--programs", folder); code != exit.Done { // what is served comes back
		t.Errorf("exit %d, %s", code, stderr)
	}
	if drained, err := v.Drained(); err != nil || drained {
		t.Errorf("drained %v, %v", drained, err)
	}
	for _, arg := range []string{"", "stage.d", "activate.d:6:" + next.ID, "drain.d:0x6:" + next.ID, "drain.d:6:../../etc"} {
		if code, _, _ := a.do(t, "before", arg, "--programs", folder); code != exit.Usage {
			t.Errorf("%q: exit %d", arg, code)
		}
	}
}

func TestDoctorLooksAtPrograms(t *testing.T) {
	a, _, hooks, _, _ := pending(t)
	look := a.checkPrograms(filepath.Dir(hooks)).Do
	if f := look(t.Context()); f.State != doctor.OK || f.Says != "activate.d: 50-reload" {
		t.Errorf("%s", f)
	}
	must(t, os.Chmod(hooks+"/50-reload", 0o644))
	if f := look(t.Context()); f.State != doctor.Warn || !strings.Contains(f.String(), "50-reload: not executable, and so not run. Try: chmod 755") {
		t.Errorf("%s", f)
	}
	must(t, os.Chmod(hooks+"/50-reload", 0o755))
	must(t, os.Chown(hooks+"/50-reload", treeOwner, 0))
	if f := look(t.Context()); f.State != doctor.OK {
		t.Errorf("%s", f)
	}
	must(t, os.Chown(hooks+"/50-reload", treeOwner+1, 0))
	if f := look(t.Context()); f.State != doctor.Fail || !strings.Contains(f.String(), "not run. Try: let root or the owner") {
		t.Errorf("%s", f)
	}
}
