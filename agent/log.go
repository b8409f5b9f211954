package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	"ebs-release/internal/boot"
	"ebs-release/internal/words"

	"github.com/coreos/go-systemd/v22/journal"
)

// talk is the slog.Handler of this program: short text for people on stderr, or entries with fields
// in the journal when stderr leads there. The unit sends stderr to the console as well; so in the
// journal's case nothing is written to it but the one line that a failure ends with.
type talk struct {
	level slog.Level
	where *whereabouts
	attrs []slog.Attr
	write func(level slog.Level, text string, fields map[string]string) error
}

// whereabouts is where the boot is: every line in the journal carries it, whichever part logs it.
type whereabouts struct {
	mu     sync.Mutex
	fields map[string]string
}

// The fields in the journal, for `journalctl EBS_RELEASE_STAGE=attach`.
const (
	fieldStage      = "EBS_RELEASE_STAGE"
	fieldGeneration = "EBS_RELEASE_GENERATION"
	fieldVolume     = "EBS_RELEASE_VOLUME"
	fieldSnapshot   = "EBS_RELEASE_SNAPSHOT"
)

// fieldOf is the journal field that an attribute sets, in place of the one in whereabouts; "": it
// sets none.
func fieldOf(attribute string) string {
	switch attribute {
	case "stage":
		return fieldStage
	case "generation":
		return fieldGeneration
	case "volume":
		return fieldVolume
	case "snapshot":
		return fieldSnapshot
	default:
		return ""
	}
}

func (w *whereabouts) set(stage string, f boot.Facts) {
	fields := map[string]string{fieldStage: stage}
	if f.SnapshotID != "" {
		fields[fieldSnapshot] = f.SnapshotID
	}
	if f.Generation > 0 {
		fields[fieldGeneration] = fmt.Sprint(f.Generation)
	}
	if f.VolumeID != "" {
		fields[fieldVolume] = f.VolumeID
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fields = fields
}

func (w *whereabouts) get() map[string]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fields == nil {
		return map[string]string{}
	}
	return maps.Clone(w.fields)
}

// toPeople writes one line each: 15:04:05.000 attach finished in 340ms.
func toPeople(out io.Writer) func(slog.Level, string, map[string]string) error {
	var mu sync.Mutex
	return func(level slog.Level, text string, _ map[string]string) error {
		if level >= slog.LevelWarn {
			text = strings.ToLower(level.String()) + ": " + text
		}
		mu.Lock()
		defer mu.Unlock()
		_, err := fmt.Fprintf(out, "%s %s\n", time.Now().Format("15:04:05.000"), text)
		return err
	}
}

// behind writes lines through an outlet, so that the caller does not wait; nil: directly.
func behind(o *outlet, write func(slog.Level, string, map[string]string) error) func(slog.Level, string, map[string]string) error {
	return func(level slog.Level, text string, fields map[string]string) error {
		o.say(func() { _ = write(level, text, fields) })
		return nil
	}
}

// toJournal sends entries with fields. One that the journal does not take goes to stderr.
func toJournal(
	out io.Writer, send func(string, journal.Priority, map[string]string) error,
) func(slog.Level, string, map[string]string) error {
	return func(level slog.Level, text string, fields map[string]string) error {
		if err := send(text, priority(level), fields); err != nil {
			_, err = fmt.Fprintf(out, "<%d>%s\n", priority(level), text)
			return err
		}
		return nil
	}
}

func priority(level slog.Level) journal.Priority {
	switch {
	case level >= slog.LevelError:
		return journal.PriErr
	case level >= slog.LevelWarn:
		return journal.PriWarning
	case level >= slog.LevelInfo:
		return journal.PriInfo
	default:
		return journal.PriDebug
	}
}

// Enabled is of slog.Handler.
func (t talk) Enabled(_ context.Context, level slog.Level) bool { return level >= t.level }

// Handle is of slog.Handler.
func (t talk) Handle(_ context.Context, r slog.Record) error {
	text, fields := r.Message, t.where.get()
	var about []string
	add := func(a slog.Attr) bool {
		value := strings.Join(strings.Fields(a.Value.String()), " ")
		if field := fieldOf(a.Key); field != "" {
			fields[field] = value
		}
		if a.Key != "stage" && value != "" { // the message names the stage
			about = append(about, strings.ReplaceAll(a.Key, "_", " ")+" "+value)
		}
		return true
	}
	for _, a := range t.attrs {
		add(a)
	}
	r.Attrs(add)
	if len(about) > 0 {
		text += " (" + strings.Join(about, ", ") + ")"
	}
	for field, value := range fields {
		fields[field] = words.Printable(value)
	}
	return t.write(r.Level, words.Printable(text), fields)
}

// WithAttrs is of slog.Handler.
func (t talk) WithAttrs(attrs []slog.Attr) slog.Handler {
	t.attrs = append(t.attrs[:len(t.attrs):len(t.attrs)], attrs...)
	return t
}

// WithGroup is of slog.Handler. Nobody here groups.
func (t talk) WithGroup(string) slog.Handler { return t }

// logger talks to a person or the journal.
func (p *program) logger() *slog.Logger {
	level := slog.LevelInfo
	if p.verbose {
		level = slog.LevelDebug
	}
	write := toPeople(p.stderr)
	if p.inJournal() {
		write = behind(p.journal, toJournal(p.stderr, journal.Send))
	}
	return slog.New(talk{level: level, where: &p.where, write: write})
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
