// Package docs holds documents, and the tests that keep their words those of the code.
package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestREADMEIsShort: a newcomer reads all of it. Tables and details have documents of their own.
func TestREADMEIsShort(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if words := len(strings.Fields(string(text))); words > 1200 {
		t.Errorf("README has %d words, at most 1200 are wanted", words)
	}
}

// TestEveryErrorLineInTheReferenceIsOneOfTheCode: whoever searches for a line that a program
// printed must find it.
func TestEveryErrorLineInTheReferenceIsOneOfTheCode(t *testing.T) {
	explainsWhatIsSaid(t, "reference.md", "## When it says …", 10)
}

// explainsWhatIsSaid holds the first column of a table of error lines, of least rows or more,
// against what the programs say.
func explainsWhatIsSaid(t *testing.T, document, heading string, least int) {
	t.Helper()
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), heading)
	section, _, _ = strings.Cut(section, "\n## ")
	lines := regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(section, -1)
	if !found || len(lines) < least {
		t.Fatalf("the table of error lines in %s has %d rows", document, len(lines))
	}
	said := messages(t)
	for _, line := range lines {
		if !said.have(line[1]) {
			t.Errorf("%s explains %q, which no program says", document, line[1])
		}
	}
}

// TestFiguresAreMeasured: every time and size in compare.md is in performance.md.
func TestFiguresAreMeasured(t *testing.T) {
	compare, err := os.ReadFile("compare.md")
	if err != nil {
		t.Fatal(err)
	}
	measured, err := os.ReadFile("performance.md")
	if err != nil {
		t.Fatal(err)
	}
	figures := regexp.MustCompile(`[0-9][0-9.,]* (ms|s|KiB|MiB)\b`).FindAllString(string(compare), -1)
	if len(figures) < 20 {
		t.Fatalf("compare.md names the figures %q", figures)
	}
	for _, figure := range figures {
		if !regexp.MustCompile(`(^|[^0-9.,])` + regexp.QuoteMeta(figure) + `\b`).Match(measured) {
			t.Errorf("compare.md says %s, which performance.md does not have", figure)
		}
	}
}

// message is a string literal of a program.
type message struct{ path, text string }

type literals []message

// have says whether one of them has a text in it.
func (l literals) have(text string) bool {
	return slices.ContainsFunc(l, func(m message) bool { return strings.Contains(m.text, text) })
}

// messages are all string literals of the two programs and what they are made of, the lab and the
// tests left out.
func messages(t *testing.T) (all literals) {
	t.Helper()
	for _, dir := range []string{"../agent", "../publisher", "../internal"} {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case entry.IsDir() && (path == filepath.Join("..", "internal", "lab") || path == filepath.Join("..", "internal", "test")):
				return filepath.SkipDir
			case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
				return nil
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
					if s, err := strconv.Unquote(lit.Value); err == nil {
						all = append(all, message{path, s})
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
	return all
}
