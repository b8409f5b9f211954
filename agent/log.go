package main

import (
	"fmt"
	"log/slog"

	"ebs-release/internal/logging"
	"ebs-release/internal/words"

	"github.com/coreos/go-systemd/v22/journal"
)

// logger talks to a person or the journal.
func (p *program) logger() *slog.Logger {
	level := slog.LevelInfo
	if p.verbose {
		level = slog.LevelDebug
	}
	write := logging.ToPeople(p.stderr)
	if p.inJournal() {
		write = logging.Behind(p.journal, logging.ToJournal(p.stderr, journal.Send))
	}
	return slog.New(logging.Handler{Level: level, Where: &p.where, Write: write})
}

// inJournal: stderr is the journal's (JOURNAL_STREAM names the very socket).
func (p *program) inJournal() bool {
	if p.getenv("JOURNAL_STREAM") == "" {
		return false
	}
	is, err := journal.StderrIsJournalStream()
	return err == nil && is && journal.Enabled()
}

// lastLine is the line that a failure ends with. It goes to stderr, and so from the unit to the
// console, at the level of an error.
func (p *program) lastLine(err error) {
	mark := ""
	if p.inJournal() {
		mark = "<3>" // sd-daemon(3): systemd takes it off
	}
	fmt.Fprintf(p.stderr, "%sebs-release-agent: %s\n", mark, words.OneLine(err))
}
