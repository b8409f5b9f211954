package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func pointerFolder(t *testing.T) string {
	t.Helper()
	directory := t.TempDir()
	for name, text := range map[string]string{"release.json": "{\"schema\":1}\n", "snap.txt": "snap-1\n", ".lock": "secret", "other.txt": "secret"} {
		if err := os.WriteFile(filepath.Join(directory, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return directory
}

func TestServeGivesOutTheTwoFilesOnly(t *testing.T) {
	directory := pointerFolder(t)
	server := httptest.NewServer(pointerHandler(directory))
	defer server.Close()
	for _, tc := range []struct {
		method, path string
		status       int
		body         string
	}{
		{"GET", "/release.json", 200, "{\"schema\":1}\n"},
		{"GET", "/snap.txt", 200, "snap-1\n"},
		{"HEAD", "/snap.txt", 200, ""},
		{"POST", "/snap.txt", 405, ""},
		{"DELETE", "/release.json", 405, ""},
		{"GET", "/", 404, ""},
		{"GET", "/.lock", 404, ""},
		{"GET", "/other.txt", 404, ""},
		{"GET", "/../etc/passwd", 404, ""},
		{"GET", "/%2e%2e/etc/passwd", 404, ""},
		{"GET", "/release.json/", 404, ""},
	} {
		req, err := http.NewRequest(tc.method, server.URL+tc.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != tc.status || tc.body != "" && string(body) != tc.body || strings.Contains(string(body), "secret") {
			t.Errorf("%s %s: %d %q, want %d %q", tc.method, tc.path, resp.StatusCode, body, tc.status, tc.body)
		}
		if resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s %s: Cache-Control %q", tc.method, tc.path, resp.Header.Get("Cache-Control"))
		}
		if tc.method == "HEAD" && resp.ContentLength != 7 {
			t.Errorf("HEAD: Content-Length %d", resp.ContentLength)
		}
	}
}

func TestServeReadsThePointerAnew(t *testing.T) {
	directory := pointerFolder(t)
	handler := pointerHandler(directory)
	get := func() (int, string) {
		rec := httptest.NewRecorder()
		handler.ServeHTTP(rec, httptest.NewRequest("GET", "/snap.txt", nil))
		return rec.Code, rec.Body.String()
	}
	if err := os.WriteFile(filepath.Join(directory, "snap.txt"), []byte("snap-2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, body := get(); code != 200 || body != "snap-2\n" {
		t.Errorf("%d %q", code, body)
	}
	if err := os.Remove(filepath.Join(directory, "snap.txt")); err != nil {
		t.Fatal(err)
	}
	if code, body := get(); code != 404 || !strings.Contains(body, "nothing has been published") {
		t.Errorf("%d %q", code, body)
	}
}

func TestServeStopsGracefully(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	p := &program{stderr: io.Discard}
	ended := make(chan error, 1)
	go func() { ended <- p.serve(ctx, pointerFolder(t), []net.Listener{l}) }()
	resp, err := http.Get("http://" + l.Addr().String() + "/snap.txt")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	stop()
	if err := <-ended; err != nil {
		t.Errorf("serve() = %v", err)
	}
	if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
		t.Error("it still listens")
	}
}

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
	// LISTEN_PID has to be the server's own: the shell becomes it.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, self, "serve")
	cmd.Env = append(os.Environ(), "LISTEN_FDS=1", "EBS_RELEASE_POINTER_STORE="+pointerFolder(t))
	cmd.ExtraFiles = []*os.File{socket}
	var talk bytes.Buffer
	cmd.Stderr = &talk
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	client := http.Client{Timeout: 5 * time.Second}
	resp, err := client.Get("http://" + l.Addr().String() + "/release.json")
	if err != nil {
		t.Error(err)
	} else {
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("status %d", resp.StatusCode)
		}
	}
	client.CloseIdleConnections()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, talk.String())
	}
}
