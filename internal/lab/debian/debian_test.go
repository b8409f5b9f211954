package debian

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// apt lets apt read its settings and its sources from a directory of the test's, as on a machine
// that has a mirror of its own.
func apt(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	files["apt.conf"] = fmt.Sprintf("Dir::Etc::sourcelist %q;\nDir::Etc::sourceparts %q;\n%s", dir+"/sources.list", dir+"/sources.list.d", files["apt.conf"])
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("APT_CONFIG", dir+"/apt.conf")
	return dir
}

// TestTheMachinesOwnSourcesAreUsed: a tree is made from the mirror and through the proxy that this
// machine has, and from no host that somebody wrote into the code.
func TestTheMachinesOwnSourcesAreUsed(t *testing.T) {
	const deb822 = "# ours\nTypes: deb deb-src\nURIs: http://mirror.invalid/debian\nSuites: bookworm\n bookworm-updates\nComponents: main\n\n" +
		"Types: deb\nURIs: http://mirror.invalid/security\nSuites: bookworm-security\nComponents: main\n"
	for name, test := range map[string]struct {
		files map[string]string
		want  []string // of the files
	}{
		"deb822 format":            {map[string]string{"sources.list.d/debian.sources": deb822}, []string{"sources.list.d/debian.sources"}},
		"one-line format":          {map[string]string{"sources.list": "# deb http://a.invalid/ bookworm main\ndeb [trusted=yes arch=amd64] http://mirror.invalid/debian bookworm main contrib\n"}, []string{"sources.list"}},
		"others' sources are left": {map[string]string{"sources.list": "deb http://mirror.invalid/debian bookworm main\n", "sources.list.d/node.sources": "Types: deb\nURIs: http://b.invalid\nSuites: nodistro\nComponents: main\n", "sources.list.d/docker.list": "deb http://c.invalid bookworm stable\n"}, []string{"sources.list"}},
		"what is switched off":     {map[string]string{"sources.list": "deb http://mirror.invalid/debian bookworm main\n", "sources.list.d/off.sources": "Enabled: no\n" + strings.TrimPrefix(deb822, "# ours\n")}, []string{"sources.list"}},
		"the release by its role":  {map[string]string{"sources.list": "deb http://mirror.invalid/debian oldstable main\n"}, []string{"sources.list"}},
	} {
		t.Run(name, func(t *testing.T) {
			test.files["apt.conf"] = "Acquire::http::Proxy \"http://proxy.invalid:3142\";\n"
			if name == "what is switched off" { // its second stanza is on
				test.files["sources.list.d/off.sources"], _, _ = strings.Cut(test.files["sources.list.d/off.sources"], "\n\n")
			}
			dir := apt(t, test.files)
			line, err := Bootstrap(t.Context(), "bookworm", "/tree", "--variant=minbase")
			if err != nil {
				t.Fatal(err)
			}
			at := slices.Index(line, "bookworm")
			if line[0] != "mmdebstrap" || at < 0 || line[at+1] != "/tree" || !slices.Contains(line[:at], "--variant=minbase") {
				t.Fatalf("the command is %q", line)
			}
			var got []string
			for _, file := range line[at+2:] {
				got = append(got, strings.TrimPrefix(file, dir+"/"))
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("the sources are %q, want %q", got, test.want)
			}
			if !slices.Contains(line[:at], `--aptopt=Acquire::http::Proxy "http://proxy.invalid:3142";`) {
				t.Errorf("the proxy is not used: %q", line)
			}
		})
	}
	apt(t, map[string]string{})
	if _, err := Bootstrap(t.Context(), "bookworm", "/tree"); err == nil || !strings.Contains(err.Error(), "apt has no source") {
		t.Errorf("without a source: %v", err)
	}
	if suite, err := Suite(); err != nil || suite == "" {
		t.Errorf("the suite of this machine is %q, %v", suite, err)
	}
}
