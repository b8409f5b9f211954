package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ebs-release/internal/exit"
	"ebs-release/internal/status"

	"golang.org/x/sys/unix"
)

// TestJournalGetsAllAndTheConsoleTheFailureAlone: stderr is a stream of the journal, as in the
// unit, which sends it to the console, too. The test runs itself again in a mount namespace where
// /run is its own: the journal's socket has a fixed name.
func TestJournalGetsAllAndTheConsoleTheFailureAlone(t *testing.T) {
	const inside = "EBS_RELEASE_TEST_INSIDE"
	if os.Getenv(inside) == "" {
		cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-ec", `mount -t tmpfs none /run; exec "$0" -test.v -test.run "^$1\$"`, os.Args[0], t.Name())
		cmd.Env = append(os.Environ(), inside+"=yes")
		if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS")) {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	entries := listenAsJournal(t)
	stream, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	console := os.NewFile(uintptr(stream[0]), "console")
	defer console.Close()
	var st unix.Stat_t
	if err := unix.Fstat(stream[1], &st); err != nil {
		t.Fatal(err)
	}
	t.Setenv("JOURNAL_STREAM", fmt.Sprintf("%d:%d", st.Dev, st.Ino))
	stderr, err := unix.Dup(2)
	if err != nil {
		t.Fatal(err)
	}
	unix.Dup2(stream[1], 2)
	p := &program{stdin: strings.NewReader(""), stdout: &bytes.Buffer{}, stderr: os.Stderr, getenv: os.Getenv, runDir: status.Dir(filepath.Join(t.TempDir(), "run"))}
	code := p.execute(t.Context(), []string{"up", "--config", "", "--pointer", "http://127.0.0.1:9/x", "--deadline", "2s"})
	unix.Dup2(stderr, 2)
	unix.Close(stream[1])
	unix.Close(stderr)

	buf := make([]byte, 64<<10)
	n, err := console.Read(buf)
	if line := string(buf[:n]); err != nil || code != exit.Failed || strings.Count(line, "\n") != 1 || !strings.HasPrefix(line, "<3>ebs-release-agent: ") || !strings.Contains(line, "Try: ") {
		t.Errorf("exit %d, %v; the console shows %q", code, err, line)
	}
	all := entries()
	for _, want := range [][]string{
		{"MESSAGE=resolve started", "PRIORITY=6", "EBS_RELEASE_STAGE=resolve"},
		{"MESSAGE=pointer not read, trying again", "PRIORITY=4", "EBS_RELEASE_STAGE="},
		{"MESSAGE=resolve failed after ", "PRIORITY=3", "EBS_RELEASE_STAGE=resolve"},
	} {
		if !hasEntry(all, want) {
			t.Errorf("no entry has %q in %q", want, all)
		}
	}
}

// TestJournalIsRecognised: JOURNAL_STREAM alone is no proof, a child that writes to a pipe inherits
// it, too.
func TestJournalIsRecognised(t *testing.T) {
	a := newAgent(t, map[string]string{"JOURNAL_STREAM": "1:2"})
	t.Setenv("JOURNAL_STREAM", "1:2")
	if a.inJournal() {
		t.Error("stderr is no journal stream")
	}
	a.lastLine(errors.New("attach: no\nroom"))
	if got := a.err.String(); got != "ebs-release-agent: attach: no; room\n" {
		t.Errorf("the last line is %q", got)
	}
}

func hasEntry(entries []string, want []string) bool {
	for _, e := range entries {
		found := 0
		for _, w := range want {
			if strings.Contains(e, w) {
				found++
			}
		}
		if found == len(want) {
			return true
		}
	}
	return false
}

// listenAsJournal takes entries until the function that it returns is called.
func listenAsJournal(t *testing.T) (entries func() []string) {
	t.Helper()
	const socket = "/run/systemd/journal/socket"
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	var reading sync.WaitGroup
	reading.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			all = append(all, string(buf[:n]))
		}
	})
	return func() []string {
		conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		reading.Wait()
		conn.Close()
		return all
	}
}
