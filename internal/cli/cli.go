// Package cli is the shell that both programs have in common: signals, the root command, --output,
// the verbs that look at the program itself, and how an error ends it. stdout is data, stderr is
// talk; an error is one line there, with what to do next in it.
package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"ebs-release/internal/advice"
	"ebs-release/internal/config"
	"ebs-release/internal/exit"
	"ebs-release/internal/freeze"
	"ebs-release/internal/status"
	"ebs-release/internal/words"

	"github.com/spf13/cobra"
)

// Signals makes ends of SIGINT, SIGTERM and SIGHUP, the last one unless nohup(1) ignores it. The
// first signal ends ctx. The second closes insist when somebody has asked for it, and ends the
// process when not; the third ends it in any case. A reader that went away (SIGPIPE) is an error of
// the write, and no end of the program.
func Signals() (ctx context.Context, insist func() <-chan struct{}) {
	ends := make(chan os.Signal, 4)
	signal.Notify(ends, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(ends, syscall.SIGHUP)
	}
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, cancel := context.WithCancel(context.Background())
	second, asked := make(chan struct{}), make(chan struct{}, 1)
	go func() { // as long as the program
		<-ends
		cancel()
		var last os.Signal
		for last = range ends {
			if last != syscall.SIGHUP { // a terminal that closes sends several
				break
			}
		}
		signal.Stop(ends)
		select {
		case <-asked:
			close(second)
		default:
			_ = syscall.Kill(os.Getpid(), last.(syscall.Signal))
		}
	}()
	return ctx, func() <-chan struct{} {
		select {
		case asked <- struct{}{}:
		default:
		}
		return second
	}
}

// Shell is one run of a program.
type Shell struct {
	Stdout *Stdout
	Output *string // what --output says, from when the flags are parsed

	// Accepts says whether a verb has a format of output; nil: each has text and json.
	Accepts func(format, verb string) error
	// Last is told how it ended, when with an error: before the report.
	Last func(err error)
	// Failed prints the report of a verb that failed before it had one; nil: a Failure, as JSON.
	Failed func(verb string, err error, code int)
}

// Run is main without the process: it returns the exit code.
func (s Shell) Run(ctx context.Context, root *cobra.Command, args []string) int {
	began := false // a verb runs: arguments and flags were right
	root.SilenceErrors, root.SilenceUsage = true, true
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if err := s.accepts(cmd.Name()); err != nil {
			return err
		}
		began = true
		return nil
	}
	root.SetArgs(args)
	root.SetOut(s.Stdout)
	root.SetUsageFunc(usage)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exit.Done
	}
	code := exit.Code(err)
	if !began { // cobra's own errors: an unknown verb or flag, a missing argument
		code = exit.Usage
		*s.Output = outputOf(args)
		err = advice.Try(errors.New(strings.TrimSpace(err.Error())), "%s --help", cmd.CommandPath()) // a suggestion ends with a newline
	}
	s.Last(err)
	switch {
	case s.Stdout.Used:
	case s.Failed != nil:
		s.Failed(cmd.Name(), err, code)
	case *s.Output == JSON:
		// A reader that is gone stops nothing: the exit code still tells.
		_ = PrintJSON(s.Stdout, FailureOf(err, code))
	}
	return code
}

func (s Shell) accepts(verb string) error {
	switch {
	case s.Accepts != nil:
		return s.Accepts(*s.Output, verb)
	case *s.Output != Text && *s.Output != JSON:
		return fmt.Errorf("--output is %q, want %s or %s", *s.Output, Text, JSON)
	}
	return nil
}

// outputOf is the --output among arguments that could not be parsed, such as those of an unknown
// verb; "" when there is none.
func outputOf(args []string) string {
	for i, arg := range args {
		if format, ok := strings.CutPrefix(arg, "--output="); ok {
			return format
		}
		if arg == "--output" && i+1 < len(args) {
			return args[i+1]
		}
	}
	return ""
}

// FailureOf is the report of an error.
func FailureOf(err error, code int) Failure {
	return Failure{Schema: status.Schema, Error: words.OneLine(err), ExitCode: code}
}

// AddVersion adds the verb version and the flag --version. linked is what the linker was told. (A
// version template of one's own would keep every call of EC2 in the program: text/template finds
// methods by name.)
func AddVersion(root *cobra.Command, linked string, output *string) {
	root.Version = fmt.Sprintf("%s (%s)", Version(linked), runtime.Version())
	root.Flags().Bool("version", false, "print the version")
	root.AddCommand(&cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if *output == JSON {
				return PrintJSON(cmd.OutOrStdout(), map[string]any{"schema": status.Schema, "version": Version(linked), "go": runtime.Version()})
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s version %s\n", root.Name(), root.Version)
			return err
		},
	})
}

// Group is a verb that only has verbs below it: alone, or with one that it does not have, it is a
// mistake.
func Group(use, short string, verbs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short}
	cmd.AddCommand(verbs...)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var names []string
		for _, verb := range verbs {
			names = append(names, verb.Name())
		}
		got := ""
		if len(args) > 0 {
			got = fmt.Sprintf(", and got %q", args[0])
		}
		return exit.With(exit.Usage, advice.Try(fmt.Errorf("%s wants %s%s", use, strings.Join(names, " or "), got),
			"%s --help", cmd.CommandPath()))
	}
	return cmd
}

// ConfigCommand is the verb config. check returns what is worth saying of settings that a run could
// start with.
func ConfigCommand(load func() (config.Values, error), check func() (string, error), output *string) *cobra.Command {
	return Group("config", "Look at the configuration", &cobra.Command{
		Use:   "show",
		Short: "Print each setting, and where its value comes from",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			values, err := load()
			if err != nil {
				return err
			}
			if *output == JSON {
				return PrintJSON(cmd.OutOrStdout(), struct {
					Schema   int           `json:"schema"`
					Settings config.Values `json:"settings"`
				}{status.Schema, values})
			}
			var rows [][]string
			for _, v := range values {
				rows = append(rows, []string{v.Key, v.Value, v.Source})
			}
			return PrintTable(cmd.OutOrStdout(), rows)
		},
	}, &cobra.Command{
		Use:   "check",
		Short: "Check that the configuration is complete; exit 2 when not",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			says, err := check()
			if err != nil {
				return err
			}
			if *output == JSON {
				return PrintJSON(cmd.OutOrStdout(), map[string]any{"schema": status.Schema, "state": "ok"})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "ok: %s\n", says)
			return err
		},
	})
}

// TryWriteCommand is the child process of freeze.Writable.
func TryWriteCommand() *cobra.Command {
	return &cobra.Command{
		Use:    freeze.TryWriteVerb + " PATH",
		Short:  "Wait until a file system can be written to",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE:   func(_ *cobra.Command, args []string) error { return exit.With(exit.Failed, freeze.TryWrite(args[0])) },
	}
}

// Words are the values of a flag.
func Words(all ...string) cobra.CompletionFunc {
	return cobra.FixedCompletions(all, cobra.ShellCompDirectiveNoFileComp)
}

// Files are the value of a flag: the shell knows them.
func Files(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveDefault
}
