package serve

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const patience = 20 * time.Second // for what has to happen, on a busy machine

// dial connects with a bounded receive buffer, so that the server sees what this client takes. (One
// below the 64 KiB of a loopback's packets makes a connection very slow.)
func (s *served) dial(t *testing.T) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	must(t, conn.(*net.TCPConn).SetReadBuffer(128<<10))
	must(t, conn.SetDeadline(time.Now().Add(patience)))
	return conn.(*net.TCPConn)
}

// request sends text and returns the connection, from which nothing has been read.
func (s *served) request(t *testing.T, text string) *net.TCPConn {
	t.Helper()
	conn := s.dial(t)
	_, err := io.WriteString(conn, text)
	must(t, err)
	return conn
}

func get(key string) string { return "GET /" + key + " HTTP/1.1\r\nHost: server\r\n\r\n" }

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after %s: not %s", patience, what)
		}
	}
}

// closed reads to the end of a connection that the server has to close. It returns what came.
func closed(t *testing.T, conn net.Conn) string {
	t.Helper()
	text, err := io.ReadAll(conn)
	if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
		t.Fatalf("the server left it open, after %q", text)
	}
	return string(text)
}

func small(l *limits) { l.sendBuffer, l.partBytes = 64<<10, 128<<10 }

func TestASlowReaderIsNotCutOff(t *testing.T) {
	const part = 500 * time.Millisecond
	s := start(t, func(l *limits) { small(l); l.part = part })
	whole := bytes.Repeat([]byte("0123456789abcdef"), 8<<20/16)
	put(t, s.dir, packKey, whole)
	began := time.Now()
	conn := s.request(t, get(packKey))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	must(t, err)
	var got []byte
	for tick := time.NewTicker(50 * time.Millisecond); err == nil; <-tick.C { // its pace: 20 times what is asked of it
		piece := make([]byte, 256<<10)
		var n int
		n, err = io.ReadFull(resp.Body, piece)
		got = append(got, piece[:n]...)
	}
	if took := time.Since(began); !bytes.Equal(got, whole) || took < 2*part {
		t.Errorf("%d bytes of %d in %s, which has to be longer than %s: %v", len(got), len(whole), took, 2*part, err)
	}
}

func TestAClientThatStandsStillIsCutOff(t *testing.T) {
	s := start(t, func(l *limits) { small(l); l.part = 200 * time.Millisecond })
	put(t, s.dir, packKey, make([]byte, 32<<20))
	for _, header := range []string{"", "Range: bytes=0-20000000\r\n", "Range: bytes=0-20000000,20000002-30000000\r\n"} {
		conn := s.request(t, strings.Replace(get(packKey), "\r\n\r\n", "\r\n"+header+"\r\n", 1))
		eventually(t, "being answered", func() bool { return len(s.packs) == 1 })
		eventually(t, "cut off", func() bool { return len(s.packs) == 0 })
		if n := len(closed(t, conn)); n > 2<<20 {
			t.Errorf("%q: it was sent %d bytes without taking any", header, n)
		}
	}
}

func TestSlowClientsDoNotHoldOthers(t *testing.T) {
	const packs = 3
	s := start(t, func(l *limits) { small(l); l.packs, l.stop = packs, 100*time.Millisecond })
	put(t, s.dir, packKey, make([]byte, 32<<20))
	var slow []net.Conn
	for range packs {
		slow = append(slow, s.request(t, get(packKey)))
	}
	eventually(t, "all of them answered", func() bool { return len(s.packs) == packs })
	for range 50 {
		if got := s.ask(t, "GET", "/release.json"); got.status != 200 {
			t.Fatalf("a document: %+v", got)
		}
		if got := s.ask(t, "GET", "/"+packKey); got.status != 503 || got.header.Get("Retry-After") != tryAgain || got.header.Get("Cache-Control") != "no-store" {
			t.Fatalf("one pack too many: %+v", got)
		}
	}
	slow[0].Close()
	eventually(t, "a pack for the next one", func() bool { return s.ask(t, "HEAD", "/"+packKey).status == 200 })
	must(t, s.stopped())
	if said := strings.Count(s.log.String(), "\n"); said > usual().lines+2 || !strings.Contains(s.log.String(), "lines were left out") {
		t.Errorf("%d lines:\n%s", said, s.log)
	}
}

// Slowloris: connections that never come to a request. They go before anybody else has to wait.
func TestWhoOnlyHoldsConnectionsLosesThem(t *testing.T) {
	const most = 8
	s := start(t, func(l *limits) { l.connections, l.header, l.idle = most, time.Hour, time.Hour })
	var held []net.Conn
	for n := range 5 * most {
		text := []string{"", "G", "GET /release.json HTTP/1.1\r\nX-A: ", get("snap.txt")}[n%4] // the last one is idle after it
		conn := s.request(t, text)
		if n%4 == 3 {
			if got := readAnswer(t, bufio.NewReader(conn), "GET"); got.status != 200 {
				t.Fatalf("%+v", got)
			}
		}
		held = append(held, conn)
		if got := s.ask(t, "GET", "/release.json"); got.status != 200 {
			t.Fatalf("beside %d of them: %+v", n, got)
		}
	}
	for _, conn := range held[:4*most] {
		closed(t, conn)
	}
}

// Where all connections have a request that is being answered, none of these goes.
func TestAnswersAreNotGivenUpForNewConnections(t *testing.T) {
	const most = 3
	s := start(t, func(l *limits) { small(l); l.connections = most })
	whole := make([]byte, 8<<20)
	put(t, s.dir, packKey, whole)
	var busy []*net.TCPConn
	for range most {
		busy = append(busy, s.request(t, get(packKey)))
	}
	eventually(t, "all answered", func() bool { return len(s.packs) == most })
	for range most {
		if got := closed(t, s.dial(t)); got != "" {
			t.Errorf("one too many got %q", got)
		}
	}
	for _, conn := range busy {
		got := readAnswer(t, bufio.NewReader(conn), "GET")
		if got.err != nil || len(got.body) != len(whole) {
			t.Errorf("%d bytes, %v", len(got.body), got.err)
		}
	}
	if got := s.ask(t, "GET", "/release.json"); got.status != 200 {
		t.Errorf("after them: %+v", got)
	}
}

func TestHeadersAreBounded(t *testing.T) {
	const header, idle = 300 * time.Millisecond, 400 * time.Millisecond
	s := start(t, func(l *limits) { l.header, l.idle = header, idle })
	for what, text := range map[string]string{"nothing": "", "half a line": "GET /rel", "half a header": "GET /release.json HTTP/1.1\r\nHost: server\r\n"} {
		if got := closed(t, s.request(t, text)); strings.Contains(got, "200") {
			t.Errorf("%s got %q", what, got)
		}
	}
	// The second request of a connection has the same bound, and so has waiting for it.
	for _, text := range []string{"", "GET /rel"} {
		if got := closed(t, s.request(t, get("snap.txt")+text)); strings.Count(got, "HTTP/1.1 200") != 1 {
			t.Errorf("before %q: %q", text, got)
		}
	}
	long := "GET /release.json HTTP/1.1\r\nHost: server\r\nX-A: " + strings.Repeat("a", 16<<10) + "\r\n\r\n"
	if got := closed(t, s.request(t, long)); !strings.HasPrefix(got, "HTTP/1.1 431") {
		t.Errorf("a long header: %q", got)
	}
}

// A body that never ends must not hold a connection: net/http reads what a handler leaves of it.
func TestBodiesAreNotWaitedFor(t *testing.T) {
	s := start(t, func(l *limits) { l.header = 300 * time.Millisecond })
	for text, status := range map[string]string{
		"POST /release.json HTTP/1.1\r\nHost: s\r\nContent-Length: 1000\r\n\r\nabc":                      "405",
		"GET /release.json HTTP/1.1\r\nHost: s\r\nContent-Length: 1000\r\n\r\nabc":                       "400",
		"GET /release.json HTTP/1.1\r\nHost: s\r\nContent-Length: 100000000000\r\n\r\nabc":               "400",
		"GET /release.json HTTP/1.1\r\nHost: s\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc":            "400",
		"PUT /x HTTP/1.1\r\nHost: s\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n":                "405",
		"GET /release.json HTTP/1.1\r\nHost: s\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n\r\n":    "400",
		"GET /x HTTP/1.1\r\nHost: s\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": "400",
	} {
		got := closed(t, s.request(t, text))
		if !strings.HasPrefix(got, "HTTP/1.1 "+status) || strings.Count(got, "HTTP/1.1") != 1 {
			t.Errorf("%q: %q", text, got)
		}
	}
}

func TestAnswersUnderWayEndBeforeTheServer(t *testing.T) {
	s := start(t, func(l *limits) { small(l); l.stop = time.Hour })
	whole := make([]byte, 8<<20)
	put(t, s.dir, packKey, whole)
	idle := s.request(t, get("snap.txt"))
	if got := readAnswer(t, bufio.NewReader(idle), "GET"); got.body != "snap-1\n" {
		t.Fatalf("%+v", got)
	}
	conn := s.request(t, get(packKey))
	eventually(t, "being answered", func() bool { return len(s.packs) == 1 })
	s.stop()
	eventually(t, "closed for new ones", func() bool {
		next, err := net.Dial("tcp", s.addr)
		if err == nil {
			next.Close()
		}
		return err != nil
	})
	closed(t, idle)
	select {
	case err := <-s.ended:
		t.Fatalf("it ended before its answer: %v", err)
	default:
	}
	if got := readAnswer(t, bufio.NewReader(conn), "GET"); got.err != nil || len(got.body) != len(whole) {
		t.Errorf("%d bytes of %d, %v", len(got.body), len(whole), got.err)
	}
	if err := s.stopped(); err != nil {
		t.Errorf("Serve() = %v", err)
	}
}

func TestAStopHasABound(t *testing.T) {
	s := start(t, func(l *limits) { small(l); l.stop = 200 * time.Millisecond })
	put(t, s.dir, packKey, make([]byte, 32<<20))
	s.request(t, get(packKey))
	eventually(t, "being answered", func() bool { return len(s.packs) == 1 })
	began := time.Now()
	if err := s.stopped(); err != nil || time.Since(began) > patience {
		t.Errorf("Serve() = %v after %s", err, time.Since(began))
	}
	if want := "are cut off, 1 of them"; !strings.Contains(s.log.String(), want) {
		t.Errorf("the log does not say %q:\n%s", want, s.log)
	}
}

func TestAListenerThatFailsEndsIt(t *testing.T) {
	s := limited(t.TempDir(), io.Discard, usual())
	good, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	bad, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	must(t, bad.Close())
	if err := s.Serve(t.Context(), []net.Listener{good, bad}); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("Serve() = %v", err)
	}
	if _, err := net.Dial("tcp", good.Addr().String()); err == nil {
		t.Error("the other one still listens")
	}
}

// What cannot be read is said in the log, and to nobody else.
func TestAFaultIsLogged(t *testing.T) {
	s := start(t, nil)
	must(t, os.Remove(filepath.Join(s.dir, "snap.txt")))
	must(t, os.Remove(filepath.Join(s.dir, filepath.FromSlash(packKey))))
	must(t, os.Remove(filepath.Join(s.dir, "packs")))
	must(t, os.WriteFile(filepath.Join(s.dir, "packs"), nil, 0o600))
	for range 100 {
		s.ask(t, "GET", "/"+packKey+"?token=secret", "Authorization: secret", "Cookie: secret")
	}
	must(t, s.stopped())
	text := s.log.String()
	if !strings.Contains(text, "not a directory. Try: ") || strings.Contains(text, "secret") || strings.Count(text, "\n") > usual().lines+2 {
		t.Errorf("the log:\n%s", text)
	}
}

// stuck is a log that nobody reads.
type stuck struct{ until chan struct{} }

func (s stuck) Write(p []byte) (int, error) { <-s.until; return len(p), nil }

func TestLinesHoldNobody(t *testing.T) {
	w := stuck{make(chan struct{})}
	defer close(w.until)
	l := newLines(w, 3)
	end := l.start()
	var wg sync.WaitGroup
	for n := range 100 {
		wg.Go(func() { l.say("line %d", n) })
	}
	wg.Wait()
	end()
}

func TestLinesAreCounted(t *testing.T) {
	var out syncBuffer
	l := newLines(&out, 3)
	end := l.start()
	for n := range 10 {
		l.say("line %d", n)
		eventually(t, "taken", func() bool { return len(l.next) == 0 })
	}
	end()
	if got := out.String(); got != "line 0\nline 1\nline 2\n7 more lines were left out\n" {
		t.Errorf("%q", got)
	}
}

func TestLinesOfOthersAreLines(t *testing.T) {
	var out syncBuffer
	l := newLines(&out, 3)
	fmt.Fprintf(l, "http: panic\nits \x1b[31mstack\n%s", strings.Repeat("x", 1<<20))
	l.start()()
	got := out.String()
	if strings.Count(got, "\n") != 1 || strings.Contains(got, "\x1b") || len(got) > 2*longestLine || !strings.HasPrefix(got, "http: panic; its ") {
		t.Errorf("%.500q", got)
	}
}
