package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"ebs-release/internal/config"
	"ebs-release/internal/exit"
	"ebs-release/internal/freeze"
	"ebs-release/internal/hook"
	"ebs-release/internal/test/scratch"
	"ebs-release/internal/test/script"

	"github.com/rogpeppe/go-internal/testscript"
)

// The test binary plays the program: started with one of its verbs, it is the program.
func TestMain(m *testing.M) {
	hook.KeepIfAsked()
	if len(os.Args) > 1 && slices.Contains([]string{freezeGuardVerb, "serve"}, os.Args[1]) {
		main()
	}
	testscript.Main(m, map[string]func(){"ebs-release": main})
}

func TestScripts(t *testing.T) { script.Run(t) }

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

func TestParallelIsASettingOrFromTheCPUs(t *testing.T) {
	values := func(n string) config.Values { return config.Values{{Key: "parallel", Value: n}} }
	if got := parallel(values("7")); got != 7 {
		t.Errorf("%d", got)
	}
	if got := parallel(values("0")); got != min(64, 16*runtime.NumCPU()) {
		t.Errorf("%d with %d CPUs", got, runtime.NumCPU())
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
