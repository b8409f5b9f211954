// Package doctor runs checks one after the other and says what each came to: one finding, one JSON
// shape, for both programs. What is checked is theirs.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/words"
)

// State is what a check came to.
type State string

// The states, from good to bad.
const (
	OK   State = "ok"
	Warn State = "warn" // a boot or a publish goes through all the same
	Fail State = "FAIL" // it would stop
)

// Finding is what one check came to: one line.
type Finding struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	Says  string `json:"says,omitempty"` // what was found
	Try   string `json:"try,omitempty"`  // what to do; "" when Says has it, or nothing is wrong
}

// Fine is a finding that nothing is wrong.
func Fine(format string, args ...any) Finding {
	return Finding{State: OK, Says: fmt.Sprintf(format, args...)}
}

// Warning is a finding that does not stop anything. try is what to do.
func Warning(try, format string, args ...any) Finding {
	return Finding{State: Warn, Says: fmt.Sprintf(format, args...), Try: try}
}

// Failure is a finding that stops a boot or a publish. try is what to do.
func Failure(try, format string, args ...any) Finding {
	return Finding{State: Fail, Says: fmt.Sprintf(format, args...), Try: try}
}

// Minor is an error that a boot or a publish goes through with all the same.
type Minor struct{ Err error }

func (m Minor) Error() string { return m.Err.Error() }

// Unwrap returns the error itself.
func (m Minor) Unwrap() error { return m.Err }

// Minorf is fmt.Errorf for an error that is Minor.
func Minorf(format string, args ...any) error { return Minor{fmt.Errorf(format, args...)} }

// Found is the finding of a check that says what it found, or what is wrong and what to do: a
// warning where that is Minor.
func Found(says string, err error) Finding {
	switch _, minor := errors.AsType[Minor](err); {
	case err == nil:
		return Fine("%s", says)
	case minor:
		return Warned(err)
	}
	return Failed(err)
}

// Failed is a failure by an error and its advice.
func Failed(err error) Finding { return ofError(Fail, err) }

// Warned is a warning by an error and its advice.
func Warned(err error) Finding { return ofError(Warn, err) }

func ofError(state State, err error) Finding {
	says, try := advice.Of(err)
	return Finding{State: state, Says: words.OneLine(errors.New(says)), Try: words.Printable(try)}
}

// String is the line of a finding.
func (f Finding) String() string {
	line := fmt.Sprintf("%-4s  %s", f.State, f.Name)
	if f.Says != "" {
		line += ": " + f.Says
	}
	return advice.Text(line, f.Try)
}

// Printer prints the line of each finding to out, and gives the state its colour on a terminal
// whose user wants that: not with NO_COLOR (no-color.org) or TERM=dumb.
func Printer(out io.Writer, getenv func(string) string) func(Finding) error {
	colours := getenv("NO_COLOR") == "" && words.Escapes(out, getenv("TERM"))
	return func(f Finding) error {
		line := words.Printable(f.String())
		if colours {
			colour := map[State]string{OK: "32", Warn: "33", Fail: "31"}[f.State] // SGR: green, yellow, red
			line = "\x1b[" + colour + "m" + string(f.State) + "\x1b[0m" + strings.TrimPrefix(line, string(f.State))
		}
		_, err := fmt.Fprintln(out, line)
		return err
	}
}

// Check looks at one thing, and changes nothing.
type Check struct {
	Name  string
	Needs []string // checks before it; when one of them failed, this one is not made
	Do    func(context.Context) Finding
}

// Report is what `doctor --output json` prints.
type Report struct {
	Schema int       `json:"schema"`
	State  State     `json:"state"` // the worst of all
	Failed int       `json:"failed"`
	Warned int       `json:"warned"`
	Checks []Finding `json:"checks"`
}

// Run makes the checks in their order and tells each finding as it is known. Each check has timeout
// to come to one. The error is ctx's.
func Run(ctx context.Context, checks []Check, timeout time.Duration, tell func(Finding)) (Report, error) {
	report := Report{Schema: 1, State: OK, Checks: []Finding{}}
	var failed []string
	for _, c := range checks {
		f := c.run(ctx, timeout, failed)
		if err := ctx.Err(); err != nil {
			return report, err
		}
		switch f.State {
		case Fail:
			failed = append(failed, c.Name)
			report.Failed++
			report.State = Fail
		case Warn:
			report.Warned++
			if report.State == OK {
				report.State = Warn
			}
		}
		report.Checks = append(report.Checks, f)
		tell(f)
	}
	return report, nil
}

func (c Check) run(ctx context.Context, timeout time.Duration, failed []string) (f Finding) {
	if i := slices.IndexFunc(c.Needs, func(name string) bool { return slices.Contains(failed, name) }); i >= 0 {
		return Finding{Name: c.Name, State: Warn, Says: "not checked: see " + c.Needs[i]}
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	f = c.Do(ctx)
	f.Name = c.Name
	return f
}

// Err is an error when a check failed.
func (r Report) Err() error {
	if r.Failed == 0 {
		return nil
	}
	return fmt.Errorf("doctor: %d of %d checks failed", r.Failed, len(r.Checks))
}
