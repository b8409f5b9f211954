// Package logging writes what the agent says, for people, for the journal and for systemd. Whoever
// says something never waits long for who reads it.
package logging

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	"ebs-release/internal/words"

	"github.com/coreos/go-systemd/v22/journal"
)

// Handler is the slog.Handler of this program: short text for people on stderr, or entries with
// fields in the journal when stderr leads there. The unit sends stderr to the console as well; so
// in the journal's case nothing is written to it but the one line that a failure ends with.
type Handler struct {
	Level slog.Level
	Where *Where
	Write func(level slog.Level, text string, fields map[string]string) error

	attrs []slog.Attr
}

// Where is where the boot is: every line in the journal carries it, whichever part logs it.
type Where struct {
	mu     sync.Mutex
	fields map[string]string
}

// The fields in the journal, for `journalctl EBS_RELEASE_STAGE=attach`.
const (
	FieldStage      = "EBS_RELEASE_STAGE"
	FieldGeneration = "EBS_RELEASE_GENERATION"
	FieldVolume     = "EBS_RELEASE_VOLUME"
	FieldSnapshot   = "EBS_RELEASE_SNAPSHOT"
)

// fieldOf is the journal field that an attribute sets, in place of the one in Where; "": it
// sets none.
func fieldOf(attribute string) string {
	switch attribute {
	case "stage":
		return FieldStage
	case "generation":
		return FieldGeneration
	case "volume":
		return FieldVolume
	case "snapshot":
		return FieldSnapshot
	default:
		return ""
	}
}

// Set says where it is from now on, by the names of the fields.
func (w *Where) Set(fields map[string]string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fields = fields
}

// Get is a copy of what Set was told.
func (w *Where) Get() map[string]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fields == nil {
		return map[string]string{}
	}
	return maps.Clone(w.fields)
}

// ToPeople writes one line each: 15:04:05.000 attach finished in 340ms.
func ToPeople(out io.Writer) func(slog.Level, string, map[string]string) error {
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

// Behind writes lines through an outlet, so that the caller does not wait; nil: directly.
func Behind(o *Outlet, write func(slog.Level, string, map[string]string) error) func(slog.Level, string, map[string]string) error {
	return func(level slog.Level, text string, fields map[string]string) error {
		o.say(func() { _ = write(level, text, fields) })
		return nil
	}
}

// ToJournal sends entries with fields. One that the journal does not take goes to stderr.
func ToJournal(
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
func (t Handler) Enabled(_ context.Context, level slog.Level) bool { return level >= t.Level }

// Handle is of slog.Handler.
func (t Handler) Handle(_ context.Context, r slog.Record) error {
	text, fields := r.Message, t.Where.Get()
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
	return t.Write(r.Level, words.Printable(text), fields)
}

// WithAttrs is of slog.Handler.
func (t Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	t.attrs = append(t.attrs[:len(t.attrs):len(t.attrs)], attrs...)
	return t
}

// WithGroup is of slog.Handler. Nobody here groups.
func (t Handler) WithGroup(string) slog.Handler { return t }
