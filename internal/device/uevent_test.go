package device

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ebs-release/internal/test/scratch"
)

func TestKernelsEventEndsTheWait(t *testing.T) {
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	events, err := listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer events.close()
	// A real event of the block subsystem: a loop device gets its file.
	scratch.Loop(t, image)
	started := time.Now()
	if err := events.wait(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(started); took > 10*time.Second {
		t.Fatalf("the wait took %v", took)
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	for name, listening := range map[string]bool{"socket": true, "no socket": false} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			var events uevents
			if listening {
				var err error
				if events, err = listen(ctx); err != nil {
					t.Fatal(err)
				}
			}
			defer events.close()
			for {
				if err := events.wait(ctx, time.Minute); err != nil {
					if !errors.Is(err, context.DeadlineExceeded) {
						t.Fatal(err)
					}
					return
				}
			}
		})
	}
}
