package packaging_test

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// TestDefaultConfigurationNamesEverySetting: the files that the packages install have a line for
// each setting of the program, which the program accepts.
func TestDefaultConfigurationNamesEverySetting(t *testing.T) {
	for program, name := range map[string]string{"agent": "etc/agent.toml", "publisher": "etc/publisher.toml"} {
		t.Run(program, func(t *testing.T) {
			dir := t.TempDir()
			binary, all := filepath.Join(dir, "program"), filepath.Join(dir, "all.toml")
			run(t, "go", "build", "-buildvcs=false", "-o", binary, "../"+program)
			shipped := read(t, name)
			write(t, all, regexp.MustCompile(`(?m)^#([a-z])`).ReplaceAllString(shipped, "$1"))
			for _, file := range []string{name, all} {
				var shown struct {
					Settings []struct{ Key, Source string }
				}
				cmd := exec.Command(binary, "config", "show", "--output", "json", "--config", file)
				cmd.Env = []string{"PATH=/usr/bin"} // no EBS_RELEASE_…
				out, err := cmd.Output()
				if err != nil {
					t.Fatalf("%s config show --config %s: %v", program, file, err)
				}
				if err := json.Unmarshal(out, &shown); err != nil {
					t.Fatal(err)
				}
				if len(shown.Settings) == 0 {
					t.Fatalf("config show printed no settings: %s", out)
				}
				for _, s := range shown.Settings {
					if file == all && s.Source != "file "+all {
						t.Errorf("%s has no line for %s", name, s.Key)
					}
				}
			}
		})
	}
}
