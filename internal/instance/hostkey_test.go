package instance_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ebs-release/internal/instance"
)

func TestHostKeyIsTheFirstThatFitsIntoATag(t *testing.T) {
	write := func(t *testing.T, dir, kind, text string) {
		if err := os.WriteFile(filepath.Join(dir, "ssh_host_"+kind+"_key.pub"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	if key, err := instance.HostKey(dir); err == nil {
		t.Errorf("without any key: %q", key)
	}
	write(t, dir, "rsa", "ssh-rsa "+strings.Repeat("A", 372)+" root@x\n")
	if _, err := instance.HostKey(dir); err == nil || !strings.Contains(err.Error(), "a tag holds 256") {
		t.Errorf("a long RSA key: %v", err)
	}
	write(t, dir, "ecdsa", "ecdsa-sha2-nistp256 AAAA root@x\n")
	if key, err := instance.HostKey(dir); err != nil || key != "ecdsa-sha2-nistp256 AAAA" {
		t.Errorf("key = %q, %v", key, err)
	}
	write(t, dir, "ed25519", "ssh-ed25519 BBBB root@x\n")
	if key, err := instance.HostKey(dir); err != nil || key != "ssh-ed25519 BBBB" {
		t.Errorf("key = %q, %v", key, err)
	}
}
