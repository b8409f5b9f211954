package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"ebs-release/internal/publish"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// talker tells a person what a publish does: a line per phase and, on a terminal, one live line below.
type talker struct {
	out io.Writer
	bar *mpb.Progress // nil: not a terminal
	row *mpb.Bar

	mu      sync.Mutex
	live    string // the live line
	phase   string
	percent int // of members done in this phase that was last told, not on a terminal
}

// newTalker talks to out; close it.
func newTalker(out io.Writer) *talker {
	t := &talker{out: out}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		t.bar = mpb.New(mpb.WithOutput(f), mpb.WithAutoRefresh())
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
		t.mu.Lock()
		t.phase, t.live, t.percent = e.Phase, "", 0
		t.mu.Unlock()
		fmt.Fprintf(t.out, "%s %s\n", e.Phase, e.Text)
	case publish.KindNote:
		fmt.Fprintf(t.out, "   %s\n", e.Text)
	case publish.KindWarning:
		fmt.Fprintf(t.out, "   warning: %s\n", oneLine(e.Text))
	case publish.KindProgress:
		t.progress(e)
	}
}

// progress moves the live line; not on a terminal it is a line per 10 % of the members.
func (t *talker) progress(e publish.Event) {
	line := "   " + progressLine(*e.Progress, t.phase)
	t.mu.Lock()
	t.live = line
	percent := 0
	if e.Progress.Total > 0 {
		percent = 100 * e.Progress.Done / e.Progress.Total
	}
	tell := t.bar == nil && t.phase != "P0" && percent/10 > t.percent/10
	if tell {
		t.percent = percent
	}
	t.mu.Unlock()
	if tell {
		fmt.Fprintln(t.out, line)
	}
}

// progressLine reads "done 41  working 8  waiting 3  failed 1  gone 1 / 54  snapshot 38%".
func progressLine(p publish.Progress, phase string) string {
	var words []string
	for _, w := range []struct {
		name  string
		count int
	}{{"done", p.Done}, {"working", p.Working}, {"waiting", p.Waiting}, {"failed", p.Failed}, {"gone", p.Gone}} {
		if w.count > 0 || w.name == "done" {
			words = append(words, fmt.Sprintf("%s %d", w.name, w.count))
		}
	}
	line := fmt.Sprintf("%s / %d", strings.Join(words, "  "), p.Total)
	if phase == "P3" && p.Snapshot != "" {
		line += "  snapshot " + p.Snapshot
	}
	return line
}

func oneLine(text string) string { return strings.ReplaceAll(text, "\n", "; ") }
