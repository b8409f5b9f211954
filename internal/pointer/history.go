package pointer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"time"

	"ebs-release/internal/store"

	smithytime "github.com/aws/smithy-go/time"
)

const (
	historySchema = 1

	mostEntries = 1000                   // older ones go
	mostError   = 2000                   // bytes of an error that are kept
	mostRemoved = 200                    // names of what gc removed that are kept
	mostHistory = store.MaxDocument      // bytes that are read at most; a thousand entries have less
	mostPause   = 100 * time.Millisecond // before a line is written again that somebody else was faster than
)

// ResultCommitted is the result of an Entry that the store itself wrote.
const ResultCommitted = "committed" // the pointer moved; how the publish ended is not known (yet)

// Entry is a line of the history: what moved the pointer or tried to, and what an operator did
// besides.
type Entry struct {
	Schema     int               `json:"schema"`
	Time       time.Time         `json:"time"`
	Verb       string            `json:"verb,omitempty"` // of ebs-release: publish, rollback, gc, lock release, …; "" with ResultCommitted
	Who        string            `json:"who"`
	Message    string            `json:"message,omitempty"`
	Result     string            `json:"result"`
	Committed  bool              `json:"committed"`
	Generation int64             `json:"generation"` // of the pointer after it
	Release    string            `json:"release,omitempty"`
	Digest     string            `json:"digest,omitempty"`
	Snapshots  map[string]string `json:"snapshots,omitempty"` // that the pointer named, by region
	Asked      map[string]string `json:"asked,omitempty"`     // that EBS took while the volume was frozen, named or not
	OnIt       int               `json:"on_it"`               // members
	Total      int               `json:"total"`
	Took       int64             `json:"milliseconds,omitempty"`
	Removed    []string          `json:"removed,omitempty"` // by gc: "snapshot snap-…"
	Error      string            `json:"error,omitempty"`
}

// History returns what happened, the latest last. Every generation that was committed is in it
// once, as far back as a thousand lines go: the store writes a line with the pointer itself, and
// what Record adds later about the same commit replaces that line here.
func (s *Store) History(ctx context.Context) ([]Entry, error) {
	lines, _, err := s.history(ctx)
	if err != nil {
		return nil, err
	}
	current, err := s.Read(ctx)
	if err != nil {
		return nil, err
	}
	lines = withCommit(lines, current)
	var entries []Entry
	for _, e := range lines {
		if e.Committed && e.Verb != "" && e.Verb != "converge" {
			same := func(o Entry) bool { return o.Verb == "" && o.Generation == e.Generation }
			if i := slices.IndexFunc(entries, same); i >= 0 {
				e.Digest, e.Snapshots, e.Asked = entries[i].Digest, entries[i].Snapshots, entries[i].Asked
				entries = slices.Delete(entries, i, i+1)
			}
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// Record adds how something ended.
func (s *Store) Record(ctx context.Context, e Entry) error {
	e.Schema, e.Error, e.Message = historySchema, e.Error[:min(len(e.Error), mostError)], e.Message[:min(len(e.Message), MaxMessage)]
	if more := len(e.Removed) - mostRemoved; more > 0 {
		e.Removed = append(slices.Clone(e.Removed[:mostRemoved]), fmt.Sprintf("and %d more", more))
	}
	return s.changeHistory(ctx, func(lines []Entry) []Entry { return append(lines, e) })
}

// Asked notes a snapshot of a committed generation, which may be named once EBS has completed it.
func (s *Store) Asked(ctx context.Context, generation int64, region, id string) error {
	known := false
	err := s.changeHistory(ctx, func(lines []Entry) []Entry {
		i := slices.IndexFunc(lines, func(e Entry) bool { return e.Committed && e.Verb == "" && e.Generation == generation })
		if known = i >= 0; !known {
			return lines
		}
		lines = slices.Clone(lines)
		lines[i].Asked = map[string]string{region: id}
		return lines
	})
	if err == nil && !known {
		err = fmt.Errorf("history: it has no generation %d, so nobody will name its snapshot %s", generation, id)
	}
	return err
}

// withCommit adds the line of a pointer that has none, and the snapshots of the generation that
// they hold: they may come later than the commit.
func withCommit(lines []Entry, p Pointer) []Entry {
	committed := func(generation int64) int {
		return slices.IndexFunc(lines, func(e Entry) bool { return e.Committed && e.Verb == "" && e.Generation == generation })
	}
	if p.Generation > 0 && !slices.ContainsFunc(lines, func(e Entry) bool { return e.Committed && e.Generation == p.Generation }) {
		lines = append(slices.Clone(lines), Entry{
			Schema: historySchema, Time: p.Created, Who: p.By, Message: p.Message, Result: ResultCommitted, Committed: true,
			Generation: p.Generation, Release: p.Release, Digest: p.Digest,
		})
	}
	if i := committed(p.Holds().Generation); i >= 0 && lines[i].Snapshots == nil {
		lines = slices.Clone(lines)
		lines[i].Snapshots = p.Snapshots
	}
	return lines
}

// noteCommit writes the line of the pointer, or what is new in it.
func (s *Store) noteCommit(ctx context.Context, p Pointer) error {
	return s.changeHistory(ctx, func(lines []Entry) []Entry { return withCommit(lines, p) })
}

// changeHistory applies a change to what is there, and once more where somebody else was faster.
// change leaves its argument as it is.
func (s *Store) changeHistory(ctx context.Context, change func([]Entry) []Entry) error {
	for {
		lines, version, err := s.history(ctx)
		if err != nil {
			return err
		}
		changed := change(lines)
		if reflect.DeepEqual(changed, lines) {
			return nil
		}
		data, err := renderHistory(changed)
		if err != nil {
			return err
		}
		if _, err = s.at.PutIf(ctx, historyName, data, version); err == nil {
			return nil
		}
		if !errors.Is(err, store.ErrChanged) {
			return fmt.Errorf("history: %w", err)
		}
		if err := smithytime.SleepWithContext(ctx, rand.N(mostPause)); err != nil {
			return fmt.Errorf("history: %w", err)
		}
	}
}

// history reads the lines as they are, with their version. One that cannot be read is passed over:
// it is no reason not to publish.
func (s *Store) history(ctx context.Context) ([]Entry, store.Version, error) {
	data, version, err := store.ReadAll(ctx, s.at, historyName, mostHistory, "")
	if errors.Is(err, store.ErrNotFound) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("history: %w", err)
	}
	var lines []Entry
	for line := range bytes.Lines(data) {
		var e Entry
		if json.Unmarshal(line, &e) == nil && e.Schema == historySchema {
			lines = append(lines, e)
		}
	}
	return lines, version, nil
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

// renderHistory is the file of the newest lines.
func renderHistory(lines []Entry) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	for _, e := range newest(lines) {
		if err := enc.Encode(e); err != nil {
			return nil, fmt.Errorf("history: %w", err)
		}
	}
	return b.Bytes(), nil
}
