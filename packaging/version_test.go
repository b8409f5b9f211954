package packaging_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestVersionFollowsTheTag: what packages and programs are called, and that packages of one history
// replace each other in its order.
func TestVersionFollowsTheTag(t *testing.T) {
	source := t.TempDir()
	script := filepath.Join(source, "packaging", "dev", "version")
	if err := os.MkdirAll(filepath.Dir(script), 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "cp", "dev/version", script)
	write(t, filepath.Join(source, "CHANGELOG.md"), "# Changelog\n\n## [Unreleased]\n\n## [0.1.0] - 2026-11-26\n\n## [0.0.9] - 2026-01-01\n")
	git := func(args ...string) {
		t.Helper()
		run(t, "git", append([]string{"-C", source, "-c", "user.name=a", "-c", "user.email=a@example.invalid"}, args...)...)
	}
	var last string
	says := func(want string) {
		t.Helper()
		out, err := exec.Command(script).CombinedOutput()
		got := strings.TrimSpace(string(out))
		if err != nil || !regexp.MustCompile("^"+want+"$").MatchString(got) {
			t.Fatalf("the version is %q (%v), want %s", got, err, want)
		}
		if last != "" {
			run(t, "dpkg", "--compare-versions", last, "lt", got)
		}
		last = got
	}

	says(`0\.1\.0~dev`)
	last = "" // no commit of a history, so in no order
	git("init", "-q")
	git("add", ".")
	git("commit", "-q", "-m", "one")
	says(`0\.1\.0~20[0-9]{12}\.g[0-9a-f]{7}`)
	git("tag", "other")
	git("tag", "v0.1.0")
	says(`0\.1\.0`)
	write(t, filepath.Join(source, "CHANGELOG.md"), "changed\n")
	says(`0\.1\.0\+dirty`)
	last = "0.1.0"
	git("commit", "-q", "-a", "-m", "two")
	says(`0\.1\.0\+1\.g[0-9a-f]{7,}`)
	git("tag", "v0.1.1")
	says(`0\.1\.1`)
}
