package pointer

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// results are the entries in short: generation, verb, result.
func results(t *testing.T, store *Store) string {
	t.Helper()
	entries, err := store.History(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for _, e := range entries {
		words = append(words, fmt.Sprintf("%d %s %s", e.Generation, e.Verb, e.Result))
	}
	return strings.Join(words, ", ")
}

func writeHistory(t *testing.T, s *Store, lines []Entry) error {
	t.Helper()
	data, err := renderHistory(lines)
	if err != nil {
		return err
	}
	return s.at.Put(t.Context(), historyName, bytes.NewReader(data))
}

func record(t *testing.T, store *Store, e Entry) {
	t.Helper()
	if err := store.Record(t.Context(), e); err != nil {
		t.Fatal(err)
	}
}

func TestHistoryNotesWhichSnapshotsCount(t *testing.T) {
	store, _ := directory(t)
	swap(t, store, 0, sample(1))
	swap(t, store, 1, sample(2))
	if err := store.Asked(t.Context(), 1, "us-east-1", "snap-1"); err != nil {
		t.Fatal(err)
	}
	record(t, store, Entry{Verb: "publish", Generation: 1, Committed: true, Result: "converged"})
	entries, err := store.History(t.Context())
	if err != nil || len(entries) != 2 || entries[1].Asked["us-east-1"] != "snap-1" || entries[0].Asked != nil {
		t.Errorf("%+v, %v", entries, err)
	}
	if err := store.Asked(t.Context(), 3, "us-east-1", "snap-3"); err == nil || !strings.Contains(err.Error(), "no generation 3") {
		t.Errorf("of a generation that was never committed: %v", err)
	}
}

func TestHistoryHasEveryCommitOnceWithItsOutcome(t *testing.T) {
	store, _ := directory(t)
	if got := results(t, store); got != "" {
		t.Fatalf("an empty store has %s", got)
	}
	swap(t, store, 0, sample(1))
	record(t, store, Entry{Verb: "publish", Generation: 1, Committed: true, Result: "converged", Time: time.Now()})
	record(t, store, Entry{Verb: "publish", Generation: 1, Result: "unchanged", Error: strings.Repeat("x", 5000)})
	swap(t, store, 1, sample(2)) // and then its publisher was killed
	swap(t, store, 2, sample(3))
	record(t, store, Entry{Verb: "rollback", Generation: 3, Committed: true, Result: "not-converged"})
	record(t, store, Entry{Verb: "converge", Generation: 3, Committed: true, Result: "converged"})
	if got, want := results(t, store), "1 publish converged, 1 publish unchanged, 2  committed, 3 rollback not-converged, 3 converge converged"; got != want {
		t.Fatalf("%s, want %s", got, want)
	}
	entries, _ := store.History(t.Context())
	if e := entries[3]; e.Digest != sample(3).Digest || len(e.Snapshots) != 1 {
		t.Errorf("the outcome lost what the pointer said: %+v", e)
	}
	if n := len(entries[1].Error); n != mostError {
		t.Errorf("%d bytes of an error are kept", n)
	}
}

func TestLockPutsTheHistoryRight(t *testing.T) {
	store, dir := directory(t)
	swap(t, store, 0, sample(1))
	name := filepath.Join(dir, historyName)
	// Killed between the pointer and the history.
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if got := results(t, store); got != "1  committed" {
		t.Fatalf("before: %s", got)
	}
	unlock, err := store.Lock(t.Context(), "alice")
	if err != nil {
		t.Fatal(err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(name)
	if err != nil || strings.Count(string(data), "\n") != 1 {
		t.Fatalf("%q, %v", data, err)
	}
	if info, _ := os.Stat(name); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
}

func TestDamagedLinesOfTheHistoryStopNobody(t *testing.T) {
	store, dir := directory(t)
	swap(t, store, 0, sample(1))
	name := filepath.Join(dir, historyName)
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, append(append([]byte("garbage\n{\"schema\":9}\n"), data...), "{\"schema\":1,\"gener"...), 0o644); err != nil {
		t.Fatal(err)
	}
	swap(t, store, 1, sample(2))
	if got := results(t, store); got != "1  committed, 2  committed" {
		t.Fatal(got)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	store, dir := directory(t)
	lines := make([]Entry, mostEntries)
	for i := range lines {
		lines[i] = Entry{Schema: Schema, Generation: int64(i + 1), Verb: "publish", Committed: true, Result: "converged"}
	}
	if err := writeHistory(t, store, lines); err != nil {
		t.Fatal(err)
	}
	record(t, store, Entry{Verb: "publish", Generation: 2000, Committed: true, Result: "converged"})
	entries, err := store.History(t.Context())
	if err != nil || len(entries) != mostEntries || entries[0].Generation != 2 || entries[mostEntries-1].Generation != 2000 {
		t.Fatalf("%d entries, first %+v, %v", len(entries), entries[0], err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".history*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestNamesOfWhatGCRemovedAreBounded(t *testing.T) {
	store, _ := directory(t)
	removed := make([]string, mostRemoved+3)
	for i := range removed {
		removed[i] = fmt.Sprintf("volume vol-%d", i)
	}
	record(t, store, Entry{Verb: "gc", Result: "done", Removed: removed})
	entries, err := store.History(t.Context())
	if err != nil || len(entries) != 1 || len(entries[0].Removed) != mostRemoved+1 || entries[0].Removed[mostRemoved] != "and 3 more" {
		t.Fatalf("%+v, %v", entries, err)
	}
	if removed[mostRemoved] != "volume vol-200" {
		t.Error("the caller's list was changed")
	}
}

func TestFailuresDoNotDriveCommitsOutOfTheHistory(t *testing.T) {
	store, _ := directory(t)
	swap(t, store, 0, sample(1))
	lines, _, err := store.history(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range mostEntries {
		lines = append(lines, Entry{Schema: Schema, Verb: "publish", Result: "conflict"})
	}
	if err := writeHistory(t, store, lines); err != nil {
		t.Fatal(err)
	}
	entries, err := store.History(t.Context())
	if err != nil || len(entries) != mostEntries || !entries[0].Committed || entries[0].Generation != 1 || entries[1].Committed {
		t.Fatalf("%d entries, %+v, %v", len(entries), entries[0], err)
	}
}

// A thousand lines have to stay below what is read: without the history nobody publishes.
func TestTextsOfTheHistoryAreBounded(t *testing.T) {
	store, _ := directory(t)
	long := strings.Repeat("x", 1<<20)
	record(t, store, Entry{Verb: "rollout step", Result: "failed", Message: long, Error: long})
	entries, err := store.History(t.Context())
	if err != nil || len(entries) != 1 || len(entries[0].Message) != MaxMessage || len(entries[0].Error) != mostError {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
}
