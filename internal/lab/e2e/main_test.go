// Package e2e holds the tests of the whole: the built programs, as they ship, on the hosts of a lab.
package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"ebs-release/internal/lab/host"
)

// programs are where TestMain has built them: the agent and the publisher as they ship, and the lab's own.
var programs struct{ agent, publisher, lab string }

func TestMain(m *testing.M) {
	host.RunInit()
	if len(os.Args) > 1 && os.Args[1] == tracerVerb {
		os.Exit(runTracer(os.Args[2:]))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "ebs-release-e2e-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	return m.Run()
}

func build(dir string) error {
	programs.agent, programs.publisher, programs.lab = filepath.Join(dir, "ebs-release-agent"), filepath.Join(dir, "ebs-release"), filepath.Join(dir, "ebs-lab")
	for path, pkg := range map[string]string{programs.agent: "agent", programs.publisher: "publisher", programs.lab: "internal/lab/cmd/ebs-lab"} {
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", path, "ebs-release/"+pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
		}
	}
	return nil
}
