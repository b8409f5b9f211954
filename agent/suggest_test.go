package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestNothingSuggestsARestart: a restart of the unit stops the application, which stays down while
// the pointer is away; `up` does the same work beside it. No text of the programs may say it, on
// whatever member, and the manual only where it warns (row 86).
func TestNothingSuggestsARestart(t *testing.T) {
	restart := regexp.MustCompile(`(?i)systemctl (restart|stop|try-restart)|restart (the agent|ebs-release)`)
	for words, want := range map[string]bool{"systemctl restart ": true, "then restart the agent": true, "ebs-release-agent up": false} {
		if restart.MatchString(words) != want {
			t.Fatalf("%q: the pattern is wrong", words)
		}
	}
	texts := 0
	for _, root := range []string{".", "../internal", "../publisher"} {
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case e.IsDir() && (path == "../internal/lab" || path == "../internal/test"):
				return fs.SkipDir
			case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
				return nil
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if text, ok := n.(*ast.BasicLit); ok && text.Kind == token.STRING {
					texts++
					if restart.MatchString(text.Value) {
						t.Errorf("%s says %s. Want what stops nothing: ebs-release-agent up", path, text.Value)
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if texts < 1000 {
		t.Fatalf("only %d texts were looked at", texts)
	}
	for _, document := range []string{"../docs/operations.md", "../docs/reference.md", "../docs/install.md", "../README.md"} {
		manual, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(manual)) {
			if regexp.MustCompile(`(?i)systemctl restart ebs-release-agent|restart (the agent|ebs-release-agent)`).MatchString(line) && !strings.Contains(line, "Do not `systemctl restart") {
				t.Errorf("%s suggests a restart: %s", document, line)
			}
		}
	}
}
