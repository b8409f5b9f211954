package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

// TestNoMergeIsHalfDone: git's marks of a conflict break a program, but no document.
func TestNoMergeIsHalfDone(t *testing.T) {
	mark := regexp.MustCompile(`(?m)^(<{7}|>{7}) `)
	texts := []string{".go", ".json", ".md", ".service", ".socket", ".target", ".tf", ".timer", ".toml", ".yaml"}
	looked := 0
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !slices.Contains(texts, filepath.Ext(path)) {
			return err
		}
		text, err := os.ReadFile(path)
		if at := mark.FindIndex(text); at != nil {
			t.Errorf("%s has the mark of a conflict at byte %d", path, at[0])
		}
		looked++
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if looked < 300 {
		t.Fatalf("only %d files were looked at", looked)
	}
}
