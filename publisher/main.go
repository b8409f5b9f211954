// Command ebs-release publishes a directory to Auto Scaling groups: it makes the snapshot that new
// instances boot from, and brings the running ones to the same release. It runs on the release
// server, which has the release volume mounted.
package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"ebs-release/internal/cli"
	"ebs-release/internal/hook"
	"ebs-release/internal/words"

	"github.com/spf13/cobra"
)

// version is set by the linker (-X main.version=…).
var version string

func main() {
	hook.KeepIfAsked()
	ctx, insist := cli.Signals()
	os.Exit(run(ctx, insist, os.Args[1:], os.Stdout, os.Stderr, os.Getenv))
}

// program is what all verbs share: the streams (stdout is data, stderr is talk), the environment,
// and the flags of the root command.
type program struct {
	insist         func() <-chan struct{} // see publish.Publisher
	stdout, stderr io.Writer
	getenv         func(string) string
	root           *cobra.Command
	configFile     string // --config
	output         string // --output
}

// run is main without the process: it returns the exit code.
func run(ctx context.Context, insist func() <-chan struct{}, args []string, stdout, stderr io.Writer, getenv func(string) string) int {
	out := &cli.Stdout{Writer: stdout, Lets: true}
	p := &program{insist: insist, stdout: out, stderr: stderr, getenv: getenv}
	return cli.Shell{
		Stdout: out, Output: &p.output, Accepts: checkOutput, Failed: p.reportFailure,
		Last: func(err error) { fmt.Fprintf(stderr, "ebs-release: %s\n", words.OneLine(err)) },
	}.Run(ctx, p.command(), args)
}

func (p *program) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "ebs-release",
		Short: "Ship code to EC2 Auto Scaling groups on EBS snapshots",
		Long: `Ship code to EC2 Auto Scaling groups on EBS snapshots. Running instances
fetch what changed; an instance that launches later boots with the same release.

Exit codes:
  0    done
  1    failed; the message says what is left
  2    usage or configuration
  3    nothing was changed
  4    the lock is held, the generation moved, a hold or a rollout is on
  5    committed, but members are behind
  6    rolled back: publish --rollback did not converge, or a rollout failed
  7    live, but the snapshot that was waited for failed, or is late
  8    a rollout stands at its step, and waits for a person
  130  interrupted

Treat any other code as failure.`,
	}
	p.root = root
	cli.AddVersion(root, version, &p.output)
	root.SetErr(p.stderr)
	p.addSettings(root.PersistentFlags())
	p.complete(root)
	root.AddCommand(
		p.initCommand(), p.publishCommand(), p.statusCommand(), p.convergeCommand(), p.rollbackCommand(), p.rolloutCommand(), p.holdCommand(),
		p.historyCommand(), p.verifyCommand(),
		p.snapshotCommand(), p.gcCommand(), p.lockCommand(), p.thawCommand(), p.keyCommand(), p.doctorCommand(), p.serveCommand(),
		p.configCommand(), p.freezeGuardCommand(), cli.TryWriteCommand(),
	)
	return root
}
