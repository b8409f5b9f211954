package push

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestCheckKeyNamesWhatSSHCannotLoad(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", at("good"))
	run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", at("locked"))
	run(t, "ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "secret", "-f", at("locked PEM"))
	good := read(t, at("good"))
	put(t, dir, "open", good)
	put(t, dir, "text", "-----BEGIN OPENSSH PRIVATE KEY-----\nPRIVATE KEY\n")
	put(t, dir, "half", read(t, at("good.pub")))
	put(t, dir, "empty", "")
	put(t, dir, "cut", good[:len(good)/2])
	put(t, dir, "CRLF", strings.ReplaceAll(good, "\n", "\r\n"))
	for _, name := range []string{"text", "half", "empty", "cut", "CRLF"} {
		if err := os.Chmod(at(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(at("open"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(at("directory"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSH_AUTH_SOCK", "")
	if err := CheckKey(t.Context(), at("good")); err != nil {
		t.Fatal(err)
	}
	for name, words := range map[string]string{
		"open": "bad permissions", "locked": "passphrase", "locked PEM": "passphrase", "gone": "No such file",
		"text": "Load key", "half": "Load key", "empty": "Load key", "cut": "Load key", "directory": "",
	} {
		err := CheckKey(t.Context(), at(name))
		wantKeyError(t, err, nil, at(name), words, "Try: ")
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: more than a line: %q", name, err)
		}
	}
	// Newer versions of ssh load a key with CRLF. What ssh-keygen says is what ssh will do.
	loads := exec.Command("ssh-keygen", "-y", "-P", "", "-f", at("CRLF")).Run() == nil
	if err := CheckKey(t.Context(), at("CRLF")); (err == nil) != loads {
		t.Errorf("CRLF: %v, ssh loads it: %v", err, loads)
	}
}

// The key of an agent has a passphrase as a rule, and with an agent the public half is enough.
func TestCheckKeyBelievesTheAgent(t *testing.T) {
	dir := t.TempDir()
	key, socket := filepath.Join(dir, "key"), filepath.Join(dir, "agent")
	run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
	agent := exec.Command("ssh-agent", "-D", "-a", socket)
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = agent.Process.Kill(); _ = agent.Wait() })
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			_ = conn.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	t.Setenv("SSH_AUTH_SOCK", socket)
	wantKeyError(t, CheckKey(t.Context(), key+".pub"), nil, "cannot load")
	run(t, "ssh-add", "-q", key)
	run(t, "ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", key)
	for _, file := range []string{key, key + ".pub"} {
		if err := CheckKey(t.Context(), file); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func TestCheckKeyEnds(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	wantKeyError(t, CheckKey(ctx, fifo), context.DeadlineExceeded, fifo)
}

func TestCheckKeyWithoutSSHKeygen(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	wantKeyError(t, CheckKey(t.Context(), "/key"), ErrNoKeygen, "not installed")
}

func wantKeyError(t *testing.T, err, kind error, words ...string) {
	t.Helper()
	if err == nil || kind != nil && !errors.Is(err, kind) {
		t.Fatalf("error %v, want %v", err, kind)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q, want %q in it", err, w)
		}
	}
}
