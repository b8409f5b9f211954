package output

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

// prints100MB is a child that says two lines, 100 MB, and two lines.
func prints100MB() *exec.Cmd {
	return exec.Command("/bin/sh", "-c", "echo the first; echo wanted line; yes $(printf %01000d) | head -c 100000000; echo; echo wanted line; printf 'the last'; exit 3")
}

// allocated is how many bytes a function allocates, by all goroutines.
func allocated(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestAChildThatPrints100MBDoesNotGrowUs(t *testing.T) {
	var said Ends
	lines, found := 0, 0
	passed := &Lines{Each: func(line string) {
		lines++
		if line == "wanted line" {
			found++
		}
	}}
	run := func(to io.Writer) {
		cmd := prints100MB()
		cmd.Stdout = to
		if err := cmd.Run(); cmd.ProcessState.ExitCode() != 3 {
			t.Error(err)
		}
	}
	if took := allocated(func() { run(&said) }); took > 1<<20 {
		t.Errorf("%d bytes were allocated", took)
	}
	run(passed) // each line is a string of its own, and garbage at once
	passed.End()
	if size := cap(passed.line); size > 2*lineBytes {
		t.Errorf("%d bytes of a line are kept", size)
	}
	text := said.String()
	if !strings.HasPrefix(text, "the first\n") || !strings.HasSuffix(text, "\nwanted line\nthe last") || !strings.Contains(text, "\n…\n") || len(text) > 2*endBytes+10 || !said.Cut() {
		t.Errorf("%d bytes are said: %.100q … %.100q", len(text), text, text[max(0, len(text)-100):])
	}
	if words := said.Words(100); !strings.HasSuffix(words, " wanted line the last") || !strings.HasPrefix(words, "…0") || len(words) > 104 {
		t.Errorf("%q", words)
	}
	if lines < 99000 || found != 2 {
		t.Errorf("%d lines, %d of them wanted", lines, found)
	}
}

// TestEndsLoseNothingThatFits writes in pieces of every size.
func TestEndsLoseNothingThatFits(t *testing.T) {
	for _, size := range []int{0, 1, endBytes - 1, endBytes, endBytes + 1, 2 * endBytes, 2*endBytes + 1, 5 * endBytes} {
		text := strings.Repeat("0123456789abcde", size/15+1)[:size]
		for _, piece := range []int{1, 7, 4096, endBytes + 3, 3 * endBytes} {
			var e Ends
			for rest := text; rest != ""; {
				n, err := e.Write([]byte(rest[:min(piece, len(rest))]))
				if err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			want := text
			if size > 2*endBytes {
				want = text[:endBytes] + "\n…\n" + text[size-endBytes:]
			}
			if e.String() != want || e.Cut() != (size > 2*endBytes) {
				t.Errorf("%d bytes in pieces of %d: %d bytes are kept", size, piece, len(e.String()))
			}
		}
	}
}

func TestLinesAreCut(t *testing.T) {
	var got []string
	l := &Lines{Each: func(line string) { got = append(got, line) }}
	for _, piece := range []string{"a", "b\n\nc\n", strings.Repeat("x", 3*lineBytes), strings.Repeat("x", lineBytes), "\nend"} {
		if n, err := l.Write([]byte(piece)); n != len(piece) || err != nil {
			t.Fatal(n, err)
		}
	}
	l.End()
	if want := []string{"ab", "c", strings.Repeat("x", lineBytes), "end"}; strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%d lines: %.100q", len(got), got)
	}
}

// TestNoChildsOutputIsKeptWithoutBound: each place that a child of the programs writes to is one of
// this package, a pipe, a file, or nothing (row 92).
func TestNoChildsOutputIsKeptWithoutBound(t *testing.T) {
	unbounded := regexp.MustCompile(`(bytes\.(Buffer|NewBuffer)|strings\.Builder)`)
	starts := 0
	for _, root := range []string{"../../agent", "../../publisher", ".."} {
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case e.IsDir() && (path == "../lab" || path == "../test"):
				return fs.SkipDir
			case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
				return nil
			}
			source, err := os.ReadFile(path)
			if err != nil || !bytes.Contains(source, []byte(`"os/exec"`)) {
				return err
			}
			set := token.NewFileSet()
			file, err := parser.ParseFile(set, path, source, 0)
			if err != nil {
				return err
			}
			bad := func(n ast.Node, why string) {
				t.Errorf("%s: %s. Want output.Ends or output.Lines", set.Position(n.Pos()), why)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.CallExpr:
					if f, ok := n.Fun.(*ast.SelectorExpr); ok && len(n.Args) == 0 && (f.Sel.Name == "Output" || f.Sel.Name == "CombinedOutput") {
						bad(n, f.Sel.Name+" keeps all that the child says")
					}
				case *ast.AssignStmt:
					for i, to := range n.Lhs {
						to, ok := to.(*ast.SelectorExpr)
						if !ok || to.Sel.Name != "Stdout" && to.Sel.Name != "Stderr" || len(n.Lhs) != len(n.Rhs) {
							continue
						}
						starts++
						from := n.Rhs[i]
						if and, ok := from.(*ast.UnaryExpr); ok {
							from = and.X
						}
						if field, ok := from.(*ast.SelectorExpr); ok {
							from = field.Sel
						}
						// By its declaration in the same file: `var x T`, `x := &T{}`, a field.
						if name, ok := from.(*ast.Ident); ok {
							for _, line := range regexp.MustCompile(`(?m)^.*\b`+name.Name+`\b.*$`).FindAllString(string(source), -1) {
								if unbounded.MatchString(line) {
									bad(n, strings.TrimSpace(line))
								}
							}
						}
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
	if starts < 12 {
		t.Fatalf("only %d outputs were looked at", starts)
	}
}
