package vm

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"ebs-release/internal/lab/netns"
)

// newSwitch makes a bridge in a network namespace of its own, which lives as long as the file.
func newSwitch(t *testing.T) Switch {
	t.Helper()
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	s := Switch{Namespace: ns, Bridge: "switch", Gateway: netip.MustParsePrefix("10.44.0.1/16")}
	t.Cleanup(func() { ns.Close() })
	for _, arguments := range [][]string{
		{"link", "set", "lo", "up"},
		{"link", "add", s.Bridge, "type", "bridge"},
		{"addr", "add", s.Gateway.String(), "dev", s.Bridge},
		{"link", "set", s.Bridge, "up"},
	} {
		if err := s.ip(t.Context(), arguments...); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// newKey makes a key pair and returns the private key's path and the public key.
func newKey(t *testing.T, dir string) (string, string) {
	t.Helper()
	path := filepath.Join(dir, "key")
	if out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	public, err := os.ReadFile(path + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return path, string(public)
}

// goldenImage is the golden disk; the first test on a machine waits for its making.
func goldenImage(t *testing.T) *Image {
	t.Helper()
	image, err := Golden(within(t, 30*time.Minute), slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// newVolume is a blank volume of 64 MiB, opened.
func newVolume(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), name))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(64 << 20); err != nil {
		t.Fatal(err)
	}
	return f
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// showConsole shows what a machine said, when the test has failed.
func showConsole(t *testing.T, m *Machine) {
	if !t.Failed() {
		return
	}
	for _, file := range []string{m.ConsoleFile(), m.MarksFile()} {
		text, err := os.ReadFile(file)
		t.Logf("%s (%v):\n%s", file, err, escapes.ReplaceAll(text, nil))
	}
}
