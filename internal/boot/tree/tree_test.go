package tree

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"ebs-release/internal/boot"
	"ebs-release/internal/gc"
	"ebs-release/internal/release"
	"ebs-release/internal/test/blank"
)

// A boot raises the fence of what is served, and a push makes another release current meanwhile,
// below the pointer's generation or above it: that stays current.
func TestARaiseFlipsNothing(t *testing.T) {
	for wanted, meaning := range map[int64]error{3: boot.ErrMismatch, 2: boot.ErrOlder} {
		v := Volume{Volume: blank.Volume(t)}
		var made [2]release.Ingested
		for i := range made {
			source := t.TempDir()
			err := os.WriteFile(source+"/file", fmt.Append(nil, i), 0o644)
			if err == nil {
				made[i], err = v.Ingest(t.Context(), source, time.Now().Add(time.Duration(i)*time.Second), gc.Wanted{Keep: 5})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := v.Activate(t.Context(), made[0].ID, made[0].Digest, 1); err != nil {
			t.Fatal(err)
		}
		pushed := wanted - 1
		if meaning == boot.ErrOlder {
			pushed = wanted + 1
		}
		ctx := blank.Meanwhile(t, v.Volume, made[1].ID, pushed)
		err := v.Check(ctx, boot.Wanted{Generation: wanted, Release: made[0].ID, Digest: made[0].Digest})
		if !errors.Is(err, meaning) {
			t.Errorf("generation %d: %v", wanted, err)
		}
		n, id, fenceErr := v.Fence()
		if current, err := v.Current(); err != nil || fenceErr != nil || current != made[1].ID || id != current || n != pushed {
			t.Errorf("%s is current, the fence is %d, %s: %v", current, n, id, err)
		}
	}
}
