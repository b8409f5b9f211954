package hook_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ebs-release/internal/hook"
)

// A gate that hangs does not go on for a driver that was killed.
func TestACommandDiesWithItsCaller(t *testing.T) {
	const variable = "HOOK_TEST_PID_FILE"
	if file := os.Getenv(variable); file != "" { // the driver
		err := hook.Command{Name: "gate", Line: "echo $$ > " + file + ".new && mv " + file + ".new " + file + " && exec sleep 300", Timeout: time.Hour}.Run(t.Context())
		t.Fatal("it ended:", err)
	}
	file := filepath.Join(t.TempDir(), "pid")
	driver := exec.Command(os.Args[0], "-test.run", "^TestACommandDiesWithItsCaller$")
	driver.Env = append(os.Environ(), variable+"="+file)
	if err := driver.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = driver.Process.Kill(); _ = driver.Wait() })
	pid := 0
	eventually(t, "the gate runs", func() bool {
		data, err := os.ReadFile(file)
		if err != nil {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(data)))
		return err == nil
	})
	if err := driver.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the gate is gone", func() bool {
		data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		return err != nil || strings.Contains(string(data), ") Z ") || syscall.Kill(pid, 0) != nil
	})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not in time: " + what)
		}
	}
}
