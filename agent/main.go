// Command ebs-release-agent mounts the current release at /release when an instance boots, and
// takes the releases that are pushed to it later. Read package boot first: the boot in one
// sentence.
package main

import (
	"context"
	"errors"
	"io"
	"os"

	"ebs-release/internal/cli"
	"ebs-release/internal/logging"
	"ebs-release/internal/status"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/spf13/cobra"
)

// version is set by the linker (-X main.version=…).
var version string

func main() {
	ctx, _ := cli.Signals()
	stderr := logging.NewPatientWriter(os.Stderr)
	toJournal := logging.NewOutlet(func(text string) { _ = journal.Send(text, journal.PriWarning, nil) })
	p := &program{stdin: os.Stdin, stdout: os.Stdout, stderr: stderr, journal: toJournal, getenv: os.Getenv, runDir: status.Run}
	code := p.execute(ctx, os.Args[1:])
	toJournal.Flush() // before stderr, which is its way out
	stderr.Flush()
	os.Exit(code)
}

// program is what all verbs share: the streams (stdout is data, stderr is talk), the environment,
// and the flags of the root command.
type program struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	journal        *logging.Outlet // nil: lines wait for the journal
	getenv         func(string) string
	runDir         status.Dir // /run/ebs-release
	root           *cobra.Command
	configFile     string // --config
	output         string // --output
	verbose        bool   // --verbose
	where          logging.Where
}

// execute is main without the process: it returns the exit code.
func (p *program) execute(ctx context.Context, args []string) int {
	out := &cli.Stdout{Writer: p.stdout}
	p.stdout = out
	return cli.Shell{Stdout: out, Output: &p.output, Last: p.lastLine}.Run(ctx, p.command(), args)
}

func (p *program) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "ebs-release-agent",
		Short: "Mount the current release when an instance boots",
		Long: `Mount the current release at /release when an EC2 instance boots, from an EBS
snapshot, before the application starts; and take the releases that the
publisher pushes later.

Exit codes:
  0    done
  1    failed
  2    usage or configuration
  3    not ready
  4    the lock is held, or a newer generation is active
  130  interrupted

Treat any other code as failure.`,
	}
	p.root = root
	cli.AddVersion(root, version, &p.output)
	root.SetErr(p.stderr)
	p.addSettings(root.PersistentFlags())
	complete(root)
	root.AddCommand(
		p.upCommand(), p.statusCommand(), p.waitCommand(), p.receiveCommand(), p.followCommand(), p.activateCommand(), p.beforeCommand(),
		p.launchCommand(), p.warmCommand(), p.verifyCommand(), p.fenceCommand(),
		p.doctorCommand(), p.configCommand(), cli.TryWriteCommand(), p.diskWorkCommand(),
	)
	return root
}

// complete tells the shells what the values of flags are. No verb has files for arguments.
func complete(root *cobra.Command) {
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	_ = errors.Join( // these fail only for a flag that is not there
		root.RegisterFlagCompletionFunc("config", cli.Files),
		root.MarkPersistentFlagDirname("mount-point"),
		root.RegisterFlagCompletionFunc("output", cli.Words(cli.Text, cli.JSON)),
		root.RegisterFlagCompletionFunc("warm", cli.Words(warmBackground, warmOff)),
		root.RegisterFlagCompletionFunc("volume-type", cli.Words(volumeTypes()...)),
	)
}
