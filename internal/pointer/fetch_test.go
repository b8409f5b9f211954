package pointer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ebs-release/internal/store"
)

// fetch reads from a server with the given handler until it succeeds or the deadline is over.
func fetch(t *testing.T, deadline time.Duration, handler http.HandlerFunc) (Pointer, error) {
	t.Helper()
	server := httptest.NewServer(handler)
	defer server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	f, err := NewFetcher(server.URL+"/release.json", nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	got, err := f.Fetch(ctx)
	return got.Pointer, err
}

func TestFetchReadsThePointerPastCaches(t *testing.T) {
	p, err := fetch(t, 10*time.Second, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Cache-Control") != "no-cache" {
			t.Errorf("the request lets caches answer: %v", r.Header)
		}
		_, _ = w.Write(sample(7).Render())
	})
	if err != nil || p.Generation != 7 {
		t.Fatalf("got %+v, %v", p, err)
	}
}

func TestFetchGoesOnUntilThePointerIsThere(t *testing.T) {
	good := sample(7).Render()
	for _, tc := range []struct {
		name string
		bad  http.HandlerFunc
	}{
		{"not published yet", http.NotFound},
		{"server error", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }},
		{"throttled", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) }},
		{"empty while it is rewritten", func(http.ResponseWriter, *http.Request) {}},
		{"cut off by the connection", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(good)))
			_, _ = w.Write(good[:10])
			panic(http.ErrAbortHandler)
		}},
		{"connection reset", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var calls atomic.Int32
			p, err := fetch(t, 20*time.Second, func(w http.ResponseWriter, r *http.Request) {
				if calls.Add(1) == 1 {
					tc.bad(w, r)
					return
				}
				_, _ = w.Write(good)
			})
			if err != nil || p.Generation != 7 || calls.Load() != 2 {
				t.Fatalf("got %+v, %v after %d requests", p, err, calls.Load())
			}
		})
	}
}

func TestFetchNamesTheLastCauseAtItsDeadline(t *testing.T) {
	body := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) }
	}
	for _, tc := range []struct {
		name    string
		handler http.HandlerFunc
		want    string
	}{
		{"404", http.NotFound, "404 Not Found: nothing is published there yet, or the URL is wrong"},
		{"500", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, "500 Internal Server Error"},
		{"empty", body(""), "the pointer is empty"},
		{"HTML", body("<html>"), "the pointer is HTML"},
		{"10 MB", body(strings.Repeat("{", 10<<20)), "larger than 128 KiB"},
		{"garbage JSON", body("{oops"), "not valid JSON"},
		{"unknown schema", body(`{"schema": 9}`), "has schema 9"},
		{"wrong snapshot id", body("snap-nonsense"), `no valid snapshot id: "snap-nonsense"`},
		{"cut off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "400")
			_, _ = w.Write([]byte(`{"schema": 1`))
		}, "cut off after 12 bytes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			_, err := fetch(t, 400*time.Millisecond, tc.handler)
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("error %v, want one line with %q", err, tc.want)
			}
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("%v does not say that the deadline ended it", err)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Fatalf("took %s with a deadline of 0.4 s", took)
			}
		})
	}
}

func TestFetchStopsAtFinalAnswers(t *testing.T) {
	var calls atomic.Int32
	_, err := fetch(t, 20*time.Second, func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		w.WriteHeader(http.StatusForbidden)
	})
	if err == nil || !strings.Contains(err.Error(), "403 Forbidden") || calls.Load() != 1 {
		t.Fatalf("%v after %d requests", err, calls.Load())
	}
}

func TestFetchOfAnUnreachableServerSaysSo(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	f, err := NewFetcher("http://user:secret@"+address+"/release.json", nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Fetch(ctx)
	if err == nil || !strings.Contains(err.Error(), "connection refused") || strings.Contains(err.Error(), "secret") {
		t.Fatalf("got %v", err)
	}
}

func TestFetchRefusesURLsThatAreNone(t *testing.T) {
	for _, bad := range []string{"", "release.json", "ftp://host/x", "http://", "http://[::1", "file:///etc/passwd"} {
		if _, err := NewFetcher(bad, nil, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("NewFetcher(%q) took it", bad)
		}
	}
}

// network is a transport into a server that lives in the test's own time.
func network(serve func(net.Conn)) *http.Transport {
	return &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		here, there := net.Pipe()
		go serve(there)
		return here, nil
	}}
}

func TestFetchGivesAHungServerFiveSecondsAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries atomic.Int32
		f, err := NewFetcher("http://server/release.json", nil, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		f.from, err = store.NewHTTP("http://server/release.json", network(func(c net.Conn) {
			defer func() { _ = c.Close() }()
			n := tries.Add(1)
			r := bufio.NewReader(c)
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			if n == 1 {
				_, _ = r.ReadByte() // hangs until the client closes
				return
			}
			body := sample(9).Render()
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(body), body)
		}))
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		p, err := f.Fetch(t.Context())
		if err != nil || p.Generation != 9 {
			t.Fatalf("got %+v, %v", p, err)
		}
		if took := time.Since(start); took < 5*time.Second || took > 6*time.Second {
			t.Fatalf("took %s, want 5 s for the try that hung and a short pause", took)
		}
	})
}

// A client library's backoff once gave up after 7 of 60 seconds (aws-ebs-csi-driver #2302).
func TestFetchUsesItsWholeDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries atomic.Int32
		f, err := NewFetcher("http://server/release.json", nil, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		f.from, err = store.NewHTTP("http://server/release.json", network(func(c net.Conn) {
			defer func() { _ = c.Close() }()
			tries.Add(1)
			if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				_, _ = fmt.Fprint(c, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			}
		}))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
		defer cancel()
		start := time.Now()
		_, err = f.Fetch(ctx)
		if took := time.Since(start); err == nil || took != 4*time.Minute {
			t.Fatalf("ended after %s with %v", took, err)
		}
		if n := tries.Load(); n < 48 || n > 100 {
			t.Fatalf("%d tries in 4 minutes, want one every 2.5 to 5 seconds", n)
		}
	})
}

// Who can change what http carries would choose the release of a fleet whose pointer is https.
func TestFetchFollowsNoRedirectFromHTTPSToHTTP(t *testing.T) {
	good := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(sample(7).Render()) })
	open, private := httptest.NewServer(good), httptest.NewTLSServer(good)
	defer open.Close()
	defer private.Close()
	get := func(first func(http.Handler) *httptest.Server, to string) (Pointer, error) {
		server := first(http.RedirectHandler(to, http.StatusFound))
		defer server.Close()
		f, err := NewFetcher(server.URL+"/release.json", nil, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if f.from, err = store.NewHTTP(server.URL, private.Client().Transport); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		got, err := f.Fetch(ctx)
		return got.Pointer, err
	}
	if p, err := get(httptest.NewTLSServer, private.URL); err != nil || p.Generation != 7 {
		t.Errorf("https to https: got %+v, %v", p, err)
	}
	if p, err := get(httptest.NewServer, private.URL); err != nil || p.Generation != 7 {
		t.Errorf("http to https: got %+v, %v", p, err)
	}
	_, err := get(httptest.NewTLSServer, open.URL)
	if err == nil || errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "redirects from https to http://") || !strings.Contains(err.Error(), "Try: ") {
		t.Errorf("https to http: got %v, want a final refusal", err)
	}
}

func TestFetchFollowsAFewRedirectsOnly(t *testing.T) {
	var calls atomic.Int32
	_, err := fetch(t, 500*time.Millisecond, func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		http.Redirect(w, r, "/release.json", http.StatusFound)
	})
	if err == nil || !strings.Contains(err.Error(), "more than 5 redirects") || calls.Load() < 6 {
		t.Fatalf("got %v after %d requests", err, calls.Load())
	}
}

// Whoever looks again and again has to know when to.
func TestLookSaysHowLongToWait(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "20")
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer web.Close()
	f, err := NewFetcher(web.URL+"/release.json", nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = f.Look(t.Context(), "")
	said, ok := errors.AsType[*store.Error](err)
	if !ok || said.Wait != 20*time.Second || !strings.HasPrefix(err.Error(), "read pointer "+web.URL+"/release.json: ") || strings.Count(err.Error(), web.URL) != 1 {
		t.Errorf("%v, %+v", err, said)
	}
}
