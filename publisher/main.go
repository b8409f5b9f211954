// Command ebs-release publishes a directory to Auto Scaling groups: it makes the snapshot that new
// instances boot from, and brings the running ones to the same release. It runs on the release
// server, which has the release volume mounted.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"ebs-release/internal/exit"
	"ebs-release/internal/publish"
	"ebs-release/internal/status"

	"github.com/spf13/cobra"
)

// version is set by the linker (-X main.version=…).
var version string

func main() {
	ctx, insist := interrupts()
	os.Exit(run(ctx, insist, os.Args[1:], os.Stdout, os.Stderr, os.Getenv))
}

// interrupts makes two ends of the signals: the first one ends ctx; the second closes insist, see
// publish.Publisher. The third ends the program where it stands: a freeze is thawed by its guard.
func interrupts() (ctx context.Context, insist <-chan struct{}) {
	ends := make(chan os.Signal, 4)
	signal.Notify(ends, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // nohup(1)
		signal.Notify(ends, syscall.SIGHUP)
	}
	// A reader that went away is an error of the write, and no end of the program.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, cancel := context.WithCancel(context.Background())
	second := make(chan struct{})
	go func() { // as long as the program
		<-ends
		cancel()
		for s := range ends {
			if s != syscall.SIGHUP { // a terminal that closes sends several
				break
			}
		}
		close(second)
		signal.Stop(ends)
	}()
	return ctx, second
}

// program is what all verbs share: the streams (stdout is data, stderr is talk), the environment,
// and the flags of the root command.
type program struct {
	insist         <-chan struct{} // see publish.Publisher
	stdout, stderr io.Writer
	getenv         func(string) string
	root           *cobra.Command
	configFile     string // --config
	output         string // --output
	began          bool   // a verb runs: arguments and flags were right
}

// run is main without the process: it returns the exit code.
func run(ctx context.Context, insist <-chan struct{}, args []string, stdout, stderr io.Writer, getenv func(string) string) int {
	out := &status.Stdout{Writer: stdout, Lets: true}
	p := &program{insist: insist, stdout: out, stderr: stderr, getenv: getenv}
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
		err = fmt.Errorf("%w; see `%s --help`", err, cmd.CommandPath())
	}
	fmt.Fprintf(stderr, "ebs-release: %s\n", publish.OneLine(err))
	if !out.Used {
		p.reportFailure(cmd.Name(), err, code)
	}
	return code
}

func (p *program) command() *cobra.Command {
	root := &cobra.Command{
		Use:           "ebs-release",
		Short:         "Ship code to EC2 Auto Scaling groups on EBS snapshots",
		SilenceErrors: true,
		SilenceUsage:  true,
		Long: `Ship code to EC2 Auto Scaling groups on EBS snapshots: running instances get what changed over ssh, an instance
that launches later boots with that release already mounted.

Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 nothing was changed, 4 the lock is held or the generation
moved, 5 committed, but members are behind, 6 committed, did not converge, and rolled back (publish --rollback), 130
interrupted. Unknown codes mean failure.`,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(p.output, cmd.Name()); err != nil {
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
	p.complete(root)
	root.AddCommand(
		p.initCommand(), p.publishCommand(), p.statusCommand(), p.convergeCommand(), p.rollbackCommand(), p.historyCommand(), p.verifyCommand(),
		p.gcCommand(), p.lockCommand(), p.thawCommand(), p.doctorCommand(), p.serveCommand(),
		p.configCommand(), p.versionCommand(), p.freezeGuardCommand(), p.tryWriteCommand(),
	)
	return root
}
