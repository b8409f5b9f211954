package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"ebs-release/internal/publish"
	"ebs-release/internal/status"
)

// printJSON writes a report to stdout.
func (p *program) printJSON(report any) error {
	return status.PrintJSON(p.stdout, report)
}

// outputNDJSON is a format of --output: the events of a publish as they happen, one JSON object a line, as publish.Event has it. The last one is of
// kind "outcome" and holds what --output json prints.
const outputNDJSON = "ndjson"

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
		e.Schema = 1
		if e.Time.IsZero() {
			e.Time = time.Now().UTC()
		}
		_ = enc.Encode(e) // a reader that is gone stops nothing: the exit code still tells
	}
}

// checkOutput says whether a verb has a format of output.
func checkOutput(output, verb string) error {
	switch {
	case output == outputText, output == outputJSON:
		return nil
	case output == outputNDJSON && (verb == verbPublish || verb == verbConverge || verb == verbRollback):
		return nil
	case output == outputNDJSON:
		return fmt.Errorf("--output %s is for %s, %s and %s: %s has no events", outputNDJSON, verbPublish, verbConverge, verbRollback, verb)
	}
	return fmt.Errorf("--output is %q, want %s or %s; %s has %s, too", output, outputText, outputJSON, verbPublish, outputNDJSON)
}

// printMembers writes a table.
func printMembers(out io.Writer, members []publish.Member) error {
	if len(members) == 0 {
		return nil
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "INSTANCE\tGROUP\tLIFECYCLE\tADDRESS\tGENERATION\tSTATE\tSTANDING")
	for _, m := range members {
		generation := "-"
		if m.Generation > 0 {
			generation = fmt.Sprint(m.Generation)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", m.InstanceID, m.Group, m.LifecycleState, orDash(m.Address), generation, orDash(m.State), m.Standing)
	}
	return table.Flush()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
