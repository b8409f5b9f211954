package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
)

// rolling is a store with an open rollout, and a machine that has the store and the key, and no
// release volume.
func rolling(t *testing.T) *keyed {
	t.Helper()
	k := newKeyed(t)
	did := func(string, ...any) {}
	must(t, k.keys().Make(t.Context(), false, did))
	ring, err := k.keys().Open()
	must(t, err)
	k.store.SignWith(ring.Trusted, ring.Signing...)
	found, err := k.store.Look(t.Context())
	must(t, err)
	must(t, k.store.SignFound(t.Context(), found))
	current, err := k.store.Read(t.Context())
	must(t, err)
	next := current
	next.Rollout = &pointer.Rollout{
		Held: pointer.Held{Generation: 2, Release: k.in.ID, Digest: k.in.Digest}, Steps: []pointer.Step{{Members: 1}, {Percent: 100}},
		By: "bob@server", Began: dayOf(2), Until: time.Now().Add(5 * time.Minute).UTC(), Terms: pointer.Terms{Gate: "smoke \x1b[31m", Healthy: "programs"},
	}
	must(t, k.store.CompareAndSwap(t.Context(), current, next))
	k.env["EBS_RELEASE_MOUNT_POINT"] = filepath.Join(t.TempDir(), "nothing")
	return k
}

func TestRolloutVerbsNeedStoreAndKeyOnly(t *testing.T) {
	k := rolling(t)
	said, _ := k.ok("rollout", "status")
	if !strings.Contains(said, "a rollout of generation 2 is at step 1 of 2 (1), by bob@server") || !strings.Contains(said, "[1] all") ||
		strings.Contains(said, "\x1b") {
		t.Errorf("%q", said)
	}
	if said, _ = k.ok("rollout", "carry-on"); !strings.Contains(said, "at step 1 of 2") { // it is driven
		t.Errorf("%q", said)
	}
	k.ok("rollout", "pause", "lunch")
	said, _ = k.ok("rollout", "status", "--output", "json")
	var report rolloutReport
	must(t, json.Unmarshal([]byte(said), &report))
	if !report.Open || !strings.HasPrefix(report.Rollout.Paused, "lunch (") || report.Stable.Generation != 1 {
		t.Errorf("%s", said)
	}
	if said, _ = k.ok("rollout", "carry-on"); !strings.Contains(said, "and paused: lunch") {
		t.Errorf("%q", said)
	}
	if past, err := k.store.History(t.Context()); err != nil || past[len(past)-1].Verb != verbPause || past[len(past)-1].Message != "lunch" {
		t.Errorf("%+v, %v", past, err)
	}
}

func TestHoldIsSetAndReleased(t *testing.T) {
	k := rolling(t)
	k.refused(exit.Unchanged, []string{"hold", "--release"}, "no hold is on")
	k.refused(exit.Usage, []string{"hold"}, "hold wants the reason")
	k.refused(exit.Usage, []string{"hold", "why", "--until", "soon"}, "want a time")
	if said, _ := k.ok("hold", "incident 4711", "--until", "2h"); !strings.Contains(said, "publishes are on hold until ") ||
		!strings.Contains(said, ": incident 4711") {
		t.Errorf("%q", said)
	}
	p, err := k.store.Read(t.Context())
	if err != nil || p.Hold == nil || p.Hold.Why != "incident 4711" || time.Until(p.Hold.Until) < time.Hour || p.Rollout == nil {
		t.Errorf("%+v, %v", p.Hold, err)
	}
	k.ok("hold", "--release")
	if p, err = k.store.Read(t.Context()); err != nil || p.Hold != nil {
		t.Errorf("%+v, %v", p.Hold, err)
	}
	k.env["EBS_RELEASE_SIGNING_KEY"] = filepath.Join(t.TempDir(), "none")
	k.refused(exit.Unchanged, []string{"hold", "why"})
}

func TestUntil(t *testing.T) {
	now := time.Date(2026, 11, 27, 17, 0, 0, 0, time.UTC)
	for text, want := range map[string]string{
		"": "0001-01-01T00:00:00Z", "90m": "2026-11-27T18:30:00Z", "18:00": "2026-11-27T18:00:00Z", "09:00": "2026-11-28T09:00:00Z",
		"2026-12-24T18:00:00+01:00": "2026-12-24T17:00:00Z", "2026-11-27T16:00:00Z": "", "-1h": "", "evening": "",
	} {
		got, err := parseUntil(text, now)
		if (err == nil) != (want != "") || err == nil && got.Format(time.RFC3339) != want {
			t.Errorf("%q is %v, %v", text, got, err)
		}
	}
}

// Gate, watch and the programs in rollout.d get the same, and what they say is in the error.
func TestWhatARolloutAsks(t *testing.T) {
	dir := t.TempDir()
	a := asks{timeout: 5 * time.Second, directory: filepath.Join(dir, "rollout.d")}
	about := publish.RolloutEvent{
		Schema: 1, Event: publish.RolloutGate, Generation: 2, Release: "r2", Stable: pointer.Held{Generation: 1, Release: "r1"},
		Step: 1, Steps: 3, Share: "10%", Members: 6, Given: 2, Healthy: 1, Instances: []string{"i-1", "i-2"}, By: "eve", Message: "a b",
	}
	out := filepath.Join(dir, "out")
	line := `echo "$EBS_RELEASE_EVENT $EBS_RELEASE_GENERATION $EBS_RELEASE_STABLE_ID $EBS_RELEASE_SHARE $EBS_RELEASE_MEMBERS_HEALTHY" > ` + out + "; cat >> " + out
	if err := a.Ask(t.Context(), line, about); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(out)
	must(t, err)
	first, input, _ := strings.Cut(string(data), "\n")
	var got publish.RolloutEvent
	must(t, json.Unmarshal([]byte(input), &got))
	if first != "gate 2 r1 10% 1" || len(got.Instances) != 2 || got.Message != "a b" {
		t.Errorf("%q, %+v", first, got)
	}
	for line, want := range map[string]string{
		"echo no; echo too many errors >&2; exit 3": "gate ended with exit code 3: too many errors",
		"/nowhere/gate":                  "gate ended with exit code 127",
		"yes | head -c 10000000; exit 1": "gate ended with exit code 1",
	} {
		if err := a.Ask(t.Context(), line, about); err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 20_000 {
			t.Errorf("%s: %v", line, err)
		}
	}
	a.timeout = 200 * time.Millisecond
	if err := a.Ask(t.Context(), "sleep 60", about); err == nil || !strings.Contains(err.Error(), "longer than 200ms") {
		t.Errorf("%v", err)
	}
	if err := a.Tell(t.Context(), about); err != nil { // there are no programs
		t.Error(err)
	}
}
