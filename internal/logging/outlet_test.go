package logging

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
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
		w := NewPatientWriter(reader)
		began := time.Now()
		for i := range outletRoom + 500 {
			fmt.Fprintf(w, "line %d\n", i)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("it waited for %v", took)
		}
		w.Flush()
		if took := time.Since(began); took != Grace {
			t.Errorf("the end took %v, want %v", took, Grace)
		}
		close(reader.on)
		w.Flush()
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
	w := NewPatientWriter(&out)
	defer close(w.queue)
	want := ""
	for i := range 500 {
		line := fmt.Sprintf("line %d\n", i)
		want += line
		io.WriteString(w, line)
	}
	w.Flush()
	if out.String() != want {
		t.Errorf("%q", out.String())
	}
}
