package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"testing"

	"ebs-release/internal/boot"

	"github.com/coreos/go-systemd/v22/journal"
)

func TestPeopleReadShortText(t *testing.T) {
	var out bytes.Buffer
	where := &whereabouts{}
	where.set("attach", boot.Facts{VolumeID: "vol-1"})
	log := slog.New(talk{level: slog.LevelInfo, where: where, write: toPeople(&out)})
	log.Info("attach finished in 340ms", "stage", "attach")
	log.With("volume", "vol-1").Warn("no ssh host key", "error", errors.New("open\nx"))
	log.Debug("not told")
	want := regexp.MustCompile(`^\d\d:\d\d:\d\d\.\d{3} attach finished in 340ms\n\d\d:\d\d:\d\d\.\d{3} warn: no ssh host key \(volume vol-1, error open x\)\n$`)
	if !want.MatchString(out.String()) {
		t.Errorf("it says %q", out.String())
	}
}

func TestJournalEntriesCarryWhereTheBootIs(t *testing.T) {
	type entry struct {
		level  slog.Level
		text   string
		fields map[string]string
	}
	var got []entry
	where := &whereabouts{}
	log := slog.New(talk{where: where, write: func(level slog.Level, text string, fields map[string]string) error {
		got = append(got, entry{level, text, fields})
		return nil
	}})
	log.Info("before the first stage")
	where.set("attach", boot.Facts{Generation: 7, SnapshotID: "snap-7", VolumeID: "vol-1"})
	log.Info("attach started", "stage", "attach")
	log.Warn("deleted", "volume", "vol-2")
	log.Warn("foreign", "volume", "vol-\x1b[31m3")
	want := []map[string]string{
		{},
		{fieldStage: "attach", fieldGeneration: "7", fieldSnapshot: "snap-7", fieldVolume: "vol-1"},
		{fieldStage: "attach", fieldGeneration: "7", fieldSnapshot: "snap-7", fieldVolume: "vol-2"},
		{fieldStage: "attach", fieldGeneration: "7", fieldSnapshot: "snap-7", fieldVolume: "vol- [31m3"},
	}
	for i, w := range want {
		if fmt.Sprint(got[i].fields) != fmt.Sprint(w) {
			t.Errorf("%s has %v, want %v", got[i].text, got[i].fields, w)
		}
	}
	if got[2].level != slog.LevelWarn || got[2].text != "deleted (volume vol-2)" {
		t.Errorf("%+v", got[2])
	}
}

// TestJournalIsRecognised: JOURNAL_STREAM alone is no proof, a child that writes to a pipe inherits
// it, too.
func TestJournalIsRecognised(t *testing.T) {
	a := newAgent(t, map[string]string{"JOURNAL_STREAM": "1:2"})
	t.Setenv("JOURNAL_STREAM", "1:2")
	if a.inJournal() {
		t.Error("stderr is no journal stream")
	}
	a.lastLine(errors.New("attach: no\nroom"))
	if got := a.err.String(); got != "ebs-release-agent: attach: no; room\n" {
		t.Errorf("the last line is %q", got)
	}
}

// TestJournalThatFailsFallsBackToStderr: with the level that systemd reads.
func TestJournalThatFailsFallsBackToStderr(t *testing.T) {
	var out bytes.Buffer
	fails := func(string, journal.Priority, map[string]string) error { return errors.New("no socket") }
	slog.New(talk{where: &whereabouts{}, write: toJournal(&out, fails)}).Warn("look", "volume", "vol-1")
	if got := out.String(); got != "<4>look (volume vol-1)\n" {
		t.Errorf("stderr has %q", got)
	}
}
