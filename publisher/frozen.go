package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ebs-release/internal/freeze"
)

// frozenTime is longer than any publish holds a freeze.
const frozenTime = freeze.DefaultLimit + time.Second

// notFrozen makes sure that writes to the release volume come through.
func notFrozen(ctx context.Context, point string, limit time.Duration) error {
	err := freeze.Writable(ctx, point, limit)
	if errors.Is(err, freeze.ErrStuck) {
		return fmt.Errorf("%s seems to be frozen: a write has waited for %v, and a publish holds a freeze for %v at most. "+
			"Run `ebs-release thaw`; should that say that it was not frozen, its disk does not answer: see dmesg",
			point, limit, freeze.DefaultLimit)
	}
	return err
}
