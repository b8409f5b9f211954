package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestWhatAttackersCannotDoIsTested: each line of a "Cannot:" in SECURITY.md names tests, and each
// test that it names is there.
func TestWhatAttackersCannotDoIsTested(t *testing.T) {
	text, err := os.ReadFile("../SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	_, attackers, found := strings.Cut(string(text), "\n## What an attacker can and cannot do\n")
	attackers, _, _ = strings.Cut(attackers, "\n## ")
	sections := strings.Split(attackers, "\n### ")[1:]
	if !found || len(sections) < 6 {
		t.Fatalf("SECURITY.md has %d attackers, want 6", len(sections))
	}
	named := regexp.MustCompile("`(Test[A-Za-z0-9]+)`")
	for _, section := range sections {
		who, _, _ := strings.Cut(section, "\n")
		lines := cannot(section)
		if len(lines) == 0 || !strings.Contains(section, "\nCan") {
			t.Errorf("%s: want what they can do, and what they cannot", who)
		}
		for _, line := range lines {
			if !named.MatchString(line) {
				t.Errorf("%s: no test is named for %q", who, line)
			}
		}
	}
	tests := testsOfTheTree(t)
	for _, m := range named.FindAllStringSubmatch(string(text), -1) {
		if !tests[m[1]] {
			t.Errorf("SECURITY.md names %s, which is no test", m[1])
		}
	}
}

// cannot are the items of the list below "Cannot:", each as one line.
func cannot(section string) (items []string) {
	_, list, _ := strings.Cut(section, "\nCannot:\n\n")
	list, _, _ = strings.Cut(list, "\n\n")
	for line := range strings.Lines(list) {
		item, begins := strings.CutPrefix(strings.TrimSpace(line), "- ")
		if begins || len(items) == 0 {
			items = append(items, item)
		} else {
			items[len(items)-1] += " " + item
		}
	}
	return items
}

// testsOfTheTree are the names of all test functions.
func testsOfTheTree(t *testing.T) map[string]bool {
	t.Helper()
	function := regexp.MustCompile(`(?m)^func (Test[A-Za-z0-9]+)\(t \*testing\.T\)`)
	tests := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range function.FindAllSubmatch(text, -1) {
			tests[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tests
}
