package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/config"

	"github.com/spf13/pflag"
)

var table = []config.Setting{
	{Key: "pointer", Env: "EBS_RELEASE_POINTER"},
	{Key: "mount-point", Env: "EBS_RELEASE_MOUNT_POINT", Default: "/release"},
	{Key: "deadline", Env: "EBS_RELEASE_DEADLINE", Default: "4m", Check: config.CheckDuration},
	{Key: "groups", Env: "EBS_RELEASE_GROUPS"},
}

func load(t *testing.T, file string, env map[string]string, args ...string) (config.Values, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.toml")
	if file != "" {
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	config.AddFlags(flags, table)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return config.Load(table, path, flags, func(k string) string { return env[k] })
}

func TestFlagBeatsEnvironmentBeatsFileBeatsDefault(t *testing.T) {
	v, err := load(t, "mount-point = '/from-file'\ndeadline = '3m'\npointer = 'http://file/'\n",
		map[string]string{"EBS_RELEASE_MOUNT_POINT": "/from-env", "EBS_RELEASE_DEADLINE": "2m"}, "--mount-point=/from-flag")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ key, value, source string }{
		{"mount-point", "/from-flag", "flag --mount-point"},
		{"deadline", "2m", "environment EBS_RELEASE_DEADLINE"},
		{"pointer", "http://file/", "file "},
		{"groups", "", "default"},
	} {
		i := 0
		for v[i].Key != tc.key {
			i++
		}
		if v[i].Value != tc.value || !strings.HasPrefix(v[i].Source, tc.source) {
			t.Errorf("%s = %q from %q, want %q from %q…", tc.key, v[i].Value, v[i].Source, tc.value, tc.source)
		}
	}
	if v.Duration("deadline") != 2*time.Minute {
		t.Errorf("deadline = %v", v.Duration("deadline"))
	}
}

func TestListsInFileAndEnvironment(t *testing.T) {
	v, err := load(t, "groups = ['web', 'api']\n", nil)
	if err != nil || strings.Join(v.List("groups"), "+") != "web+api" {
		t.Fatalf("from file: %v, %v", v.List("groups"), err)
	}
	v, err = load(t, "", map[string]string{"EBS_RELEASE_GROUPS": " web, ,api "})
	if err != nil || strings.Join(v.List("groups"), "+") != "web+api" {
		t.Fatalf("from environment: %v, %v", v.List("groups"), err)
	}
}

func TestFileThatAFlagNamesMustBeThere(t *testing.T) {
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	config.AddFlags(flags, table)
	file := flags.String("config", filepath.Join(t.TempDir(), "none.toml"), "")
	env := func(string) string { return "" }
	if _, err := config.Load(table, *file, flags, env); err != nil {
		t.Errorf("the default: %v", err)
	}
	if err := flags.Parse([]string{"--config", *file}); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(table, *file, flags, env); err == nil || !strings.Contains(err.Error(), "--config") || !strings.Contains(err.Error(), "none.toml") {
		t.Errorf("a typo: %v", err)
	}
}

func TestHelpSaysWhatAFlagTakes(t *testing.T) {
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	config.AddFlags(flags, append([]config.Setting{{Key: "keep", Default: "5"}}, table...))
	for key, want := range map[string]string{"deadline": "duration", "keep": "int", "mount-point": "string", "groups": "string"} {
		if got := flags.Lookup(key).Value.Type(); got != want {
			t.Errorf("%s takes %s, want %s", key, got, want)
		}
	}
}

func TestBadConfigurationIsRefusedByName(t *testing.T) {
	for _, tc := range []struct {
		name, file string
		env        map[string]string
		want       string
	}{
		{"unknown key", "mountpoint = '/x'\n", nil, `no setting "mountpoint"`},
		{"not TOML", "= =\n", nil, "agent.toml"},
		{"table instead of a value", "[pointer]\nx = 1\n", nil, "pointer must be"},
		{"bad duration", "", map[string]string{"EBS_RELEASE_DEADLINE": "soon"}, `setting deadline is "soon" (from environment EBS_RELEASE_DEADLINE)`},
		{"negative duration", "deadline = '-1s'\n", nil, "above zero"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := load(t, tc.file, tc.env)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("error = %v, want it to contain %q", err, tc.want)
			}
		})
	}
}

// Editors put these before a text.
func TestByteOrderMarks(t *testing.T) {
	v, err := load(t, "\xef\xbb\xbfpointer = 'http://file/'\n", nil)
	if err != nil || v.Get("pointer") != "http://file/" {
		t.Errorf("%v, %v", v, err)
	}
	for _, file := range []string{"\xff\xfep\x00", "\xfe\xff\x00p"} {
		if _, err := load(t, file, nil); err == nil || !strings.Contains(err.Error(), "UTF-16. Try: save it as UTF-8") {
			t.Errorf("%v", err)
		}
	}
}
