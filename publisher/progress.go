package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"ebs-release/internal/publish"
	"ebs-release/internal/words"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// talker tells a person what a publish does: a line per phase and, on a terminal, one live line
// below.
type talker struct {
	out io.Writer
	bar *mpb.Progress // nil: not a terminal
	row *mpb.Bar

	line    sync.Mutex // one line at a time
	mu      sync.Mutex
	live    string // the live line
	phase   string
	percent int // of members done in this phase that was last told, not on a terminal
	stored  int // per cent of the snapshot that were last told, not on a terminal

	failures []publish.Event // not told yet: those of one cause are told together
	soon     *time.Timer     // when they are told
}

// say writes a line; failures are told by a goroutine of their own.
func (t *talker) say(format string, args ...any) {
	t.line.Lock()
	defer t.line.Unlock()
	fmt.Fprintf(t.out, format, args...)
}

// failureTime is how long failures wait for others of the same cause.
const failureTime = time.Second

// newTalker talks to out; close it. terminal is what $TERM says of it.
func newTalker(out io.Writer, terminal string) *talker {
	t := &talker{out: out}
	if words.Escapes(out, terminal) {
		t.bar = mpb.New(mpb.WithOutput(out), mpb.WithAutoRefresh())
		t.out = t.bar // lines go above the live one
		t.row = t.bar.New(0, mpb.NopStyle(), mpb.BarRemoveOnComplete(), mpb.PrependDecorators(decor.Any(func(decor.Statistics) string {
			t.mu.Lock()
			defer t.mu.Unlock()
			return t.live
		})))
	}
	return t
}

// close takes the live line away.
func (t *talker) close() {
	t.mu.Lock()
	if t.soon != nil {
		t.soon.Stop()
	}
	t.mu.Unlock()
	t.tellFailures()
	if t.bar == nil {
		return
	}
	t.row.Abort(true)
	t.bar.Wait()
}

// event is publish.Publisher's Talk.
func (t *talker) event(e publish.Event) {
	switch e.Kind {
	case publish.KindPhase:
		t.tellFailures()
		t.mu.Lock()
		t.phase, t.live, t.percent, t.stored = e.Phase, "", 0, 0
		t.mu.Unlock()
		t.say("%s %s\n", e.Phase, e.Text)
	case publish.KindDone:
		if took := publish.Took(*e.Milliseconds); took != "" {
			t.say("   done in %s\n", took)
		}
	case publish.KindNote, publish.KindWindow, publish.KindRollout:
		t.say("   %s\n", e.Text)
	case publish.KindFailed, publish.KindHook:
		t.mu.Lock()
		t.failures = append(t.failures, e)
		if len(t.failures) == 1 {
			t.soon = time.AfterFunc(failureTime, t.tellFailures)
		}
		t.mu.Unlock()
	case publish.KindWarning:
		t.say("   warning: %s\n", oneLine(e.Text))
	case publish.KindProgress:
		t.progress(e)
	}
}

// progress moves the live line; not on a terminal it is a line per 10 % of the members, and of the
// snapshot that they wait for.
func (t *talker) progress(e publish.Event) {
	line := "   " + progressLine(*e.Progress, t.phase)
	t.mu.Lock()
	t.live = line
	percent := 0
	if e.Progress.Total > 0 {
		percent = 100 * e.Progress.Done / e.Progress.Total
	}
	stored := 0
	if t.phase == "P3" || t.phase == "P6" {
		stored, _ = strconv.Atoi(strings.TrimSuffix(e.Progress.Snapshot, "%"))
	}
	tell := t.bar == nil && t.phase != "P0" && (percent/10 > t.percent/10 || stored/10 > t.stored/10)
	if tell {
		t.percent, t.stored = percent, stored
	}
	t.mu.Unlock()
	if tell {
		t.say("%s\n", line)
	}
}

// tellFailures says each cause once, with the members that have it.
func (t *talker) tellFailures() {
	t.mu.Lock()
	failures := t.failures
	t.failures = nil
	t.mu.Unlock()
	var causes []string
	members := map[string][]publish.Event{}
	for _, e := range failures {
		if members[e.Cause] == nil {
			causes = append(causes, e.Cause)
		}
		members[e.Cause] = append(members[e.Cause], e)
	}
	for _, cause := range causes {
		if alike := members[cause]; len(alike) == 1 {
			t.say("   failed: %s\n", oneLine(withMember(alike[0])))
		} else {
			text := ""
			if first := withMember(alike[0]); !strings.HasSuffix(first, ": "+cause) {
				text = ", such as " + first
			}
			t.say("   failed: %s: %s%s\n", oneLine(cause), memberNames(alike), oneLine(text))
		}
	}
}

func withMember(e publish.Event) string {
	if strings.Contains(e.Text, e.Member) {
		return e.Text
	}
	return e.Member + ": " + e.Text
}

// memberNames lists members, not more than a person reads.
func memberNames(events []publish.Event) string {
	const most = 8
	var ids []string
	for _, e := range events {
		ids = append(ids, e.Member)
	}
	slices.Sort(ids)
	if len(ids) > most {
		return fmt.Sprintf("%d members, such as %s", len(ids), strings.Join(ids[:most], ", "))
	}
	return strings.Join(ids, ", ")
}

// progressLine reads "41 of 54 done, 8 activating, 3 waiting, 1 failed, 1 gone".
func progressLine(p publish.Progress, phase string) string {
	working := map[string]string{"P0": "connecting", "P3": "fetching"}[phase]
	if working == "" {
		working = "activating"
	}
	line := fmt.Sprintf("%d of %d done", p.Done, p.Total+p.Gone)
	for _, w := range []struct {
		name  string
		count int
	}{{working, p.Working}, {"waiting", p.Waiting}, {"failed", p.Failed}, {"gone", p.Gone}} {
		if w.count > 0 {
			line += fmt.Sprintf(", %d %s", w.count, w.name)
		}
	}
	switch {
	case phase == "P6":
		return "snapshot " + p.Snapshot
	case phase != "P3" || p.Snapshot == "":
		return line
	}
	if p.Total+p.Gone == 0 {
		return "snapshot " + p.Snapshot
	}
	return line + "; snapshot " + p.Snapshot
}

func oneLine(text string) string { return words.OneLine(errors.New(text)) }
