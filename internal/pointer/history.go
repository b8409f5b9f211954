package pointer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	historyName = "history.jsonl" // one Entry a line, the latest last; a web server has no reason to give it out
	mostEntries = 1000            // older ones go
	mostError   = 2000            // bytes of an error that are kept
	mostRemoved = 200             // names of what gc removed that are kept
	mostHistory = 16 << 20        // bytes that are read at most; a thousand entries have less
)

// ResultCommitted is the result of an Entry that the store itself wrote.
const ResultCommitted = "committed" // the pointer moved; how the publish ended is not known (yet)

// Entry is a line of the history: what moved the pointer or tried to, and what an operator did
// besides.
type Entry struct {
	Schema     int               `json:"schema"`
	Time       time.Time         `json:"time"`
	Verb       string            `json:"verb,omitempty"` // publish, rollback, converge, gc, thaw, lock release; "" with ResultCommitted
	Who        string            `json:"who"`
	Message    string            `json:"message,omitempty"`
	Result     string            `json:"result"`
	Committed  bool              `json:"committed"`
	Generation int64             `json:"generation"` // of the pointer after it
	Release    string            `json:"release,omitempty"`
	Digest     string            `json:"digest,omitempty"`
	Snapshots  map[string]string `json:"snapshots,omitempty"`
	OnIt       int               `json:"on_it"` // members
	Total      int               `json:"total"`
	Took       int64             `json:"milliseconds,omitempty"`
	Removed    []string          `json:"removed,omitempty"` // by gc: "snapshot snap-…"
	Error      string            `json:"error,omitempty"`
}

// History returns what happened, the latest last. Every generation that was committed is in it
// once, as far back as a thousand lines go: the store writes a line with the pointer itself, and
// what Record adds later about the same commit replaces that line here.
func (f *Directory) History(ctx context.Context) ([]Entry, error) {
	lines, err := f.history()
	if err != nil {
		return nil, err
	}
	current, err := f.Read(ctx)
	if err != nil {
		return nil, err
	}
	lines = withCommit(lines, current)
	var entries []Entry
	for _, e := range lines {
		if e.Committed && e.Verb != "" && e.Verb != "converge" {
			same := func(o Entry) bool { return o.Verb == "" && o.Generation == e.Generation }
			if i := slices.IndexFunc(entries, same); i >= 0 {
				e.Digest, e.Snapshots = entries[i].Digest, entries[i].Snapshots
				entries = slices.Delete(entries, i, i+1)
			}
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// Record adds how something ended.
func (f *Directory) Record(ctx context.Context, e Entry) error {
	unlock, err := f.flock(ctx, swapName)
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	defer unlock()
	lines, err := f.history()
	if err != nil {
		return err
	}
	e.Schema, e.Error = Schema, e.Error[:min(len(e.Error), mostError)]
	if more := len(e.Removed) - mostRemoved; more > 0 {
		e.Removed = append(slices.Clone(e.Removed[:mostRemoved]), fmt.Sprintf("and %d more", more))
	}
	return f.writeHistory(append(lines, e))
}

// withCommit adds the line of a pointer that has none.
func withCommit(lines []Entry, p Pointer) []Entry {
	has := func(e Entry) bool { return e.Committed && e.Generation == p.Generation }
	if p.Generation == 0 || slices.ContainsFunc(lines, has) {
		return lines
	}
	return append(lines, Entry{
		Schema: Schema, Time: p.Created, Who: p.By, Message: p.Message, Result: ResultCommitted, Committed: true,
		Generation: p.Generation, Release: p.Release, Digest: p.Digest, Snapshots: p.Snapshots,
	})
}

// noteCommit writes the line of the pointer, if it is not there. The caller holds a lock.
func (f *Directory) noteCommit(p Pointer) error {
	lines, err := f.history()
	if err != nil {
		return err
	}
	if with := withCommit(lines, p); len(with) > len(lines) {
		return f.writeHistory(with)
	}
	return nil
}

// history reads the lines as they are. One that cannot be read is passed over: it is no reason not
// to publish.
func (f *Directory) history() ([]Entry, error) {
	file, err := os.Open(filepath.Join(f.dir, historyName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	defer func() { _ = file.Close() }()
	data, err := io.ReadAll(io.LimitReader(file, mostHistory))
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	var lines []Entry
	for line := range bytes.Lines(data) {
		var e Entry
		if json.Unmarshal(line, &e) == nil && e.Schema == Schema {
			lines = append(lines, e)
		}
	}
	return lines, nil
}

// newest drops the oldest lines that are too many: first those of what did not move the pointer, so
// that a job that fails every minute does not drive out what a rollback needs.
func newest(lines []Entry) []Entry {
	over := len(lines) - mostEntries
	lines = slices.DeleteFunc(lines, func(e Entry) bool {
		drop := over > 0 && (!e.Committed || e.Verb == "converge")
		if drop {
			over--
		}
		return drop
	})
	return lines[max(over, 0):]
}

// writeHistory replaces the file: whole or not at all.
func (f *Directory) writeHistory(lines []Entry) error {
	lines = newest(lines)
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	for _, e := range lines {
		if err := enc.Encode(e); err != nil {
			return fmt.Errorf("history: %w", err)
		}
	}
	file, err := f.pending(historyName, b.Bytes(), 0o600) // the directory may be a web server's
	if err != nil {
		return err
	}
	defer func() { _ = file.Cleanup() }()
	if err := file.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("history: %w", err)
	}
	return f.sync()
}
