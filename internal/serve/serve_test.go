package serve

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
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

	"ebs-release/internal/store"

	"golang.org/x/sys/unix"
)

const packKey = "packs/0-6c1f2a-0123456789ab"

// served is a store that a Server gives out on a real socket.
type served struct {
	*Server
	dir, addr string
	log       *syncBuffer
	stop      func()
	ended     chan error
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// put has the store write it, as the publisher does.
func put(t testing.TB, dir, key string, data []byte) {
	t.Helper()
	d, err := store.NewDirectory(dir)
	must(t, err)
	must(t, d.Put(t.Context(), key, bytes.NewReader(data)))
}

func start(t *testing.T, change func(*limits)) *served {
	t.Helper()
	l := usual()
	if change != nil {
		change(&l)
	}
	s := &served{dir: t.TempDir(), log: &syncBuffer{}, ended: make(chan error, 1)}
	put(t, s.dir, "release.json", []byte("{\"schema\":1}\n"))
	put(t, s.dir, "snap.txt", []byte("snap-1\n"))
	put(t, s.dir, packKey, []byte("0123456789"))
	s.Server = limited(s.dir, s.log, l)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s.addr = listener.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	s.stop = cancel
	go func() { s.ended <- s.Serve(ctx, []net.Listener{listener}) }()
	t.Cleanup(func() {
		cancel()
		if err, running := <-s.ended; running && err != nil {
			t.Errorf("Serve() = %v", err)
		}
	})
	return s
}

// stopped waits for the end of Serve.
func (s *served) stopped() error {
	s.stop()
	err := <-s.ended
	close(s.ended)
	return err
}

// answer is what a client got. err: of reading the body.
type answer struct {
	status int
	header http.Header
	body   string
	err    error
}

// ask sends a request whose path net/http's client does not touch.
func (s *served) ask(t *testing.T, method, path string, header ...string) answer {
	t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	_, err = fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: server\r\nConnection: close\r\n%s\r\n", method, path, strings.Join(append(header, ""), "\r\n"))
	must(t, err)
	return readAnswer(t, bufio.NewReader(conn), method)
}

func readAnswer(t *testing.T, r *bufio.Reader, method string) answer {
	t.Helper()
	resp, err := http.ReadResponse(r, &http.Request{Method: method})
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(body), err}
}

func TestNothingButDocumentsAndPacksIsGivenOut(t *testing.T) {
	s := start(t, nil)
	for _, name := range []string{
		"history.jsonl", ".store", ".lock", ".swap", "release.json~", ".release.json123", "other", "reports/7/up", "history/7.json",
		"packs/.0-1-2", "packs/UPPER", "packs/a.tmp", "packs/sub/inner", "packs/" + strings.Repeat("a", 101), "packs/a_b", "outside",
	} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(s.dir, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(s.dir, name), []byte("secret"), 0o644))
	}
	for path, want := range map[string]string{"/release.json": "{\"schema\":1}\n", "/snap.txt": "snap-1\n", "/" + packKey: "0123456789", "/release.json?once=more": "{\"schema\":1}\n"} {
		if got := s.ask(t, "GET", path); got.status != 200 || got.body != want || got.err != nil {
			t.Errorf("GET %s: %+v, want %q", path, got, want)
		}
	}
	outside := filepath.Base(s.dir)
	for _, path := range []string{
		// what lies there
		"/history.jsonl", "/.store", "/.lock", "/.swap", "/release.json~", "/.release.json123", "/other", "/reports/7/up", "/history/7.json",
		"/packs/.0-1-2", "/packs/UPPER", "/packs/a.tmp", "/packs/sub/inner", "/packs/" + strings.Repeat("a", 101), "/packs/a_b",
		// directories
		"/", "/packs", "/packs/", "/packs/sub", "/packs/sub/", "/.", "/..", "/packs/.", "/packs/..",
		// the same by other words
		"//release.json", "/./release.json", "/release.json/", "/packs/../release.json", "/packs/..%2frelease.json", "/packs/%2e%2e/release.json",
		"/release%2ejson", "/packs%2f0-6c1f2a-0123456789ab", "//" + packKey, "/packs//0-6c1f2a-0123456789ab", "/x/../" + packKey, "/RELEASE.JSON", "/release.json%00",
		// ways out
		"/../etc/passwd", "/%2e%2e/etc/passwd", "/%2e%2e%2fetc%2fpasswd", "/..%5cetc", "//etc/passwd", "/packs/../../../../etc/passwd", "/packs/..%2f..%2f..%2fetc%2fpasswd",
		"/packs//etc/passwd", "/packs/%2fetc%2fpasswd", "/packs/%00", "/packs/a%00b", "/packs/../other", "/packs/%2e%2e%2fother", "/packs/..%2fother", "/../" + outside + "/other",
		"/%", "/packs/%zz", "/packs/a%0d%0aX-A:%20b",
	} {
		got := s.ask(t, "GET", path)
		if malformed := got.status == 400 && strings.Contains(path, "%"); got.status != 404 && !malformed {
			t.Errorf("GET %s: %d", path, got.status)
		}
		if strings.Contains(got.body, "secret") || strings.Contains(got.body, "root:") || strings.Contains(got.body, s.dir) || got.header.Get("ETag") != "" {
			t.Errorf("GET %s gave out %+v", path, got)
		}
		if kept := got.header.Get("Cache-Control"); got.status == 404 && kept != "no-store" {
			t.Errorf("GET %s: may be kept: %q", path, kept)
		}
	}
}

// What is not a regular file was not written by the publisher, wherever it leads.
func TestOnlyRegularFilesAreGivenOut(t *testing.T) {
	s := start(t, nil)
	secret := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(secret, []byte("secret"), 0o644))
	must(t, os.WriteFile(filepath.Join(s.dir, "history.jsonl"), []byte("secret"), 0o644))
	for name, to := range map[string]string{"a": secret, "b": "../history.jsonl", "c": "0-6c1f2a-0123456789ab", "d": "/proc/self/environ", "e": "e"} {
		must(t, os.Symlink(to, filepath.Join(s.dir, "packs", name)))
	}
	must(t, os.Mkdir(filepath.Join(s.dir, "packs", "f"), 0o755))
	must(t, unix.Mkfifo(filepath.Join(s.dir, "packs", "g"), 0o644))
	socket, err := net.Listen("unix", filepath.Join(s.dir, "packs", "h"))
	must(t, err)
	defer socket.Close()
	must(t, os.Remove(filepath.Join(s.dir, "snap.txt")))
	must(t, os.Symlink(secret, filepath.Join(s.dir, "snap.txt")))
	for _, path := range []string{"/packs/a", "/packs/b", "/packs/c", "/packs/d", "/packs/e", "/packs/f", "/packs/g", "/packs/h", "/snap.txt"} {
		if got := s.ask(t, "GET", path); got.status != 404 || strings.Contains(got.body, "secret") {
			t.Errorf("GET %s: %+v", path, got)
		}
	}
	must(t, os.Rename(filepath.Join(s.dir, "packs"), filepath.Join(s.dir, "elsewhere")))
	must(t, os.Symlink("elsewhere", filepath.Join(s.dir, "packs")))
	if got := s.ask(t, "GET", "/"+packKey); got.status != 404 {
		t.Errorf("through a link: %+v", got)
	}
	must(t, s.stopped())
	for _, want := range []string{"packs/a is not given out: it is no regular file", "packs/g is not given out: it is no regular file (p", "snap.txt is not given out"} {
		if !strings.Contains(s.log.String(), want) {
			t.Errorf("the log does not say %q:\n%s", want, s.log)
		}
	}
}

func TestOnlyGetAndHead(t *testing.T) {
	s := start(t, nil)
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "get"} {
		for _, path := range []string{"/release.json", "/" + packKey, "/other"} {
			if got := s.ask(t, method, path); got.status != 405 || got.header.Get("Allow") != "GET, HEAD" {
				t.Errorf("%s %s: %+v", method, path, got)
			}
		}
	}
	if got := s.ask(t, "OPTIONS", "*"); got.status != 405 {
		t.Errorf("OPTIONS *: %+v", got)
	}
	for path, size := range map[string]string{"/release.json": "13", "/snap.txt": "7", "/" + packKey: "10"} {
		head, get := s.ask(t, "HEAD", path), s.ask(t, "GET", path)
		if head.status != 200 || head.body != "" || head.header.Get("Content-Length") != size {
			t.Errorf("HEAD %s: %+v", path, head)
		}
		head.header.Del("Date")
		get.header.Del("Date")
		if fmt.Sprint(head.header) != fmt.Sprint(get.header) {
			t.Errorf("%s: HEAD %v, GET %v", path, head.header, get.header)
		}
	}
}

func TestDocumentsHaveTheStoresVersion(t *testing.T) {
	s := start(t, nil)
	for _, key := range []string{"release.json", "snap.txt"} {
		d, err := store.NewDirectory(s.dir)
		must(t, err)
		_, version, err := store.ReadAll(t.Context(), d, key, 1<<10, "")
		must(t, err)
		tag := `"` + string(version) + `"`
		if got := s.ask(t, "GET", "/"+key); got.header.Get("ETag") != tag || got.header.Get("Cache-Control") != "no-store" || got.header.Get("Last-Modified") != "" {
			t.Errorf("%s: %v, want the ETag %s", key, got.header, tag)
		}
		for header, status := range map[string]int{
			"If-None-Match: " + tag: 304, `If-None-Match: "x", ` + tag: 304, "If-None-Match: *": 304,
			`If-None-Match: "x"`: 200, "If-None-Match: " + string(version): 200, "If-Modified-Since: Fri, 27 Nov 2099 00:00:00 GMT": 200,
		} {
			got := s.ask(t, "GET", "/"+key, header)
			if got.status != status || (got.body == "") != (status == 304) || got.header.Get("ETag") != tag {
				t.Errorf("%s with %s: %+v", key, header, got)
			}
		}
		put(t, s.dir, key, []byte("other"))
		if got := s.ask(t, "GET", "/"+key, "If-None-Match: "+tag); got.status != 200 || got.body != "other" {
			t.Errorf("%s after a change: %+v", key, got)
		}
		must(t, os.Remove(filepath.Join(s.dir, key)))
		if got := s.ask(t, "GET", "/"+key, "If-None-Match: "+tag); got.status != 404 || got.body != "nothing has been published yet\n" {
			t.Errorf("%s is gone: %+v", key, got)
		}
	}
}

func TestPacksAreKeptAndReadByRanges(t *testing.T) {
	s := start(t, nil)
	whole := s.ask(t, "GET", "/"+packKey)
	tag := whole.header.Get("ETag")
	if whole.header.Get("Accept-Ranges") != "bytes" || !strings.Contains(whole.header.Get("Cache-Control"), "immutable") || !strings.HasPrefix(tag, `"`) ||
		whole.header.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("%v", whole.header)
	}
	for header, want := range map[string]answer{
		"Range: bytes=4-":                             {status: 206, body: "456789"},
		"Range: bytes=2-3":                            {status: 206, body: "23"},
		"Range: bytes=-1":                             {status: 206, body: "9"},
		"Range: bytes=4-\r\nIf-Range: " + tag:         {status: 206, body: "456789"},
		"Range: bytes=4-\r\nIf-Range: \"an-old-one\"": {status: 200, body: "0123456789"},
		"Range: bytes=10-":                            {status: 416},
		"If-None-Match: " + tag:                       {status: 304},
	} {
		got := s.ask(t, "GET", "/"+packKey, header)
		if got.status != want.status || want.body != "" && got.body != want.body {
			t.Errorf("%q: %+v, want %+v", header, got, want)
		}
		if got.status == 416 && strings.Contains(got.header.Get("Cache-Control"), "immutable") {
			t.Errorf("%q: an error is kept for good", header)
		}
	}
	if got := s.ask(t, "GET", "/packs/0-1-2"); got.status != 404 || !strings.Contains(got.body, "no such pack") || got.header.Get("Cache-Control") != "no-store" {
		t.Errorf("one that is not there: %+v", got)
	}
}

// A reader of the old file gets the old bytes to the end, whatever has the name by then.
func TestAFileThatIsReplacedIsReadWhole(t *testing.T) {
	s := start(t, nil)
	old := bytes.Repeat([]byte("old pack "), 4<<20)
	put(t, s.dir, packKey, old)
	resp, err := http.Get("http://" + s.addr + "/" + packKey)
	must(t, err)
	defer resp.Body.Close()
	first := make([]byte, 1000)
	_, err = io.ReadFull(resp.Body, first)
	must(t, err)
	put(t, s.dir, packKey, bytes.Repeat([]byte("new"), 100))
	rest, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(append(first, rest...), old) {
		t.Errorf("%d bytes of %d, %v", len(first)+len(rest), len(old), err)
	}

	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			default:
				put(t, s.dir, "release.json", bytes.Repeat(fmt.Appendf(nil, "%d,", n), 3000))
			}
		}
	})
	for range 500 {
		got := s.ask(t, "GET", "/release.json")
		if tag := fmt.Sprintf(`"%x"`, sha256.Sum256([]byte(got.body))); got.status != 200 || got.err != nil || got.header.Get("ETag") != tag {
			t.Fatalf("%d, %d bytes, %v: ETag %s of a body with %s", got.status, len(got.body), got.err, got.header.Get("ETag"), tag)
		}
	}
	close(done)
	wg.Wait()
}

// A store that was moved away and restored has the same name, and is another directory.
func TestARestoredStoreIsServed(t *testing.T) {
	s := start(t, nil)
	must(t, os.Rename(s.dir, s.dir+".old"))
	t.Cleanup(func() { os.RemoveAll(s.dir + ".old") })
	if got := s.ask(t, "GET", "/release.json"); got.status != 500 || strings.Contains(got.body, s.dir) {
		t.Errorf("without its directory: %+v", got)
	}
	put(t, filepath.Dir(s.dir), filepath.Base(s.dir)+"/release.json", []byte("restored"))
	if got := s.ask(t, "GET", "/release.json"); got.status != 200 || got.body != "restored" {
		t.Errorf("%+v", got)
	}
}

func TestTooLargeADocumentIsRefused(t *testing.T) {
	s := start(t, nil)
	put(t, s.dir, "release.json", make([]byte, mostDocument+1))
	if got := s.ask(t, "GET", "/release.json"); got.status != 500 || strings.Contains(got.body, s.dir) {
		t.Errorf("%d %q", got.status, got.body)
	}
	must(t, s.stopped())
	if !strings.Contains(s.log.String(), "want at most 1048576") {
		t.Errorf("the log: %s", s.log)
	}
}
