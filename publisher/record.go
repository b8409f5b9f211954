package main

import (
	"context"
	"fmt"
	"time"

	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
)

// recordTime is for writing a line of the history.
const recordTime = 10 * time.Second

// resultDone is how a verb ended that is no publish.
const resultDone = "done"

// ended is the result of such a verb.
func ended(err error) string {
	if err == nil {
		return resultDone
	}
	return publish.ResultOf(exit.Code(err))
}

// record writes a line into the history, also after an interrupt. A history that cannot be written
// to is no reason to fail: it is said.
func (p *program) record(ctx context.Context, store *pointer.Store, e pointer.Entry) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTime)
	defer cancel()
	who, err := whoAmI()
	if err == nil {
		e.Time, e.Who = time.Now().UTC().Truncate(time.Second), who
		err = store.Record(ctx, e)
	}
	if err != nil {
		fmt.Fprintf(p.stderr, "warning: %v\n", err)
	}
}
