package demo

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func do(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tree makes a tree of 200 small files.
func tree(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for i := range 200 {
		path := filepath.Join(root, fmt.Sprintf("dir%d/file%d.go", i%7, i))
		do(t, os.MkdirAll(filepath.Dir(path), 0o755))
		do(t, os.WriteFile(path, []byte(fmt.Sprintf("file %d\n", i)), 0o644))
	}
	do(t, os.Symlink("dir0", filepath.Join(root, "link")))
	return root
}

func copyOf(t *testing.T, root string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	do(t, exec.CommandContext(t.Context(), "cp", "-a", root, to).Run())
	return to
}

func differences(t *testing.T, one, two string) []string {
	t.Helper()
	_, found, err := compareTrees(t.Context(), one, two)
	do(t, err)
	return found
}

func TestEqualTreesDoNotDiffer(t *testing.T) {
	root := tree(t)
	if found := differences(t, root, copyOf(t, root)); len(found) > 0 {
		t.Errorf("%q", found)
	}
}

func TestCompareNamesEveryKindOfDifference(t *testing.T) {
	for want, change := range map[string]func(root string) error{
		"dir0/file0.go has another content":        func(root string) error { return sameSizeAndTime(root + "/dir0/file0.go") },
		"dir1/file1.go is missing":                 func(root string) error { return os.Remove(root + "/dir1/file1.go") },
		"new is too many":                          func(root string) error { return os.WriteFile(root+"/new", nil, 0o644) },
		"dir2/file2.go has another mode (-rwxr-xr": func(root string) error { return os.Chmod(root+"/dir2/file2.go", 0o755) },
		"dir3 has another mode (drwx------":        func(root string) error { return os.Chmod(root+"/dir3", 0o700) },
		"link has another link target": func(root string) error {
			return firstOf(os.Remove(root+"/link"), os.Symlink("dir1", root+"/link"))
		},
		"link has another type": func(root string) error { return firstOf(os.Remove(root+"/link"), os.Mkdir(root+"/link", 0o755)) },
		"dir4/file4.go has another content": func(root string) error {
			return appendTo(root+"/dir4/file4.go", "more")
		},
	} {
		root := tree(t)
		changed := copyOf(t, root)
		do(t, change(changed))
		if found := differences(t, root, changed); len(found) != 1 || !strings.HasPrefix(found[0], want) {
			t.Errorf("found %q, want %q", found, want)
		}
	}
}

func TestReleaseTwoDiffersInEveryWay(t *testing.T) {
	root := tree(t)
	two := copyOf(t, root)
	do(t, editTree(two))
	found := differences(t, root, two)
	for _, kind := range []string{"missing", "too many", "another content", "another mode"} {
		if !slices.ContainsFunc(found, func(f string) bool { return strings.Contains(f, kind) }) {
			t.Errorf("release two differs in nothing that is called %q: %q", kind, found)
		}
	}
	quiet := 0 // files that rsync -a would take for the same
	for _, f := range found {
		path, changed := strings.CutSuffix(f, " has another content")
		if !changed {
			continue
		}
		a, errA := os.Stat(filepath.Join(root, path))
		b, errB := os.Stat(filepath.Join(two, path))
		do(t, errA)
		do(t, errB)
		if a.Size() == b.Size() && a.ModTime().Equal(b.ModTime()) {
			quiet++
		}
	}
	if quiet != 1 {
		t.Errorf("%d files changed within their size and mtime, want 1", quiet)
	}
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
