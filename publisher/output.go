package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"ebs-release/internal/cli"
	"ebs-release/internal/publish"
	"ebs-release/internal/status"
	"ebs-release/internal/words"
)

// printJSON writes a report to stdout.
func (p *program) printJSON(report any) error {
	return cli.PrintJSON(p.stdout, report)
}

// outputNDJSON is a format of --output: the events of a publish as they happen, one JSON object a
// line, as publish.Event has it. The last one is of kind "outcome" and holds what --output json
// prints.
const outputNDJSON = "ndjson"

// reportFailure is the report of a verb that failed before it had one: a program that reads stdout
// gets an answer whatever happened. The verbs that have an outcome give one.
func (p *program) reportFailure(verb string, err error, code int) {
	var report any = cli.FailureOf(err, code)
	if slices.Contains(verbsWithEvents, verb) {
		outcome := publish.Outcome{
			Schema: status.Schema, Result: publish.ResultOf(code), Error: words.OneLine(err),
			Phases: []publish.PhaseTime{}, Members: []publish.Member{},
		}
		if p.output == outputNDJSON {
			p.listen(func(publish.Event) {})(publish.Event{Phase: "P0", Kind: publish.KindOutcome, Outcome: &outcome})
			return
		}
		report = outcome
	}
	if p.output == cli.JSON {
		_ = p.printJSON(report) // a reader that is gone: the exit code still tells
	}
}

// verbsWithEvents have ndjson, and an outcome.
var verbsWithEvents = []string{verbPublish, verbConverge, verbRollback, "resume", "carry-on", "finish", "abort"}

// listen tells a person on stderr what happens, and with --output ndjson a program on stdout, too.
func (p *program) listen(person func(publish.Event)) func(publish.Event) {
	if p.output != outputNDJSON {
		return person
	}
	enc := json.NewEncoder(p.stdout)
	enc.SetEscapeHTML(false)
	var last publish.Progress
	return func(e publish.Event) {
		person(e)
		if e.Kind == publish.KindProgress {
			if *e.Progress == last {
				return
			}
			last = *e.Progress
		}
		e.Schema = status.Schema
		if e.Time.IsZero() {
			e.Time = time.Now().UTC()
		}
		_ = enc.Encode(e) // a reader that is gone stops nothing: the exit code still tells
	}
}

// checkOutput says whether a verb has a format of output.
func checkOutput(output, verb string) error {
	switch {
	case output == cli.Text, output == cli.JSON:
		return nil
	case output == outputNDJSON && slices.Contains(verbsWithEvents, verb):
		return nil
	case output == outputNDJSON:
		return fmt.Errorf("--output %s is for %s, %s and %s: %s has no events", outputNDJSON, verbPublish, verbConverge, verbRollback, verb)
	}
	return fmt.Errorf("--output is %q, want %s or %s; %s has %s, too", output, cli.Text, cli.JSON, verbPublish, outputNDJSON)
}

// printMembers writes a table.
func printMembers(out io.Writer, members []publish.Member) error {
	if len(members) == 0 {
		return nil
	}
	rows := [][]string{{"INSTANCE", "GROUP", "LIFECYCLE", "ADDRESS", "GENERATION", "STATE", "STANDING"}}
	sides := slices.ContainsFunc(members, func(m publish.Member) bool { return m.Side != "" })
	if sides {
		rows[0] = append(rows[0], "SIDE")
	}
	read := slices.ContainsFunc(members, func(m publish.Member) bool { return m.Verified != nil })
	if read {
		rows[0] = append(rows[0], "VERIFIED")
	}
	for _, m := range members {
		generation := ""
		if m.Generation > 0 {
			generation = fmt.Sprint(m.Generation)
		}
		row := []string{m.InstanceID, m.Group, m.LifecycleState, m.Address, generation, m.State, string(m.Standing)}
		if sides {
			row = append(row, m.Side)
		}
		if read {
			row = append(row, m.Verified.Word())
		}
		rows = append(rows, row)
	}
	return cli.PrintTable(out, rows)
}
