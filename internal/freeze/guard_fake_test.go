package freeze

import (
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestGuardThawsWhenNobodyListens(t *testing.T) {
	var did []string
	in, _ := io.Pipe() // says nothing, stays open
	guard := Guard{path: "/x", limit: time.Minute,
		sync:   func(string) error { did = append(did, "sync"); return nil },
		freeze: func(string) error { did = append(did, "freeze"); return nil },
		thaw:   func(string) error { did = append(did, "thaw"); return nil },
	}
	closedOut, w := io.Pipe()
	closedOut.Close()
	if err := guard.Run(in, w, nil); err != nil {
		t.Error(err)
	}
	if strings.Join(did, " ") != "sync freeze thaw" {
		t.Errorf("did %v", did)
	}
}

// The more is in memory, the longer a sync takes; writers do not wait for it, so neither the limit
// nor the length of the freeze counts it.
func TestGuardSyncsBeforeItsLimitBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var frozen time.Time
		in, say := io.Pipe()
		guard := Guard{path: "/x", limit: time.Second,
			sync:   func(string) error { time.Sleep(time.Minute); return nil },
			freeze: func(string) error { frozen = time.Now(); return nil },
			thaw:   func(string) error { return nil },
		}
		var out strings.Builder
		if err := guard.Run(in, &out, nil); err != nil {
			t.Error(err)
		}
		if held := time.Since(frozen); held != time.Second || out.String() != "synced\nfrozen\nthawed: the limit of 1s passed\n" {
			t.Errorf("frozen for %v, said %q", held, out.String())
		}
		_ = say.Close()
	})
}

func TestGuardWhoseParentGoesDuringTheSyncFreezesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, say := io.Pipe()
		guard := Guard{path: "/x", limit: time.Second,
			sync:   func(string) error { _ = say.Close(); time.Sleep(time.Minute); return nil },
			freeze: func(string) error { t.Error("frozen"); return nil },
			thaw:   func(string) error { return nil },
		}
		if err := guard.Run(in, io.Discard, nil); err == nil {
			t.Error("all is well")
		}
	})
}
