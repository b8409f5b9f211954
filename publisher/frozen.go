package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"ebs-release/internal/exit"
	"ebs-release/internal/mount"
	"ebs-release/internal/snapshot"

	"github.com/spf13/cobra"
)

const tryWriteVerb = "try-write"

// frozenTime is longer than any publish holds a freeze.
const frozenTime = snapshot.DefaultLimit + time.Second

// tryWriteCommand is the other side of notFrozen.
func (p *program) tryWriteCommand() *cobra.Command {
	return &cobra.Command{
		Use:    tryWriteVerb + " PATH",
		Short:  "Wait until a file system can be written to",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE:   func(_ *cobra.Command, args []string) error { return exit.With(exit.Failed, mount.TryWrite(args[0])) },
	}
}

// notFrozen makes sure that writes to the release volume come through. Nothing says of a file system that it is frozen, and a write to one can't be
// interrupted or killed: a child process tries. One that hangs ends with the thaw, and has changed nothing then.
func notFrozen(ctx context.Context, point string, limit time.Duration) error {
	says, talk, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = says.Close() }()
	child := exec.Command("/proc/self/exe", tryWriteVerb, point) // not CommandContext, and all its streams are files: nobody must have to wait for it
	child.Dir, child.Env, child.Stderr = "/", []string{}, talk
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // it may outlive the terminal
	err = child.Start()
	_ = talk.Close()
	if err != nil {
		return fmt.Errorf("try to write to %s: %w", point, err)
	}
	done := make(chan error, 1)
	go func() { done <- child.Wait() }() // ends with the child
	clock := time.NewTimer(limit)
	defer clock.Stop()
	select {
	case err := <-done:
		if err != nil {
			why, _ := io.ReadAll(says)
			return fmt.Errorf("nothing can be written to %s: %w: %s", point, err, bytes.TrimSpace(why))
		}
		return nil
	case <-clock.C:
		return fmt.Errorf("%s seems to be frozen: a write has waited for %v, and a publish holds a freeze for %v at most. Run `ebs-release thaw`; "+
			"should that say that it was not frozen, its disk does not answer: see dmesg", point, limit, snapshot.DefaultLimit)
	case <-ctx.Done():
		return ctx.Err()
	}
}
