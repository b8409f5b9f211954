package hook

import (
	"fmt"
	"path/filepath"
	"strings"
)

// AnyUser is for Inspect where it is not known who will run the programs.
const AnyUser = -1

// Inspect is for a doctor. It says which programs of some directories user would run, and what is
// not run as it cannot be executed. The error is why Run would fail.
func Inspect(directories []string, user int) (says string, plain []string, err error) {
	var parts []string
	for _, path := range directories {
		d := Dir{Path: path}
		names, rest, err := d.list()
		if err == nil {
			err = d.distrustAny(names, user)
		}
		if err != nil {
			return "", nil, fmt.Errorf("%s: %w", path, err)
		}
		if len(names) > 0 {
			parts = append(parts, filepath.Base(path)+": "+strings.Join(names, ", "))
		}
		for _, n := range rest {
			plain = append(plain, filepath.Join(path, n))
		}
	}
	if len(parts) == 0 {
		parts = []string{"none"}
	}
	return strings.Join(parts, "; "), plain, nil
}

// NotExecutable says of what Inspect found that it is not run, and what to do.
func NotExecutable(plain []string) (wrong, try string) {
	return strings.Join(plain, ", ") + ": not executable, and so not run", "chmod 755, or a name that ends in .disabled"
}
