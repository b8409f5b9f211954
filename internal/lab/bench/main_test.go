// Package bench measures the two programs as they ship, on the hosts of a lab, beside what people do without them. Its benchmarks print the tables
// of docs/performance.md.
package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"ebs-release/internal/lab/host"
)

// programs are where TestMain has built them.
var programs struct{ agent, publisher string }

func TestMain(m *testing.M) {
	host.RunInit()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "ebs-release-bench-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return m.Run()
}

func build(dir string) error {
	programs.agent, programs.publisher = filepath.Join(dir, "ebs-release-agent"), filepath.Join(dir, "ebs-release")
	for path, pkg := range map[string]string{programs.agent: "agent", programs.publisher: "publisher"} {
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", path, "ebs-release/"+pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
		}
	}
	return nil
}
