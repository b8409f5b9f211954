package e2e

import (
	"os/exec"
	"testing"
	"time"
)

// TestDemo runs the demo as README says it, on real input: the whole main job, with the real
// programs.
func TestDemo(t *testing.T) {
	cmd := exec.CommandContext(within(t, 7*time.Minute), programs.lab, "demo", "--agent", programs.agent, "--publisher", programs.publisher)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("demo: %v\n%s", err, out)
	}
	if got, want := lastLine(string(out)), "demo: 6/6 members on generation 5, 0 stale, 0 orphan volumes"; got != want {
		t.Errorf("the last line is %q, want %q\n%s", got, want, out)
	}
}
