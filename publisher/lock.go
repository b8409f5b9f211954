package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ebs-release/internal/cli"
	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
	"ebs-release/internal/status"
	"ebs-release/internal/words"

	"github.com/spf13/cobra"
)

// lockReport is what `lock status --output json` and `lock release --output json` print.
type lockReport struct {
	Schema int             `json:"schema"`
	Held   bool            `json:"held"`
	Holder *pointer.Holder `json:"holder,omitempty"`
}

func (p *program) lockCommand() *cobra.Command {
	var timeout time.Duration
	release := &cobra.Command{
		Use:   "release",
		Short: "Ask the publish that holds the lock to end, and wait until it has",
		Long: `Ask the publish that holds the lock to end (SIGTERM), and wait until it has.
Before its commit it takes back what it did; after the commit run
` + "`ebs-release converge`" + ` to bring the members up to date. A lock never
outlives its process, so there is nothing to take away by force. Exit 4: it is
still held.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, err := p.store(cmd.Context())
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			holder, stopped, err := store.Stop(ctx)
			if errors.Is(err, pointer.ErrLocked) {
				err = exit.With(exit.Conflict, err)
			}
			if stopped {
				p.recordStop(cmd.Context(), store, holder, err)
			}
			if err != nil {
				return err
			}
			says := "the lock is free; nobody held it"
			switch {
			case !store.Locks():
				says = noLock
			case stopped:
				says = "the lock is free; it was held by " + holder.String()
			}
			return p.printLock(lockReport{Schema: status.Schema}, says)
		},
	}
	release.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long the publish may take to end")
	holds := &cobra.Command{
		Use:   "status",
		Short: "Say who holds the publish lock",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, err := p.store(cmd.Context())
			if err != nil {
				return err
			}
			holder, held, err := store.Holder(cmd.Context())
			switch {
			case !store.Locks():
				return p.printLock(lockReport{Schema: status.Schema}, noLock)
			case err != nil:
				return err
			case held:
				return p.printLock(lockReport{status.Schema, true, &holder}, "the lock is held by "+holder.String())
			}
			return p.printLock(lockReport{Schema: status.Schema}, "the lock is free")
		},
	}
	return cli.Group("lock", "Look at the publish lock, or end the publish that holds it", holds, release)
}

// recordStop writes into the history who ended somebody's publish, or tried to.
func (p *program) recordStop(ctx context.Context, store *pointer.Store, holder pointer.Holder, err error) {
	e := pointer.Entry{Verb: verbLockRelease, Message: "of " + holder.String(), Result: ended(err)}
	if err != nil {
		e.Error = words.OneLine(err)
	}
	p.record(ctx, store, e)
}

// noLock is why a store in S3 is never locked.
const noLock = "a store in S3 has no lock: two publishers are kept apart when they move the pointer, and one of them fails"

// store opens the pointer store alone.
func (p *program) store(ctx context.Context) (*pointer.Store, error) {
	values, err := p.settings("pointer-store")
	if err != nil {
		return nil, err
	}
	return openStore(ctx, values.Get("pointer-store"), later(ctx))
}

func (p *program) printLock(report lockReport, says string) error {
	if p.output == cli.JSON {
		return p.printJSON(report)
	}
	_, err := fmt.Fprintln(p.stdout, says)
	return err
}
