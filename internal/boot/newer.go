package boot

import (
	"context"
	"fmt"
	"time"
)

// newerPatience is how long EC2 may take to list the snapshots: as long as most attachments.
const newerPatience = 5 * time.Second

// noneNewer: what serves, or has served, has a fence of its own, and so has what EC2 brought, but
// not where another disk does not answer, which may have served; and a pointer that is not signed
// names exactly one snapshot.
func (b *boot) noneNewer() bool {
	knows := b.serving || b.volume.Brought && !b.unsure || b.volume.Reported.Ready
	return b.asked || knows || b.Older || b.want.Document == "" || b.want.Store == ""
}

// lookForNewer is against a pointer that was valid once: a volume that is made from its snapshot
// knows nothing of what came after. The store's owner can put an old pointer there, and take packs
// away, but not the snapshots. No answer is no reason to fail the boot, as the store may be right.
func (b *boot) lookForNewer(ctx context.Context) error {
	b.asked = true
	look, cancel := context.WithTimeout(ctx, newerPatience)
	defer cancel()
	newest, id, err := b.Volumes.Newest(look, b.want.Store)
	if err != nil && ctx.Err() == nil {
		b.log.Warn("not known whether the store has a snapshot of a higher generation than the pointer says", "error", err)
	}
	if err != nil || newest <= b.want.Generation {
		return ctx.Err()
	}
	// It was made after its commit: whoever reads the pointer from now on reads that generation, or
	// a later one.
	p, err := b.Pointers.Fetch(ctx)
	if err != nil {
		return err
	}
	if p.Store == b.want.Store && p.Generation < newest {
		return wrongPointer(fmt.Errorf("%s of the same store has generation %d, the pointer says %d: %w", id, newest, p.Generation, ErrOlder))
	}
	return nil
}
