package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/publish"

	"golang.org/x/sys/unix"
)

func TestPlainTalkIsALinePerPhaseAndPerTenPercent(t *testing.T) {
	var out bytes.Buffer
	talk := newTalker(&out, "xterm")
	talk.event(publish.Event{Phase: "P3", Kind: publish.KindPhase, Text: "stage"})
	for done := range 51 {
		talk.event(publish.Event{Phase: "P3", Kind: publish.KindProgress, Progress: &publish.Progress{Done: done, Working: 50 - done, Total: 50, Snapshot: "38%"}})
	}
	talk.event(publish.Event{Phase: "P3", Kind: publish.KindWarning, Text: "one\ntwo"})
	talk.close()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 13 || lines[0] != "P3 stage" || lines[2] != "   5 of 50 done, 45 fetching; snapshot 38%" || lines[12] != "   warning: one; two" {
		t.Errorf("%d lines:\n%s", len(lines), out.String())
	}
}

func TestPlainTalkTellsTheSnapshotPerTenPercent(t *testing.T) {
	var out bytes.Buffer
	talk := newTalker(&out, "xterm")
	talk.event(publish.Event{Phase: "P3", Kind: publish.KindPhase, Text: "stage"})
	for _, percent := range []string{"0%", "5%", "38%", "39%", "40%", "100%", "100%"} {
		talk.event(publish.Event{Phase: "P3", Kind: publish.KindProgress, Progress: &publish.Progress{Snapshot: percent}})
	}
	talk.event(publish.Event{Phase: "P5", Kind: publish.KindPhase, Text: "converge"})
	talk.event(publish.Event{Phase: "P5", Kind: publish.KindProgress, Progress: &publish.Progress{Snapshot: "100%"}})
	talk.close()
	if want := "P3 stage\n   snapshot 38%\n   snapshot 40%\n   snapshot 100%\nP5 converge\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

func TestFailuresAreToldOnceByCause(t *testing.T) {
	var out bytes.Buffer
	talk := newTalker(&out, "xterm")
	for _, id := range []string{"i-3", "i-1", "i-2"} {
		talk.event(publish.Event{Phase: "P3", Kind: publish.KindFailed, Member: id, Cause: "its disk is full", Text: "stage r on " + id + ": its disk is full"})
	}
	talk.event(publish.Event{Phase: "P3", Kind: publish.KindFailed, Member: "i-4", Cause: "not reachable by ssh", Text: "connect on i-4: not reachable by ssh: no route"})
	talk.event(publish.Event{Phase: "P4", Kind: publish.KindPhase, Text: "commit"})
	talk.close()
	want := "   failed: its disk is full: i-1, i-2, i-3\n   failed: connect on i-4: not reachable by ssh: no route\nP4 commit\n"
	if out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

func TestEventsAreOneJSONObjectALine(t *testing.T) {
	var out bytes.Buffer
	p := &program{stdout: &out, output: outputNDJSON}
	listen := p.listen(func(publish.Event) {})
	progress := &publish.Progress{Done: 1, Total: 2}
	for _, e := range []publish.Event{
		{Phase: "P5", Kind: publish.KindPhase, Text: "converge"},
		{Phase: "P5", Kind: publish.KindProgress, Progress: progress},
		{Phase: "P5", Kind: publish.KindProgress, Progress: progress}, // nothing new
		{Phase: "P6", Kind: publish.KindOutcome, Outcome: &publish.Outcome{Schema: 1, Result: publish.ResultConverged, Generation: 7}},
	} {
		listen(e)
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 3 {
		t.Fatalf("%d lines:\n%s", len(lines), out.String())
	}
	for _, line := range lines {
		var e struct {
			Schema  int
			Time    time.Time
			Kind    string
			Outcome *struct{ Generation int }
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Schema != 1 || e.Time.IsZero() || e.Kind == "" {
			t.Errorf("%v: %s", err, line)
		}
		if line == lines[2] && (e.Outcome == nil || e.Outcome.Generation != 7) {
			t.Errorf("the last line is %s", line)
		}
	}
}

func TestTerminalHasOneLiveLineBelowThePhases(t *testing.T) {
	master, terminal := pseudoTerminal(t)
	shown := make(chan string, 1)
	go func() { // ends with the terminal
		text, _ := io.ReadAll(master)
		shown <- string(text)
	}()
	talk := newTalker(terminal, "xterm")
	talk.event(publish.Event{Phase: "P5", Kind: publish.KindPhase, Text: "converge"})
	talk.event(publish.Event{Phase: "P5", Kind: publish.KindProgress, Progress: &publish.Progress{Done: 41, Working: 8, Total: 49}})
	talk.event(publish.Event{Phase: "P6", Kind: publish.KindPhase, Text: "report"})
	talk.close()
	terminal.Close()
	text := <-shown
	if !strings.Contains(text, "P5 converge\r\n") || !strings.Contains(text, "P6 report\r\n") {
		t.Errorf("the phases are missing: %q", text)
	}
	if after := text[strings.LastIndex(text, "P6 report"):]; strings.Contains(after, "done 41") {
		t.Errorf("the live line stays: %q", after)
	}
}

func TestADumbTerminalGetsNoEscapes(t *testing.T) {
	for _, name := range []string{"dumb", ""} {
		master, terminal := pseudoTerminal(t)
		shown := make(chan string, 1)
		go func() { // ends with the terminal
			text, _ := io.ReadAll(master)
			shown <- string(text)
		}()
		talk := newTalker(terminal, name)
		talk.event(publish.Event{Phase: "P5", Kind: publish.KindPhase, Text: "converge"})
		talk.event(publish.Event{Phase: "P5", Kind: publish.KindProgress, Progress: &publish.Progress{Done: 41, Working: 8, Total: 49}})
		talk.close()
		terminal.Close()
		if text := <-shown; strings.Contains(text, "\x1b") || !strings.Contains(text, "41 of 49 done") {
			t.Errorf("TERM=%s: %q", name, text)
		}
	}
}

// pseudoTerminal is a terminal of 80 by 25.
func pseudoTerminal(t *testing.T) (master, terminal *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 25, Col: 80}); err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	return master, terminal
}

func TestProgressLine(t *testing.T) {
	got := progressLine(publish.Progress{Done: 41, Working: 8, Waiting: 3, Failed: 1, Gone: 1, Total: 53}, "P5")
	if want := "41 of 54 done, 8 activating, 3 waiting, 1 failed, 1 gone"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
