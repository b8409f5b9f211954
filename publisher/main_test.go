package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"ebs-release/internal/config"
	"ebs-release/internal/exit"
	"ebs-release/internal/freeze"
	"ebs-release/internal/pointer"
	"ebs-release/internal/test/scratch"
)

// The test binary plays the program: started with one of its verbs, it is the program.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && slices.Contains([]string{freezeGuardVerb, "serve"}, os.Args[1]) {
		main()
	}
	os.Exit(m.Run())
}

// call runs the program inside this process.
func call(t *testing.T, env map[string]string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, talk bytes.Buffer
	none := filepath.Join(t.TempDir(), "none.toml")
	if env["EBS_RELEASE_POINTER_STORE"] == "" {
		args = append(args, "--pointer-store", t.TempDir())
	}
	if !strings.Contains(strings.Join(args, " "), "--config") {
		if err := os.WriteFile(none, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", none)
	}
	code = run(t.Context(), nil, args, &out, &talk, func(k string) string { return env[k] })
	return code, out.String(), talk.String()
}

func TestUsageErrorsEndWith2AndOneLine(t *testing.T) {
	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"unknown verb", []string{"publsh"}, `unknown command "publsh"`},
		{"unknown flag", []string{"status", "--fast"}, "unknown flag: --fast. Try: ebs-release status --help"},
		{"missing argument", []string{"publish"}, "publish wants one SOURCE, the directory to release, and got 0. Try: ebs-release publish --help"},
		{"bad format", []string{"status", "--output", "xml"}, "--output is"},
		{"no group", []string{"publish", "/x"}, "groups is not set"},
		{"bad duration", []string{"status", "--groups", "web", "--settle", "soon"}, "setting settle"},
		{"no such store", []string{"status", "--groups", "web", "--pointer-store", "/does/not/exist"}, "pointer store"},
		{"no such configuration", []string{"status", "--config", "/does/not/exist"}, "/does/not/exist"},
		{"bad file system", []string{"init", "--file-system", "btrfs"}, "want ext4 or xfs"},
		{"bad volume", []string{"init", "--volume", "sdf"}, "want a volume id"},
		{"unknown owner", []string{"init", "--owner", "nobody-here"}, "nobody-here"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			env := map[string]string{}
			if strings.Contains(strings.Join(tc.args, " "), "--pointer-store") {
				env["EBS_RELEASE_POINTER_STORE"] = "/overridden"
			}
			code, stdout, stderr := call(t, env, tc.args...)
			if code != exit.Usage || !strings.Contains(stderr, tc.want) || strings.Count(stderr, "\n") != 1 || stdout != "" {
				t.Errorf("code %d, stdout %q, stderr %q; want 2 and %q", code, stdout, stderr, tc.want)
			}
		})
	}
}

func TestConfigShowSaysWhereValuesComeFrom(t *testing.T) {
	file := filepath.Join(t.TempDir(), "publisher.toml")
	if err := os.WriteFile(file, []byte("groups = ['web', 'api']\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"EBS_RELEASE_POINTER_STORE": "/srv", "EBS_RELEASE_SSH_USER": "deploy"}
	code, stdout, stderr := call(t, env, "config", "show", "--config", file, "--settle", "7s", "--output", "json")
	if code != 0 {
		t.Fatal(stderr)
	}
	var report struct {
		Schema   int
		Settings []struct{ Key, Value, Source string }
	}
	if err := json.Unmarshal([]byte(stdout), &report); err != nil || report.Schema != 1 {
		t.Fatalf("%v: %s", err, stdout)
	}
	got := map[string]string{}
	for _, s := range report.Settings {
		got[s.Key] = s.Value + " from " + s.Source
	}
	for key, want := range map[string]string{
		"groups":        "web,api from file " + file,
		"pointer-store": "/srv from environment EBS_RELEASE_POINTER_STORE",
		"ssh-user":      "deploy from environment EBS_RELEASE_SSH_USER",
		"settle":        "7s from flag --settle",
		"mount-point":   "/release from default",
	} {
		if got[key] != want {
			t.Errorf("%s: %q, want %q", key, got[key], want)
		}
	}
	if code, stdout, _ = call(t, env, "config", "show", "--config", file); code != 0 || !strings.Contains(stdout, "mount-point") {
		t.Errorf("code %d, %s", code, stdout)
	}
}

// TestCompletion asks as the scripts of the shells do.
func TestCompletion(t *testing.T) {
	store := t.TempDir()
	directory, err := pointer.NewFolder(store)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []pointer.Entry{{Verb: "publish", Committed: true, Generation: 1, Message: "one"}, {Verb: "publish"}, {Verb: "publish", Committed: true, Generation: 3, Message: "three"}} {
		if err := directory.Record(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		words []string
		want  string
	}{
		{[]string{"roll"}, "rollback\t"},
		{[]string{"status", "--output", ""}, "text\njson\nndjson\n:4\n"},
		{[]string{"init", "--file-system", ""}, "ext4\nxfs\n:4\n"},
		{[]string{"publish", ""}, ":16\n"},                            // directories
		{[]string{"status", ""}, ":4\n"},                              // no files
		{[]string{"status", "--config", ""}, ":0\n"},                  // files
		{[]string{"rollback", "--to", ""}, "3\tthree\n1\tone\n:36\n"}, // no files, in this order
	} {
		var out, talk bytes.Buffer
		env := func(k string) string { return map[string]string{"EBS_RELEASE_POINTER_STORE": store}[k] }
		if code := run(t.Context(), nil, append([]string{"__complete"}, tc.words...), &out, &talk, env); code != 0 || !strings.HasPrefix(out.String(), tc.want) {
			t.Errorf("%q: exit %d, %q, want %q", tc.words, code, out.String(), tc.want)
		}
	}
}

func TestParallelIsASettingOrFromTheCPUs(t *testing.T) {
	values := func(n string) config.Values { return config.Values{{Key: "parallel", Value: n}} }
	if got := parallel(values("7")); got != 7 {
		t.Errorf("%d", got)
	}
	if got := parallel(values("0")); got != min(64, 16*runtime.NumCPU()) {
		t.Errorf("%d with %d CPUs", got, runtime.NumCPU())
	}
}

func TestVersion(t *testing.T) {
	if code, stdout, _ := call(t, nil, "version"); code != 0 || !strings.HasPrefix(stdout, "ebs-release version unknown (go1.") {
		t.Errorf("code %d, %q", code, stdout)
	}
	code, stdout, _ := call(t, nil, "version", "--output", "json")
	var v struct {
		Schema  int
		Version string
	}
	if err := json.Unmarshal([]byte(stdout), &v); code != 0 || err != nil || v.Schema != 1 || v.Version != "unknown" {
		t.Errorf("code %d, %q, %v", code, stdout, err)
	}
}

func TestVersionFlagSaysWhatTheVerbSays(t *testing.T) {
	_, verb, _ := call(t, nil, "version")
	if code, flag, _ := call(t, nil, "--version"); code != 0 || flag != verb || flag == "" {
		t.Errorf("code %d, %q, the verb says %q", code, flag, verb)
	}
}

// A program that reads stdout gets an answer, however early the end came.
func TestEarlyFailuresAreJSONToo(t *testing.T) {
	type answer struct {
		Schema, ExitCode int
		Error, Result    string
		Kind             string
		Outcome          *struct{ Result, Error string }
	}
	for _, tc := range []struct {
		args   string
		code   int
		result string
		error  string
	}{
		{"publish /x --output json", exit.Usage, "failed", "groups is not set"},
		{"publish --output json", exit.Usage, "failed", "wants one SOURCE"},
		{"converge --output json", exit.Usage, "failed", "groups is not set"},
		{"rollback --output ndjson", exit.Usage, "failed", "groups is not set"},
		{"status --output json", exit.Usage, "", "groups is not set"},
		{"config show --output json --settle soon", exit.Usage, "", "settle"},
		{"publish /x --no-such-flag --output json", exit.Usage, "failed", "unknown flag"},
		{"no-such-verb --output=json", exit.Usage, "", "unknown command"},
		{"config show --output json --keep many", exit.Usage, "", "keep"},
	} {
		code, stdout, stderr := call(t, nil, strings.Fields(tc.args)...)
		var got answer
		dec := json.NewDecoder(strings.NewReader(stdout))
		if err := dec.Decode(&got); err != nil || dec.More() {
			t.Errorf("%s: %v in %q", tc.args, err, stdout)
			continue
		}
		if got.Outcome != nil {
			got.Result, got.Error = got.Outcome.Result, got.Outcome.Error
		}
		if code != tc.code || got.Schema != 1 || got.Result != tc.result || !strings.Contains(got.Error, tc.error) || !strings.Contains(stderr, tc.error) {
			t.Errorf("%s: exit %d, %+v, stderr %q", tc.args, code, got, stderr)
		}
	}
	if _, stdout, _ := call(t, nil, "status"); stdout != "" {
		t.Errorf("text for people goes to stderr: %q", stdout)
	}
}

func TestFreezeGuardVerbHoldsAFreeze(t *testing.T) {
	point := filepath.Join(t.TempDir(), "release")
	if err := os.Mkdir(point, 0o755); err != nil {
		t.Fatal(err)
	}
	scratch.Mount(t, scratch.Disk(t, 16<<20, "mkfs.ext4", "-q"), point, "ext4", 0, "")
	hold, err := holder(point, nil).Freeze(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := freeze.Freeze(point); err == nil {
		t.Error("it was not frozen")
	}
	if err := hold.Release(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(point, "x"), nil, 0o600); err != nil {
		t.Error(err)
	}
}

func TestInterruptEndsWith130(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	t.Setenv("AWS_REGION", "eu-central-1")
	var out, talk bytes.Buffer
	code := run(ctx, nil, []string{"publish", t.TempDir(), "--groups", "web", "--pointer-store", t.TempDir()}, &out, &talk, func(string) string { return "" })
	if code != exit.Interrupted {
		t.Errorf("code %d, %s", code, talk.String())
	}
}
