package logging

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"testing"

	"github.com/coreos/go-systemd/v22/journal"
)

func TestPeopleReadShortText(t *testing.T) {
	var out bytes.Buffer
	where := &Where{}
	where.Set(map[string]string{FieldStage: "attach", FieldVolume: "vol-1"})
	log := slog.New(Handler{Level: slog.LevelInfo, Where: where, Write: ToPeople(&out)})
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
	where := &Where{}
	log := slog.New(Handler{Where: where, Write: func(level slog.Level, text string, fields map[string]string) error {
		got = append(got, entry{level, text, fields})
		return nil
	}})
	log.Info("before the first stage")
	where.Set(map[string]string{FieldStage: "attach", FieldGeneration: "7", FieldSnapshot: "snap-7", FieldVolume: "vol-1"})
	log.Info("attach started", "stage", "attach")
	log.Warn("deleted", "volume", "vol-2")
	log.Warn("foreign", "volume", "vol-\x1b[31m3")
	want := []map[string]string{
		{},
		{FieldStage: "attach", FieldGeneration: "7", FieldSnapshot: "snap-7", FieldVolume: "vol-1"},
		{FieldStage: "attach", FieldGeneration: "7", FieldSnapshot: "snap-7", FieldVolume: "vol-2"},
		{FieldStage: "attach", FieldGeneration: "7", FieldSnapshot: "snap-7", FieldVolume: "vol- [31m3"},
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

// TestJournalThatFailsFallsBackToStderr: with the level that systemd reads.
func TestJournalThatFailsFallsBackToStderr(t *testing.T) {
	var out bytes.Buffer
	fails := func(string, journal.Priority, map[string]string) error { return errors.New("no socket") }
	slog.New(Handler{Where: &Where{}, Write: ToJournal(&out, fails)}).Warn("look", "volume", "vol-1")
	if got := out.String(); got != "<4>look (volume vol-1)\n" {
		t.Errorf("stderr has %q", got)
	}
}
