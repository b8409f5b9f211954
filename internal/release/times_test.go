package release

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func touch(t *testing.T, path string, when time.Time) {
	t.Helper()
	if err := os.Chtimes(path, when, when); err != nil {
		t.Fatal(err)
	}
}

func modified(t *testing.T, path string) time.Time {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.ModTime()
}

// sameTimes compares the times of all files of a release on two volumes.
func sameTimes(t *testing.T, a, b string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(a, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		files++
		other := b + strings.TrimPrefix(path, a)
		if x, y := modified(t, path), modified(t, other); !x.Equal(y) {
			t.Errorf("%s: %s and %s", path, x, y)
		}
		return nil
	})
	if err != nil || files == 0 {
		t.Fatalf("%d files, %v", files, err)
	}
}

// A member that was two releases behind has the same times as one that was pushed each of them.
func TestTimesAreTheSameWhateverAMemberHeld(t *testing.T) {
	server := volume(t)
	dir := source(t, map[string]string{"a": "one", "b": "b", "moved": "moved", "0600 mode": "mode"})
	t0 := time.Date(2020, 1, 2, 3, 4, 5, 678, time.UTC)
	touch(t, dir+"/a", t0)
	one := publish(t, server, dir, 1)
	if got := modified(t, server.Path(one.ID)+"/a"); !got.Equal(t0.Truncate(time.Second)) {
		t.Errorf("%s", got)
	}
	far := volume(t)
	copyTo(t, server, far)

	put(t, dir, "a", "two")
	touch(t, dir+"/a", t0.Add(time.Hour))
	publish(t, server, dir, 2)

	// A fresh checkout: new times throughout, and nothing but one file and a mode is new.
	put(t, dir, "a", "one")
	if err := os.Rename(dir+"/moved", dir+"/elsewhere"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b", "elsewhere", "mode"} {
		touch(t, dir+"/"+name, t0.Add(2*time.Hour))
	}
	three := publish(t, server, dir, 3)
	if three.CopiedFiles != 1 {
		t.Errorf("%d files were copied, want that which changed", three.CopiedFiles)
	}
	if got := modified(t, server.Path(three.ID)+"/a"); !got.Equal(t0.Add(2 * time.Hour).Truncate(time.Second)) {
		t.Errorf("what changed is of %s", got)
	}
	deliver(t, server, far, one, three)
	sameTimes(t, server.Path(three.ID), far.Path(three.ID))

	// A clock that is ahead: no file is from the time to come.
	put(t, dir, "future", "x")
	touch(t, dir+"/future", time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC))
	put(t, dir, "past", "x")
	touch(t, dir+"/past", time.Date(1960, 1, 1, 0, 0, 0, 0, time.UTC))
	four := publish(t, server, dir, 4)
	if got := modified(t, server.Path(four.ID)+"/future"); got.After(time.Now()) {
		t.Errorf("%s", got)
	}
	if got := modified(t, server.Path(four.ID)+"/past"); got.Unix() != 1 {
		t.Errorf("%s", got)
	}
}

// Bytecode that is valid in SOURCE is valid on members: with Python's own compiler.
func TestBytecodeStaysValid(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Fatal("this test needs python3: apt-get install python3")
	}
	compile := func(dir string, more ...string) {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), python, append([]string{"-m", "compileall", "-q", dir}, more...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	// stale lists the sources whose bytecode Python would not take, by its own rule.
	stale := func(dir string) string {
		t.Helper()
		const script = `
import importlib._bootstrap_external as b, importlib.util as u, os, sys
for at, _, names in os.walk(sys.argv[1]):
    for n in names:
        if n.endswith(".py"):
            p = os.path.join(at, n)
            data = open(u.cache_from_source(p), "rb").read()
            flags = b._classify_pyc(data, n, {})
            s = os.stat(p)
            try:
                if not flags: b._validate_timestamp_pyc(data, int(s.st_mtime), s.st_size & 0xFFFFFFFF, n, {})
            except ImportError as e: print(p, e)
`
		out, err := exec.CommandContext(t.Context(), python, "-c", script, dir).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	server := volume(t)
	dir := source(t, map[string]string{"app/__init__.py": "", "app/a.py": "A = 1\n", "app/b.py": "B = 1\n", "c.py": "C = 1\n"})
	compile(dir)
	one := publish(t, server, dir, 1)
	far := volume(t)
	copyTo(t, server, far)

	// The next build: everything is checked out and compiled anew, one file is another.
	put(t, dir, "app/b.py", "B = 2\n")
	for i, name := range []string{"app/__init__.py", "app/a.py", "app/b.py", "c.py"} {
		touch(t, dir+"/"+name, second.Add(-time.Hour+time.Duration(i)*time.Second))
	}
	compile(dir, "-f")
	if text := stale(dir); text != "" {
		t.Fatalf("in SOURCE already: %s", text)
	}
	two := publish(t, server, dir, 2)
	deliver(t, server, far, one, two)
	for _, tree := range []string{server.Path(two.ID), far.Path(two.ID)} {
		if text := stale(tree); text != "" {
			t.Errorf("stale: %s", text)
		}
	}
	sameTimes(t, server.Path(two.ID), far.Path(two.ID))

	// Bytecode that goes by a hash needs no time: the sources stay what they were, inodes and all.
	compile(dir, "-f", "--invalidation-mode", "checked-hash")
	three := publish(t, server, dir, 3)
	touch(t, dir+"/c.py", second.Add(-time.Minute))
	put(t, dir, "new", "new")
	four := publish(t, server, dir, 4)
	if inode(t, server.Path(three.ID)+"/c.py") != inode(t, server.Path(four.ID)+"/c.py") {
		t.Error("a source without a time in its bytecode was copied")
	}
}

func TestHeadsOfBytecode(t *testing.T) {
	head := func(magic uint16, words ...uint32) (h [16]byte) {
		binary.LittleEndian.PutUint16(h[:], magic)
		h[2], h[3] = '\r', '\n'
		for i, w := range words {
			binary.LittleEndian.PutUint32(h[4+4*i:], w)
		}
		return h
	}
	for name, tc := range map[string]struct {
		head [16]byte
		want bool
	}{
		"Python 2.7":            {head(62211, 7), true},
		"Python 2.7, older":     {head(62211, 6), false},
		"Python 3.6":            {head(3379, 7, 9), true},
		"Python 3.12":           {head(3531, 0, 7, 9), true},
		"Python 3.12, older":    {head(3531, 0, 6, 9), false},
		"Python 3.12, shorter":  {head(3531, 0, 7, 8), false},
		"Python 3.12, hash":     {head(3531, 1, 7, 9), false},
		"not bytecode":          {[16]byte{}, false},
		"a text that ends .pyc": {[16]byte([]byte("hello, world ....")[:16]), false},
	} {
		if got := names(tc.head, 7, 9); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
