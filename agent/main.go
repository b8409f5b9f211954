// Command ebs-release-agent mounts the current release at /release when an instance boots, and
// takes the releases that are pushed to it later. Read package boot first: the boot in one
// sentence.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"ebs-release/internal/exit"
	"ebs-release/internal/status"
	"ebs-release/internal/words"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/spf13/cobra"
)

// version is set by the linker (-X main.version=…).
var version string

func main() {
	ends := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup(1)
		ends = append(ends, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	context.AfterFunc(ctx, stop)                            // a second signal ends the program at once
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) // a reader that went away is an error of the write, and no end of the program
	stderr := newPatientWriter(os.Stderr)
	toJournal := newOutlet(func(text string) { _ = journal.Send(text, journal.PriWarning, nil) })
	p := &program{stdin: os.Stdin, stdout: os.Stdout, stderr: stderr, journal: toJournal, getenv: os.Getenv, runDir: status.Run}
	code := p.execute(ctx, os.Args[1:])
	stop()
	toJournal.flush() // before stderr, which is its way out
	stderr.flush()
	os.Exit(code)
}

// program is what all verbs share: the streams (stdout is data, stderr is talk), the environment,
// and the flags of the root command.
type program struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	journal        *outlet // nil: lines wait for the journal
	getenv         func(string) string
	runDir         status.Dir // /run/ebs-release
	root           *cobra.Command
	configFile     string // --config
	output         string // --output
	verbose        bool   // --verbose
	began          bool   // a verb runs: arguments and flags were right
	where          whereabouts
}

// execute is main without the process: it returns the exit code.
func (p *program) execute(ctx context.Context, args []string) int {
	out := &status.Stdout{Writer: p.stdout}
	p.stdout = out
	root := p.command()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exit.Done
	}
	code := exit.Code(err)
	if !p.began { // cobra's own errors: an unknown verb or flag, a missing argument
		code = exit.Usage
		p.output = status.OutputOf(args)
		err = fmt.Errorf("%w. Try: %s --help", err, cmd.CommandPath())
	}
	p.lastLine(err)
	if p.output == status.JSON && !out.Used {
		// A reader that is gone stops nothing: the exit code still tells.
		_ = status.PrintJSON(p.stdout, status.Failure{Schema: status.Schema, Error: oneLine(err), ExitCode: code})
	}
	return code
}

func (p *program) command() *cobra.Command {
	root := &cobra.Command{
		Use:           "ebs-release-agent",
		Short:         "Mount the current release when an instance boots",
		SilenceErrors: true,
		SilenceUsage:  true,
		Long: `Mount the current release at /release when an EC2 instance boots, from an EBS snapshot, before the application
starts; and take the releases that the publisher pushes later.

Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 not ready, 4 the lock is held or a newer generation is active,
130 interrupted. Unknown codes mean failure.`,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if err := status.CheckOutput(p.output); err != nil {
				return err
			}
			p.began = true
			return nil
		},
	}
	p.root = root
	root.Version = versionText() // no template of our own: with text/template the linker keeps every call of EC2
	root.Flags().Bool("version", false, "print the version")
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	p.addSettings(root.PersistentFlags())
	complete(root)
	root.AddCommand(
		p.upCommand(), p.statusCommand(), p.waitCommand(), p.receiveCommand(), p.verifyCommand(), p.fenceCommand(),
		p.doctorCommand(), p.configCommand(), p.versionCommand(), p.tryWriteCommand(), p.diskWorkCommand(),
	)
	return root
}

// complete tells the shells what the values of flags are. No verb has files for arguments.
func complete(root *cobra.Command) {
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	words := func(all ...string) cobra.CompletionFunc {
		return cobra.FixedCompletions(all, cobra.ShellCompDirectiveNoFileComp)
	}
	_ = errors.Join( // these fail only for a flag that is not there
		root.RegisterFlagCompletionFunc("config", func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault // files
		}),
		root.MarkPersistentFlagDirname("mount-point"),
		root.RegisterFlagCompletionFunc("output", words(status.Text, status.JSON)),
		root.RegisterFlagCompletionFunc("volume-type", words(volumeTypes()...)),
	)
}

// oneLine makes one line of an error, whatever a file name or another program put into it.
func oneLine(err error) string {
	return strings.Join(strings.Fields(words.Printable(err.Error())), " ")
}
