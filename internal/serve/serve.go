// Package serve gives a directory store out over HTTP: the pointer's two documents and the packs,
// and nothing else that lies there. Its clients are not trusted: each bound on them is in limits.
package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"
)

// limits are the bounds on clients. Tests take smaller ones.
type limits struct {
	header      time.Duration // from the first byte of a connection, or of its next request, to the end of the header
	headerBytes int
	idle        time.Duration // between two requests of a connection: more than the interval of who asks again and again
	part        time.Duration // in which a client has to take the next partBytes of an answer
	partBytes   int64
	stop        time.Duration // for the answers under way, after a stop
	connections int           // at once: one costs about 50 KiB
	packs       int           // given out at once: one may hold a thread while the disk reads
	documents   int           // read from the disk at once, for the same reason; others wait
	sendBuffer  int           // bytes that the kernel keeps for one connection, doubled by it: socket(7), SO_SNDBUF
	lines       int           // of the log, in a minute
}

// usual has room for thousands of followers that keep their connections. packs and documents stay
// below TasksMax= of packaging's unit, connections below its LimitNOFILE= and, times their cost,
// below its MemoryMax=.
func usual() limits {
	return limits{
		header: 5 * time.Second, headerBytes: 8 << 10, idle: time.Minute, part: 30 * time.Second, partBytes: 256 << 10, stop: 10 * time.Second,
		connections: 4096, packs: 256, documents: 32, sendBuffer: 128 << 10, lines: 20,
	}
}

// Server gives out one store.
type Server struct {
	dir       string
	limits    limits
	packs     chan struct{} // holds one for each pack that is given out
	documents chan struct{} // holds one for each document that is read
	log       *lines
}

// New returns a server of the store in dir. Its lines go to w, some in a minute at most, and nobody
// waits for them.
func New(dir string, w io.Writer) *Server { return limited(dir, w, usual()) }

func limited(dir string, w io.Writer, l limits) *Server {
	return &Server{
		dir: dir, limits: l, log: newLines(w, l.lines),
		packs: make(chan struct{}, l.packs), documents: make(chan struct{}, l.documents),
	}
}

// Serve answers on the listeners until ctx ends, which is its normal end: nil. It then takes no
// more requests, and lets answers under way end for some seconds. The listeners are closed.
func (s *Server) Serve(ctx context.Context, listeners []net.Listener) error {
	logged := s.log.start()
	defer logged()
	crowd := newCrowd(s.limits.connections, s.limits.sendBuffer, s.log)
	server := &http.Server{
		Handler:                      s,
		DisableGeneralOptionsHandler: true, // OPTIONS is a method like others: refused
		ReadHeaderTimeout:            s.limits.header,
		WriteTimeout:                 s.limits.part, // of what net/http answers by itself, too
		IdleTimeout:                  s.limits.idle,
		MaxHeaderBytes:               s.limits.headerBytes,
		ConnState:                    crowd.changed,
		ErrorLog:                     log.New(s.log, "", 0),
	}
	ended := make(chan error, len(listeners))
	for _, l := range listeners {
		s.log.say("serving %s on http://%s", s.dir, l.Addr())
		go func() { ended <- server.Serve(l) }()
	}
	var err error
	running := len(listeners)
	select {
	case <-ctx.Done():
	case err = <-ended:
		running--
	}
	err = errors.Join(err, s.shutdown(ctx, server, crowd))
	for range running {
		if other := <-ended; !errors.Is(other, http.ErrServerClosed) {
			err = errors.Join(err, other)
		}
	}
	return err
}

func (s *Server) shutdown(ctx context.Context, server *http.Server, crowd *crowd) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.limits.stop)
	defer cancel()
	err := server.Shutdown(ctx)
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	s.log.say("stopped: answers that had not ended after %s are cut off, %d of them", s.limits.stop, crowd.answering())
	if err := server.Close(); err != nil {
		return fmt.Errorf("close the connections that were left: %w", err)
	}
	return nil
}
