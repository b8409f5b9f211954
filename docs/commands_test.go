package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

var (
	inProse = regexp.MustCompile("`(?:sudo )?(ebs-release(?:-agent)?) ([^`]+)`")
	inBlock = regexp.MustCompile(`(?m)^(?:sudo )?(ebs-release(?:-agent)?) (.+)$`)
	isVerb  = regexp.MustCompile(`^[a-z]+(-[a-z]+)?$`)
	isFlag  = regexp.MustCompile(`--[a-z]+(-[a-z]+)*`)
)

// TestEveryCommandInTheDocumentsIsReal: whoever copies a command out of a document finds its verb
// and its flags in the program's help.
func TestEveryCommandInTheDocumentsIsReal(t *testing.T) {
	programs := build(t)
	help := map[string]string{}
	seen := map[string]int{}
	check := func(document, program, command string) {
		t.Helper()
		command, _, _ = strings.Cut(command, " #")
		var verb []string
		for _, word := range strings.Fields(command) {
			if !isVerb.MatchString(word) {
				break
			}
			verb = append(verb, word)
		}
		if len(verb) == 0 {
			return
		}
		if verb[0] == "help" {
			verb = verb[1:]
		}
		name := program + " " + strings.Join(verb, " ")
		seen[program]++
		if help[name] == "" {
			out, err := exec.Command(programs[program], append(verb, "--help")...).CombinedOutput()
			if err != nil {
				t.Errorf("%s: %s: %v\n%s", document, name, err, out)
			}
			help[name] = string(out)
		}
		if !strings.Contains(help[name], "\n  "+name) {
			t.Errorf("%s: there is no %q", document, name)
			return
		}
		for _, flag := range isFlag.FindAllString(command, -1) {
			if !regexp.MustCompile(regexp.QuoteMeta(flag) + `[ \n]`).MatchString(help[name]) {
				t.Errorf("%s: %q has no flag %s", document, name, flag)
			}
		}
	}
	for _, document := range []string{
		"../README.md", "reference.md", "install.md", "compare.md", "operations.md", "architecture.md", "performance.md",
		"../CONTRIBUTING.md", "../CHANGELOG.md", "../packaging/README.md", "../packaging/terraform/README.md", "../packaging/packer/README.md",
	} {
		data, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		text := string(data)
		for _, m := range append(inProse.FindAllStringSubmatch(text, -1), inBlock.FindAllStringSubmatch(text, -1)...) {
			check(document, m[1], m[2])
		}
		// The tables of verbs: | `init` | … | below | `ebs-release` | |.
		_, tables, _ := strings.Cut(text, "## The verbs\n")
		tables, _, _ = strings.Cut(tables, "\n## ")
		program := ""
		for line := range strings.Lines(tables) {
			cells := strings.Split(line, " | ")
			if m := regexp.MustCompile("^\\| `(ebs-release(?:-agent)?)` \\| \\|").FindStringSubmatch(line); m != nil {
				program = m[1]
			} else if strings.HasPrefix(line, "| `") && len(cells) > 1 {
				for _, verb := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[0], -1) {
					flags := ""
					if !strings.Contains(cells[0], "`, `") { // which of several verbs has the flag, the text says
						flags = strings.Join(isFlag.FindAllString(strings.Join(cells[1:], " "), -1), " ")
					}
					check(document, program, verb[1]+" "+flags)
				}
			}
		}
	}
	if seen["ebs-release"] < 30 || seen["ebs-release-agent"] < 10 {
		t.Errorf("only these commands were found: %v", seen)
	}
}

func build(t *testing.T) map[string]string {
	t.Helper()
	programs := map[string]string{}
	for name, directory := range map[string]string{"ebs-release": "../publisher", "ebs-release-agent": "../agent"} {
		programs[name] = filepath.Join(t.TempDir(), name)
		if out, err := exec.Command("go", "build", "-buildvcs=false", "-ldflags=-s -w", "-o", programs[name], directory).CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", name, err, out)
		}
	}
	return programs
}

// TestEverySettingIsInTheReference: what `config show` lists is in the table, with its variable.
func TestEverySettingIsInTheReference(t *testing.T) {
	reference, err := os.ReadFile("reference.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, program := range build(t) {
		out, err := exec.Command(program, "config", "show").Output()
		if err != nil {
			t.Fatalf("%s config show: %v", name, err)
		}
		settings := 0
		for line := range strings.Lines(string(out)) {
			key, _, _ := strings.Cut(line, " ")
			settings++
			row := "| `" + key + "`, `EBS_RELEASE_" + strings.ToUpper(strings.ReplaceAll(key, "-", "_")) + "` |"
			if !strings.Contains(string(reference), row) {
				t.Errorf("%s has the setting %s; there is no row %s", name, key, row)
			}
		}
		if settings < 8 {
			t.Errorf("%s shows %d settings:\n%s", name, settings, out)
		}
	}
}

// TestHelpFitsATerminal: no line of any verb's help is wider than a terminal as it opens.
func TestHelpFitsATerminal(t *testing.T) {
	listed := regexp.MustCompile(`(?m)^  ([a-z-]+) +[A-Z]`)
	for name, program := range build(t) {
		verbs := 0
		var look func(verb []string)
		look = func(verb []string) {
			verbs++
			out, err := exec.Command(program, append(verb, "--help")...).Output()
			if err != nil {
				t.Fatalf("%s %q --help: %v", name, verb, err)
			}
			for line := range strings.Lines(string(out)) {
				if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 80 {
					t.Errorf("%s %s --help has a line of %d columns, want at most 80: %s", name, strings.Join(verb, " "), n, line)
				}
			}
			_, commands, _ := strings.Cut(string(out), "\nAvailable Commands:\n")
			commands, _, _ = strings.Cut(commands, "\n\n")
			for _, m := range listed.FindAllStringSubmatch(commands, -1) {
				if m[1] != "completion" && m[1] != "help" { // cobra's own
					look(append(slices.Clone(verb), m[1]))
				}
			}
		}
		look(nil)
		if verbs < 10 {
			t.Errorf("%s lists %d verbs", name, verbs)
		}
	}
}
