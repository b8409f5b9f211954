package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/exit"
	"ebs-release/internal/gc"
	"ebs-release/internal/push/wire"
)

func TestVerifyReadsEveryFile(t *testing.T) {
	a, point := member(t)
	source := t.TempDir()
	for _, name := range []string{"one", "two"} {
		if err := os.WriteFile(filepath.Join(source, name), []byte("content of "+name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tree := open(t, point)
	in, err := tree.Ingest(t.Context(), source, time.Now(), gc.Wanted{})
	if err != nil {
		t.Fatal(err)
	}
	if err := tree.Activate(t.Context(), in.ID, in.Digest, 9); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := a.do(t, "verify", "--release", in.ID, "--digest", in.Digest, "--output", "json")
	var answer wire.Verified
	if err := json.Unmarshal([]byte(stdout), &answer); code != exit.Done || err != nil || answer.State != "verified" || answer.Files != 2 || answer.Digest != in.Digest {
		t.Fatalf("exit %d, %q, %q, %v", code, stdout, stderr, err)
	}
	a.output = ""
	if code, stdout, stderr := a.do(t, "verify", "--output", "text"); code != exit.Done || !strings.Contains(stdout, "all 2 files") {
		t.Errorf("the current one: exit %d, %q, %q", code, stdout, stderr)
	}
	if code, _, stderr := a.do(t, "verify", "--digest", strings.Repeat("0", 64)); code != exit.Failed || !strings.Contains(stderr, "has digest") {
		t.Errorf("another manifest: exit %d, %q", code, stderr)
	}
	// The same size and, as far as anybody can tell, the same time.
	name := filepath.Join(tree.Path(in.ID), "two")
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte("content of tvo"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(name, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := a.do(t, "verify", "--release", in.ID, "--digest", in.Digest); code != exit.Failed || !strings.Contains(stderr, `two`) || !strings.Contains(stderr, "sha256") {
		t.Errorf("a damaged file: exit %d, %q", code, stderr)
	}
}

func TestVerifyOfWhatIsNotThere(t *testing.T) {
	a, _ := member(t)
	if code, _, stderr := a.do(t, "verify", "--release", "20261122T231500Z-9f31c0de77aa"); code != exit.Failed || !strings.Contains(stderr, "20261122T231500Z-9f31c0de77aa") {
		t.Errorf("exit %d, %q", code, stderr)
	}
	if code, _, _ := a.do(t, "verify", "--release", "../../etc"); code != exit.Usage {
		t.Errorf("exit %d", code)
	}
	if code, _, stderr := newAgent(t, nil).do(t, "verify"); code != exit.Unchanged || !strings.Contains(stderr, "not ready") {
		t.Errorf("before any boot: exit %d, %q", code, stderr)
	}
}
