package main

import (
	"bytes"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestServeTakesTheSocketThatSystemdPasses(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	socket, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	directory := t.TempDir()
	for _, name := range []string{"release.json", "packs/0-1-2", "history.jsonl"} {
		path := filepath.Join(directory, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("x"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	// LISTEN_PID has to be the server's own: the shell becomes it.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, self, "serve")
	cmd.Env = append(os.Environ(), "LISTEN_FDS=1", "EBS_RELEASE_POINTER_STORE="+directory)
	cmd.ExtraFiles = []*os.File{socket}
	var talk bytes.Buffer
	cmd.Stderr = &talk
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	client := http.Client{Timeout: 5 * time.Second}
	for path, status := range map[string]int{"/release.json": 200, "/packs/0-1-2": 200, "/history.jsonl": 404} {
		resp, err := client.Get("http://" + l.Addr().String() + path)
		if err != nil {
			t.Error(err)
			continue
		}
		resp.Body.Close()
		if resp.StatusCode != status {
			t.Errorf("%s: status %d", path, resp.StatusCode)
		}
	}
	client.CloseIdleConnections()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, talk.String())
	}
	if want := "serving " + directory + " on http://"; !strings.Contains(talk.String(), want) {
		t.Errorf("it said %q, want %q", talk.String(), want)
	}
}
