package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/boot/up"
	"ebs-release/internal/catchup"
	"ebs-release/internal/exit"
	"ebs-release/internal/gc"
	"ebs-release/internal/mount"
	"ebs-release/internal/pointer"
	"ebs-release/internal/push/wire"
	"ebs-release/internal/release"
	"ebs-release/internal/status"
	"ebs-release/internal/store"
	"ebs-release/internal/test/scratch"
	"ebs-release/internal/test/script"

	"golang.org/x/sys/unix"
)

// agent is the program with streams and directories of a test.
type agent struct {
	program
	out, err bytes.Buffer
}

func newAgent(t *testing.T, env map[string]string) *agent {
	t.Helper()
	a := &agent{}
	a.program = program{
		stdin: strings.NewReader(""), stdout: &a.out, stderr: &a.err, getenv: func(k string) string { return env[k] },
		runDir: status.Dir(filepath.Join(t.TempDir(), "run")),
	}
	if err := a.runDir.Make(); err != nil {
		t.Fatal(err)
	}
	return a
}

// do runs a verb and returns its exit code, stdout and stderr.
func (a *agent) do(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	a.out.Reset()
	a.err.Reset()
	code = a.execute(t.Context(), append(args, "--config", ""))
	return code, a.out.String(), a.err.String()
}

func TestAgentHasNoCodeThatFormats(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "ebs-release/agent").Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	if len(deps) < 100 {
		t.Fatalf("go list gave %d packages", len(deps))
	}
	for _, dep := range deps {
		if strings.Contains(dep, "mkfs") || strings.HasPrefix(dep, "ebs-release/internal/lab") {
			t.Errorf("the agent links %s", dep)
		}
	}
}

func TestScripts(t *testing.T) { script.Run(t) }

func TestNotReadyIsAnExitCode(t *testing.T) {
	for _, tc := range []struct{ args, says string }{
		{"status", "not ready: not started"},
		{"wait --timeout 150ms", "after 150ms: not ready"},
	} {
		code, _, stderr := newAgent(t, nil).do(t, strings.Fields(tc.args)...)
		if code != exit.Unchanged || !strings.Contains(stderr, tc.says) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: exit %d, %q", tc.args, code, stderr)
		}
	}
}

// member is an agent whose boot is over: a real release volume is mounted and the status says
// ready.
func member(t *testing.T) (*agent, string) {
	t.Helper()
	a := newAgent(t, nil)
	point := filepath.Join(t.TempDir(), "release")
	if err := os.Mkdir(point, 0o555); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(point, unix.UMOUNT_NOFOLLOW) })
	if err := mount.Mount(scratch.Disk(t, 32<<20, "mkfs.ext4", "-q", "-F"), "ext4", point); err != nil {
		t.Fatal(err)
	}
	v := open(t, point)
	if err := errors.Join(v.Init(os.Getuid(), os.Getgid()), v.Close()); err != nil {
		t.Fatal(err)
	}
	ready := status.Status{State: status.Ready, Generation: 1, MountPoint: point, VolumeID: "vol-1"}
	if err := a.runDir.Write(ready); err != nil {
		t.Fatal(err)
	}
	return a, point
}

// open opens a volume until the end of the test.
func open(t *testing.T, root string) *release.Volume {
	t.Helper()
	v, err := release.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

// receive says to the agent what a publisher would, and returns its answers after the first.
func (a *agent) receive(t *testing.T, said string, flags ...string) (answers []map[string]any) {
	t.Helper()
	a.stdin = strings.NewReader(said)
	code, stdout, stderr := a.do(t, append([]string{"receive"}, flags...)...)
	if code != exit.Done {
		t.Fatalf("exit %d, %q", code, stderr)
	}
	for line := range strings.Lines(stdout) {
		var answer map[string]any
		if err := json.Unmarshal([]byte(line), &answer); err != nil || answer["schema"] != 3.0 {
			t.Fatalf("%q: %v", line, err)
		}
		answers = append(answers, answer)
	}
	if len(answers) == 0 || answers[0]["state"] != "listening" {
		t.Fatalf("the agent says %q first", stdout)
	}
	return answers[1:]
}

func TestReceiveStagesAndActivates(t *testing.T) {
	a, point := member(t)
	server := open(t, t.TempDir())
	objects, err := store.NewDirectory(t.TempDir())
	source := t.TempDir()
	if err = errors.Join(err, server.Init(0, 0), os.WriteFile(source+"/hello", []byte("world"), 0o644)); err != nil {
		t.Fatal(err)
	}
	made, err := server.Ingest(t.Context(), source, time.Now(), gc.Wanted{})
	if err != nil {
		t.Fatal(err)
	}
	id, digest := made.ID, made.Digest
	edge, err := catchup.Make(t.Context(), server, objects, "", id, false)
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(http.FileServer(http.Dir(objects.String())))
	t.Cleanup(web.Close)
	t.Setenv("HTTP_PROXY", "") // the first stage sets it
	reach := status.Reach{"EBS_RELEASE_POINTER=" + web.URL + "/release.json", "HTTP_PROXY=http://proxy.test:3128"}
	if err := a.runDir.KeepReach(reach, os.Getuid(), os.Getgid()); err != nil { // as the boot leaves it
		t.Fatal(err)
	}
	stage, err := json.Marshal(wire.Request{Do: wire.Stage, Generation: 5, Release: id, Digest: digest, Edges: []pointer.Edge{edge}})
	if err != nil {
		t.Fatal(err)
	}
	activate := func(generation int) string {
		return fmt.Sprintf("{\"do\":\"activate\",\"release\":%q,\"digest\":%q,\"generation\":%d}\n", id, digest, generation)
	}
	hooks := t.TempDir()
	script := "#!/bin/sh\necho $EBS_RELEASE_GENERATION $HTTP_PROXY > " + hooks + "/saw\n"
	if err := errors.Join(os.Mkdir(hooks+"/activate.d", 0o755), os.WriteFile(hooks+"/activate.d/50-reload", []byte(script), 0o755)); err != nil {
		t.Fatal(err)
	}
	answers := a.receive(t, string(stage)+"\n"+activate(5)+activate(4)+"{\"do\":\"dance\"}\n", "--programs", hooks)
	if got, err := os.ReadFile(hooks + "/saw"); err != nil || string(got) != "5\n" {
		t.Errorf("after a stage a program saw %q, %v: how the store is reached is not for it", got, err)
	}
	if len(answers) != 4 || answers[0]["state"] != "present" || answers[0]["packs"] != 1.0 ||
		answers[1]["state"] != "active" || answers[1]["generation"] != 5.0 || answers[1]["release"] != id {
		t.Fatalf("%v", answers)
	}
	if got := fmt.Sprint(answers[2]["error"]); answers[2]["code"] != float64(exit.Conflict) || !strings.Contains(got, "generation 5 was activated here") {
		t.Errorf("a lower generation: %v", answers[2])
	}
	if got := fmt.Sprint(answers[3]["error"]); answers[3]["code"] != float64(exit.Usage) || !strings.Contains(got, "older than the publisher") {
		t.Errorf("an unknown request: %v", answers[3])
	}
	if content, err := os.ReadFile(filepath.Join(point, "current", "hello")); err != nil || string(content) != "world" {
		t.Errorf("%q, %v", content, err)
	}
	code, stdout, _ := a.do(t, "status", "--output", "json")
	var now status.Status
	if err := json.Unmarshal([]byte(stdout), &now); code != 0 || err != nil || now.Generation != 5 || now.Release != id || now.State != status.Ready {
		t.Errorf("status: exit %d, %+v, %v: want what the volume says now", code, now, err)
	}
}

func TestNothingIsStagedWhileTheBootGoesOn(t *testing.T) {
	a, _ := member(t)
	lock, err := up.Lock(t.Context(), a.runDir)
	if err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := a.do(t, "status"); code != exit.Unchanged || !strings.Contains(stderr, "booting") {
		t.Errorf("status: exit %d, %q", code, stderr)
	}
	answers := a.receive(t, "{\"do\":\"stage\",\"release\":\"20261122T231500Z-9f31c0de77aa\"}\n{\"do\":\"activate\"}\n")
	for _, answer := range answers {
		if answer["code"] != float64(exit.Unchanged) || !strings.Contains(fmt.Sprint(answer["error"]), "booting") {
			t.Errorf("%v", answer)
		}
	}
	if len(answers) != 2 {
		t.Errorf("%v", answers)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
	defer cancel()
	if _, err := up.Lock(ctx, a.runDir); exit.Code(err) != exit.Conflict {
		t.Errorf("a second `up`: %v", err)
	}
	lock.Close()
	if code, _, stderr := a.do(t, "wait", "--timeout", "5s"); code != exit.Done {
		t.Errorf("wait: exit %d, %q", code, stderr)
	}
}

func TestStatusSeesThatTheMountIsGone(t *testing.T) {
	a, point := member(t)
	if code, _, stderr := a.do(t, "status"); code != exit.Done {
		t.Fatalf("exit %d, %q", code, stderr)
	}
	if err := mount.Unmount(point); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := a.do(t, "status")
	if code != exit.Unchanged || !strings.Contains(stderr, "nothing is mounted") || !strings.Contains(stdout, "failed") {
		t.Fatalf("exit %d, %q, %q", code, stdout, stderr)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
