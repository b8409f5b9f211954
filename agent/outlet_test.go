package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ebs-release/internal/boot"
	"ebs-release/internal/status"
)

// stopped is a reader that takes nothing until it goes on.
type stopped struct {
	mu   sync.Mutex
	on   chan struct{}
	text bytes.Buffer
}

func (s *stopped) Write(p []byte) (int, error) {
	<-s.on
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

// Row 88.
func TestAReaderThatHangsHoldsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reader := &stopped{on: make(chan struct{})}
		w := newPatientWriter(reader)
		began := time.Now()
		for i := range outletRoom + 500 {
			fmt.Fprintf(w, "line %d\n", i)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("it waited for %v", took)
		}
		w.flush()
		if took := time.Since(began); took != outletGrace {
			t.Errorf("the end took %v, want %v", took, outletGrace)
		}
		close(reader.on)
		w.flush()
		lines := strings.Split(strings.TrimSpace(reader.text.String()), "\n")
		lost := 0
		for _, l := range lines {
			fmt.Sscanf(l, "ebs-release-agent: %d lines were lost here: nobody took them", &lost)
		}
		if said := len(lines) - 1; lost < 400 || said+lost != outletRoom+500 {
			t.Errorf("%d lines came, and %d are said to be lost", said, lost)
		}
		close(w.queue)
	})
}

func TestAReaderThatReadsGetsAllInOrder(t *testing.T) {
	var out bytes.Buffer
	w := newPatientWriter(&out)
	defer close(w.queue)
	want := ""
	for i := range 500 {
		line := fmt.Sprintf("line %d\n", i)
		want += line
		io.WriteString(w, line)
	}
	w.flush()
	if out.String() != want {
		t.Errorf("%q", out.String())
	}
}

func TestASystemdThatDoesNotReadHoldsNobody(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", socket)
	r := newReporter(status.Dir(t.TempDir()), "/release", nil, &whereabouts{}, nil, slog.New(slog.DiscardHandler))
	began := time.Now()
	for range 2000 { // more than a socket holds: net.unix.max_dgram_qlen
		r.notify("STATUS=attach")
	}
	if !r.unheard || time.Since(began) > 10*notifyPatience {
		t.Errorf("after %v, given up: %t", time.Since(began), r.unheard)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := r.Open(ctx, boot.Facts{}); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "say ready to systemd: nobody reads") {
		t.Errorf("ready: %v", err)
	}
	if err := os.Remove(socket); err != nil {
		t.Fatal(err)
	}
	if err := r.Open(t.Context(), boot.Facts{}); err == nil {
		t.Error("ready was said to nobody")
	}
}
