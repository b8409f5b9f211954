// Package build builds the programs as they ship, for the tests and benchmarks of the whole.
package build

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Run is what a TestMain ends with: it builds packages of this module, each by the name of its
// directory, says where the programs are, runs the tests, and returns their exit code.
func Run(tests interface{ Run() int }, programs map[string]*string) int {
	dir, err := os.MkdirTemp("", "ebs-release-built-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = build(dir, programs)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return tests.Run()
}

func build(dir string, programs map[string]*string) error {
	for directory, path := range programs {
		*path = filepath.Join(dir, filepath.Base(directory))
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", *path, "ebs-release/"+directory)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", directory, err, out)
		}
	}
	return nil
}
