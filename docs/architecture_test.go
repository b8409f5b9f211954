package docs

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

const module = "ebs-release/"

// pkg is what go list says of a package.
type pkg struct {
	ImportPath, Doc string
	GoFiles         []string
	Imports         []string
}

func packages(t *testing.T) (all []pkg) {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Doc,GoFiles,Imports", "./...")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// TestTheMapIsComplete: whoever looks for a line of code finds its room in the map, and what the
// room is for in the first sentence of its documentation.
func TestTheMapIsComplete(t *testing.T) {
	text, err := os.ReadFile("architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rooms, found := strings.Cut(string(text), "## A map of packages")
	rooms, _, _ = strings.Cut(rooms, "\n## ")
	if !found {
		t.Fatal("there is no map")
	}
	for _, p := range packages(t) {
		name := path.Base(p.ImportPath)
		if !strings.Contains(rooms, name+"/") && !strings.Contains(rooms, "cmd/"+name) && name != "mkfs" {
			t.Errorf("%s is not on the map", p.ImportPath)
		}
		if len(p.GoFiles) > 0 && p.Doc == "" {
			t.Errorf("%s does not say what it is for", p.ImportPath)
		}
	}
}

func below(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// TestDependenciesGoOneWay holds the paragraph below the map.
func TestDependenciesGoOneWay(t *testing.T) {
	trunk := []string{"agent", "publisher", "internal/boot", "internal/boot/checks", "internal/boot/tree", "internal/boot/source", "internal/boot/disks", "internal/boot/account", "internal/boot/plan", "internal/boot/up", "internal/publish", "internal/publish/checks", "internal/publish/sweep", "internal/server"}
	parts := map[string][]string{ // of a boot and of a publish, which know its types and its kinds of errors
		"internal/boot/tree": {"internal/boot"}, "internal/boot/source": {"internal/boot", "internal/boot/tree"},
		"internal/boot/disks":    {"internal/boot", "internal/boot/tree", "internal/boot/source"},
		"internal/boot/account":  {"internal/boot", "internal/boot/tree"},
		"internal/boot/plan":     {"internal/boot", "internal/boot/tree", "internal/boot/disks", "internal/boot/account"},
		"internal/boot/up":       {"internal/boot"},
		"internal/publish/sweep": {"internal/publish"}, "internal/publish/checks": {"internal/publish", "internal/server"},
	}
	may := map[string][]string{
		"internal/health": {"internal/fleet", "internal/volume"}, "internal/template": {"internal/volume"},
		"internal/launch": {"internal/volume"}, "internal/fleet": {"internal/volume", "internal/report"}, "internal/report": {"internal/volume", "internal/store"}, "internal/snapshot": {"internal/volume", "internal/freeze"}, "internal/push": {"internal/release", "internal/push/wire", "internal/gc", "internal/pointer"}, "internal/release": {"internal/gc"},
		"internal/catchup":   {"internal/release", "internal/pack", "internal/pointer", "internal/store", "internal/gc"},
		"internal/push/wire": {"internal/release", "internal/pointer"}, "internal/receive": {"internal/release", "internal/push/wire", "internal/hook", "internal/gc", "internal/activation", "internal/catchup", "internal/pointer", "internal/store"},
		"internal/follow":          {"internal/catchup", "internal/release", "internal/pointer", "internal/store", "internal/gc", "internal/status"},
		"internal/warm":            {"internal/catchup", "internal/release", "internal/status"},
		"internal/activation":      {"internal/release", "internal/hook"},
		"internal/filesystem/mkfs": {"internal/filesystem"}, "internal/pointer": {"internal/store"}, "internal/cli": {"internal/config", "internal/freeze", "internal/status"},
	}
	for _, p := range packages(t) {
		from := strings.TrimPrefix(p.ImportPath, module)
		if below(from, "internal/lab") || below(from, "internal/test") || below(from, "packaging") || from == "docs" {
			continue
		}
		for _, i := range p.Imports {
			to, ours := strings.CutPrefix(i, module)
			switch {
			case !ours, to == "internal/advice":
			case from == "internal/boot":
				t.Errorf("the boot sentence has types of its own, and imports %s", to)
			case to == "internal/exit", to == "internal/flock", to == "internal/generation", to == "internal/manifest", to == "internal/output", to == "internal/process", to == "internal/trouble", to == "internal/words":
			case below(to, "internal/lab"), below(to, "internal/test"):
				t.Errorf("%s knows the lab or its tests", from)
			case slices.Contains(parts[from], to):
			case slices.Contains(trunk[2:], to) && !slices.Contains(trunk[:2], from):
				t.Errorf("%s imports %s", from, to)
			case slices.Contains(trunk, from), slices.Contains(may[from], to):
			default:
				t.Errorf("the leaf %s imports the leaf %s", from, to)
			}
		}
	}
}

// TestOnePlace: what is easy to get a little wrong is written once.
func TestOnePlace(t *testing.T) {
	owners := map[string]string{ // of what must not be written elsewhere
		"ErrorCode()":  "internal/volume", // what EC2's codes mean, and who says so: codes.go
		"unix.Flock(":  "internal/flock",
		"/proc/locks":  "internal/flock",
		"fdinfo":       "internal/flock",
		`"/proc/[`:     "internal/process", // a look at all processes
		`"/proc")`:     "internal/process",
		`"mountinfo")`: "internal/process",
		`. Try: `:      "internal/advice", // how it is written, and read again
		`"Try: `:       "internal/advice",
	}
	for _, p := range packages(t) {
		dir := strings.TrimPrefix(p.ImportPath, module)
		outside := below(dir, "internal/lab") || below(dir, "internal/test")
		for _, name := range p.GoFiles {
			text, err := os.ReadFile(path.Join("..", dir, name))
			if err != nil {
				t.Fatal(err)
			}
			for what, owner := range owners {
				if outside && owner != "internal/advice" {
					continue
				}
				if dir != owner && strings.Contains(string(text), what) && dir+"/"+name != "internal/store/s3errors.go" { // S3 has codes of its own
					t.Errorf("%s/%s has %s itself: ask %s", dir, name, what, owner)
				}
			}
		}
	}
}

// TestCommentsAreNarrow: a comment on lines of its own has at most 100 columns. What a tool reads
// is no comment, and what has no space cannot be broken.
func TestCommentsAreNarrow(t *testing.T) {
	const most = 100
	seen := 0
	err := filepath.WalkDir("..", func(name string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(name, ".go") {
			return err
		}
		text, err := os.ReadFile(name)
		output := false // of an example, which is compared
		for n, line := range strings.Split(string(text), "\n") {
			said, comment := strings.CutPrefix(strings.TrimLeft(line, "\t"), "//")
			output = comment && (output || strings.HasPrefix(said, " Output:"))
			if !comment || output || !strings.HasPrefix(said, " ") || strings.Count(said, " ") == 1 {
				continue
			}
			seen++
			if columns := utf8.RuneCountInString(line); columns > most {
				t.Errorf("%s:%d has a comment of %d columns, want at most %d", name, n+1, columns, most)
			}
		}
		return err
	})
	if err != nil || seen < 1000 {
		t.Errorf("%d lines, %v", seen, err)
	}
}

// TestFilesAreShort: what does not fit into 400 lines is two ideas.
func TestFilesAreShort(t *testing.T) {
	const most = 400
	seen := 0
	err := filepath.WalkDir("..", func(name string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return err
		}
		text, err := os.ReadFile(name)
		if n := strings.Count(string(text), "\n"); n > most {
			t.Errorf("%s has %d lines, want at most %d", name, n, most)
		}
		seen++
		return err
	})
	if err != nil || seen < 100 {
		t.Errorf("%d files, %v", seen, err)
	}
}
