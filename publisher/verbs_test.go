package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/cli"
	"ebs-release/internal/exit"
	"ebs-release/internal/fleet"
	"ebs-release/internal/freeze"
	"ebs-release/internal/gc"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/test/scratch"
)

// storeWith is a pointer store with two generations, the second of a publisher that was killed.
func storeWith(t *testing.T) (env map[string]string, store *pointer.Store) {
	t.Helper()
	dir := t.TempDir()
	store, err := pointer.Open(t.Context(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	var before pointer.Pointer
	for g := int64(1); g <= 2; g++ {
		p := pointer.Pointer{
			Generation: g, Release: releaseOf(int(g)), Digest: strings.Repeat("a", 64), Snapshots: map[string]string{"eu-central-1": "snap-0123456789abcdef0"},
			Created: dayOf(int(g)), By: "alice@server", Message: "fix \x1b[31m\nit",
		}
		if err := store.CompareAndSwap(t.Context(), before, p); err != nil {
			t.Fatal(err)
		}
		if before, err = store.Read(t.Context()); err != nil {
			t.Fatal(err)
		}
		if g == 1 {
			e := pointer.Entry{Time: dayOf(1), Verb: verbPublish, Who: p.By, Message: p.Message, Result: "converged", Committed: true, Generation: 1, Release: p.Release, OnIt: 3, Total: 3}
			if err := store.Record(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
	}
	return map[string]string{"EBS_RELEASE_POINTER_STORE": dir}, store
}

func TestHistoryTellsWhoWhenWhatAndHowItEnded(t *testing.T) {
	env, store := storeWith(t)
	code, stdout, stderr := call(t, env, "history")
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	if code != 0 || len(lines) != 3 || stderr != "" {
		t.Fatalf("code %d, %q, %q", code, stdout, stderr)
	}
	for i, words := range [][]string{{"GENERATION"}, {"2 ", "committed, no report"}, {"1 ", "2026-01-01T00:00:00Z", "alice@server", "publish", releaseOf(1), "converged 3/3", `"fix \x1b[31m\nit"`}} {
		for _, w := range words {
			if !strings.Contains(lines[i], w) {
				t.Errorf("line %q, want %q", lines[i], w)
			}
		}
	}
	code, stdout, _ = call(t, env, "history", "--output", "json", "--limit", "1")
	var report struct {
		Schema  int
		Entries []pointer.Entry
	}
	if err := json.Unmarshal([]byte(stdout), &report); code != 0 || err != nil || report.Schema != 1 || len(report.Entries) != 1 || report.Entries[0].Generation != 2 {
		t.Errorf("code %d, %v, %s", code, err, stdout)
	}
	if err := store.Record(t.Context(), pointer.Entry{Time: dayOf(3), Verb: verbGC, Who: "cron@server", Message: "removed 1 tree", Result: resultDone, Generation: 2}); err != nil {
		t.Fatal(err)
	}
	_, stdout, _ = call(t, env, "history", "--limit", "1")
	if got := strings.Fields(strings.Split(stdout, "\n")[1]); !slices.Equal(got, []string{"-", "2026-01-03T00:00:00Z", "cron@server", "gc", "-", "done", "removed", "1", "tree", "-"}) {
		t.Errorf("%q", got)
	}
	if code, stdout, _ := call(t, nil, "history"); code != 0 || stdout != "nothing has been published yet\n" {
		t.Errorf("code %d, %q", code, stdout)
	}
}

func TestLockStatusAndRelease(t *testing.T) {
	env, store := storeWith(t)
	if code, stdout, _ := call(t, env, "lock", "status"); code != 0 || stdout != "the lock is free\n" {
		t.Errorf("code %d, %q", code, stdout)
	}
	if code, stdout, _ := call(t, env, "lock", "release"); code != 0 || !strings.Contains(stdout, "nobody held it") {
		t.Errorf("code %d, %q", code, stdout)
	}
	unlock, err := store.Lock(t.Context(), "bob@server")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unlock() }()
	if code, stdout, _ := call(t, env, "lock", "status"); code != 0 || !strings.Contains(stdout, "held by bob@server") {
		t.Errorf("code %d, %q", code, stdout)
	}
	code, stdout, _ := call(t, env, "lock", "status", "--output", "json")
	var report lockReport
	if err := json.Unmarshal([]byte(stdout), &report); code != 0 || err != nil || !report.Held || report.Holder.PID != os.Getpid() {
		t.Errorf("code %d, %v, %s", code, err, stdout)
	}
}

func TestThawSaysWhetherItWasFrozen(t *testing.T) {
	point := filepath.Join(t.TempDir(), "release")
	if err := os.Mkdir(point, 0o755); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := call(t, nil, "thaw", "--mount-point", point); code != exit.Unchanged || !strings.Contains(stderr, "nothing is mounted") {
		t.Errorf("code %d, %q", code, stderr)
	}
	scratch.Mount(t, scratch.Disk(t, 16<<20, "mkfs.ext4", "-q"), point, "ext4", 0, "")
	if code, stdout, stderr := call(t, nil, "thaw", "--mount-point", point); code != 0 || stdout != point+" was not frozen\n" {
		t.Errorf("code %d, %q, %q", code, stdout, stderr)
	}
	if err := freeze.Freeze(point); err != nil {
		t.Fatal(err)
	}
	if code, stdout, stderr := call(t, nil, "thaw", "--mount-point", point, "--output", "json"); code != 0 || !strings.Contains(stdout, `"was_frozen": true`) {
		t.Errorf("code %d, %q, %q", code, stdout, stderr)
	}
	if err := os.WriteFile(filepath.Join(point, "x"), nil, 0o600); err != nil {
		t.Error(err)
	}
}

func TestDryRunComparesWithTheCurrentRelease(t *testing.T) {
	point := t.TempDir()
	tree, err := release.Open(point)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	if err := tree.Init(0, 0); err != nil {
		t.Fatal(err)
	}
	source := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(source, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("same", "same")
	write("changes", "one")
	write("goes", "x")
	in, err := tree.Ingest(t.Context(), source, time.Now(), gc.Wanted{})
	if err != nil {
		t.Fatal(err)
	}
	write("changes", "two")
	write("comes\n", "12345")
	if err := os.Remove(filepath.Join(source, "goes")); err != nil {
		t.Fatal(err)
	}
	parts := &parts{volume: &releaseVolume{point: point}}
	defer parts.volume.close()
	files, digest, err := parts.difference(t.Context(), job{source: source}, in.ID)
	if err != nil || len(digest) != 64 || files.Bytes != 8 ||
		strings.Join(files.Added, " ")+strings.Join(files.Changed, " ")+strings.Join(files.Removed, " ") != "comes\nchangesgoes" {
		t.Fatalf("%+v, %v", files, err)
	}
	var out bytes.Buffer
	p := &program{stdout: &out}
	if err := p.printPreview(previewReport{Generation: 4, Next: 5, Files: files, Digest: digest}, "", in.Digest, false); err != nil {
		t.Fatal(err)
	}
	if want := "+ \"comes\\n\"\n~ changes\n- goes\ndry run: generation 5 would follow 4: 1 added, 1 changed, 1 removed, 8 B to send; 0 members, 0 of them ready; all checks passed, rights by DryRun among them; nothing was changed\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
	out.Reset()
	if err := p.printPreview(previewReport{Generation: 4, Next: 5}, "/srv/source", "", false); err != nil || !strings.Contains(out.String(), "before the release volume has caught up") {
		t.Errorf("a volume that is behind: %q, %v", out.String(), err)
	}
}

func TestVerifyNamesMembers(t *testing.T) {
	listed := []fleet.Member{{InstanceID: "i-1", Address: "10.0.0.1", State: "ready"}, {InstanceID: "i-2", Address: "10.0.0.2", State: "booting"}}
	for _, tc := range []struct {
		names []string
		want  string
	}{{nil, "i-1"}, {[]string{"i-2"}, "i-2"}, {[]string{"10.0.0.1", "i-2"}, "i-1 i-2"}, {[]string{"i-1", "i-9"}, "i-9 is no member"}} {
		chosen, err := named(listed, tc.names)
		var ids []string
		for _, m := range chosen {
			ids = append(ids, m.InstanceID)
		}
		got := strings.Join(ids, " ")
		if err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, tc.want) {
			t.Errorf("%v: %q, want %q", tc.names, got, tc.want)
		}
	}
}

func TestWatchDrawsOverWhatItDrewBefore(t *testing.T) {
	var out bytes.Buffer
	s := screen{out: &out, size: func() (int, int, error) { return 12, 4, nil }}
	if err := s.show("generation 7 is current\nb\nc\nd\ne\n", dayOf(1)); err != nil {
		t.Fatal(err)
	}
	if want := "\x1b[H2026-01-01T0\x1b[K\r\ngeneration 7\x1b[K\r\nb\x1b[K\r\n… and 3 more\x1b[K\x1b[J"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
	out.Reset()
	s = screen{out: &out} // a file
	for _, text := range []string{"a\n", "a\n", "b\n"} {
		if err := s.show(text, dayOf(1)); err != nil {
			t.Fatal(err)
		}
	}
	if want := "2026-01-01T00:00:00Z\na\n\n2026-01-01T00:00:00Z\nb\n\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	_, store := storeWith(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := &program{stdout: io.Discard}
	if err := p.watch(ctx, statusSource{store: store}, time.Hour); err != nil {
		t.Error(err)
	}
}

func TestWatchDrawsOnATerminal(t *testing.T) {
	_, store := storeWith(t)
	master, terminal := pseudoTerminal(t)
	defer func() { _ = terminal.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	first := make(chan string, 1)
	go func() { // ends with the first thing that is drawn, or the terminal
		some := make([]byte, len(home))
		_, _ = io.ReadFull(master, some)
		first <- string(some)
		cancel()
		_, _ = io.Copy(io.Discard, master)
	}()
	p := &program{stdout: &cli.Stdout{Writer: terminal, Lets: true}} // what run makes of its stdout
	if err := p.watch(ctx, statusSource{store: store}, time.Hour); err != nil {
		t.Error(err)
	}
	if got := <-first; got != home {
		t.Errorf("it drew %q, want the cursor home first", got)
	}
}
