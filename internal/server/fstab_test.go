package server

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestPersistAddsOneLineOnce(t *testing.T) {
	fstab := filepath.Join(t.TempDir(), "fstab")
	const before = "# /etc/fstab\nUUID=1234 / ext4 defaults 0 1" // no newline at its end
	if err := os.WriteFile(fstab, []byte(before), 0o640); err != nil {
		t.Fatal(err)
	}
	for n, want := range []bool{true, false} {
		changed, err := persist(fstab, "ab-cd", "/release", "ext4")
		if err != nil || changed != want {
			t.Fatalf("call %d: %v, %v", n, changed, err)
		}
	}
	data, err := os.ReadFile(fstab)
	if err != nil {
		t.Fatal(err)
	}
	want := before + "\nUUID=ab-cd /release ext4 nosuid,nodev,noatime,nofail,x-systemd.device-timeout=60s 0 2\n"
	if string(data) != want {
		t.Errorf("%q, want %q", data, want)
	}
	if info, _ := os.Stat(fstab); info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v", info.Mode())
	}
	if out, err := exec.Command("findmnt", "--verify", "--tab-file", fstab).CombinedOutput(); !strings.Contains(string(out), "0 parse errors") {
		t.Errorf("findmnt: %v: %s", err, out)
	}
}

func TestPersistKeepsWhatAPersonChanged(t *testing.T) {
	fstab := filepath.Join(t.TempDir(), "fstab")
	if err := os.WriteFile(fstab, []byte("UUID=ab-cd\t/release\text4\tdefaults 0 0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if changed, err := persist(fstab, "ab-cd", "/release", "ext4"); err != nil || changed {
		t.Errorf("%v, %v", changed, err)
	}
	if _, err := persist(fstab, "other", "/release", "ext4"); err == nil || !strings.Contains(err.Error(), "line 1 mounts UUID=ab-cd") {
		t.Errorf("%v", err)
	}
}

func TestPersistWithoutAnFstab(t *testing.T) {
	fstab := filepath.Join(t.TempDir(), "fstab")
	if changed, err := persist(fstab, "u", "/my release", "xfs"); err != nil || !changed {
		t.Fatalf("%v, %v", changed, err)
	}
	data, _ := os.ReadFile(fstab)
	if !strings.HasPrefix(string(data), `UUID=u /my\040release xfs `) || !strings.HasSuffix(string(data), " 0 0\n") {
		t.Errorf("%q", data)
	}
}
