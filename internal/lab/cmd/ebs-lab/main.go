// Command ebs-lab runs the lab, an EC2 on one machine: `up` for a person to play with, `demo` for
// the main job of ebs-release from end to end.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"ebs-release/internal/exit"
	"ebs-release/internal/lab"
	"ebs-release/internal/lab/host"

	"github.com/spf13/cobra"
)

func main() {
	host.RunInit() // does not return in the first process of a host, which is this program again
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "ebs-lab: %v\n", err)
		stop()
		os.Exit(exit.Code(err))
	}
}

func command() *cobra.Command {
	var opts lab.Options
	root := &cobra.Command{
		Use:           "ebs-lab",
		Short:         "An EC2 on one machine, for ebs-release",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.PersistentFlags().StringVar(&opts.Agent, "agent", built("ebs-release-agent"), "the built agent")
	root.PersistentFlags().StringVar(&opts.Publisher, "publisher", built("ebs-release"), "the built publisher")
	root.PersistentFlags().Uint64Var(&opts.Seed, "seed", 0, "seed of ids and latencies (0: from the clock)")
	root.AddCommand(upCommand(&opts), demoCommand(&opts))
	return root
}

// built guesses where a built program is: beside this one, or in bin.
func built(name string) string {
	if self, err := os.Executable(); err == nil {
		if path := filepath.Join(filepath.Dir(self), name); isFile(path) {
			return path
		}
	}
	return filepath.Join("bin", name)
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}
