package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
	"ebs-release/internal/publish/checks"
)

// publishD is a directory publish.d with one program for each time, which keeps what it is told.
func publishD(t *testing.T, script string) hooks {
	t.Helper()
	dir := t.TempDir()
	for _, when := range []string{hookBefore, hookVerify, hookAfter} {
		if err := os.Mkdir(filepath.Join(dir, when), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, when, "10-keep"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return hooks{dir, 10 * time.Second, "/release"}
}

// A program finds the release by its environment, and has the same as JSON.
func TestProgramsOfAPublishAreTold(t *testing.T) {
	out := t.TempDir()
	h := publishD(t, fmt.Sprintf(`cat > %s/$EBS_RELEASE_HOOK.json
echo "$EBS_RELEASE_GENERATION $EBS_RELEASE_ID $EBS_RELEASE_DIGEST $EBS_RELEASE_STAGED $EBS_RELEASE_PATH" > %[1]s/$EBS_RELEASE_HOOK.env`, out))
	next := pointer.Pointer{Generation: 7, Release: "20261122T231500Z-9f31c0de77aa", Digest: "9f31c0de77aa", By: "ann@build", Message: "why"}
	if err := h.Verify(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	if err := h.Before(t.Context(), "/srv/source", next); err != nil {
		t.Fatal(err)
	}
	if err := h.After(t.Context(), publish.Outcome{Schema: 1, Generation: 7, Result: "converged"}); err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(out, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	const staged = "/release/releases/20261122T231500Z-9f31c0de77aa"
	if got := read("verify.env"); got != "7 20261122T231500Z-9f31c0de77aa 9f31c0de77aa "+staged+" /release/current\n" {
		t.Errorf("verify has %q", got)
	}
	var got upcoming
	if err := json.Unmarshal([]byte(read("verify.json")), &got); err != nil {
		t.Fatal(err)
	}
	if want := (upcoming{1, hookVerify, 7, "", next.Release, next.Digest, staged, next.By, next.Message}); got != want {
		t.Errorf("verify read %+v", got)
	}
	if got := read("before.json"); got != `{"schema":1,"hook":"before","generation":7,"source":"/srv/source","by":"ann@build","message":"why"}`+"\n" {
		t.Errorf("before read %s", got)
	}
	var o publish.Outcome
	if err := json.Unmarshal([]byte(read("after.json")), &o); err != nil || o.Result != "converged" || o.Generation != 7 {
		t.Errorf("after read %+v, %v", o, err)
	}
}

func TestDoctorLooksAtPrograms(t *testing.T) {
	h := publishD(t, "exit 1")
	look := checks.LookAtPrograms(filepath.Join(h.directory, hookBefore), filepath.Join(h.directory, hookVerify), filepath.Join(h.directory, hookAfter))
	if says, err := look(t.Context()); says != "before: 10-keep; verify: 10-keep; after: 10-keep" || err != nil {
		t.Errorf("%q, %v", says, err)
	}
	if err := os.Chmod(h.directory+"/verify/10-keep", 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := look(t.Context()); err == nil || !strings.Contains(err.Error(), "verify/10-keep: not executable, and so not run. Try: chmod 755") {
		t.Error(err)
	}
	if err := os.Chmod(h.directory+"/after", 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := look(t.Context()); err == nil || !strings.Contains(err.Error(), "writable by everybody") {
		t.Error(err)
	}
}
