package account

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// requests counts what a server is asked.
type requests struct {
	mu sync.Mutex
	at []time.Time
}

// counted takes time for each request, and counts it.
func (q *requests) counted(d time.Duration, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(d)
		q.mu.Lock()
		q.at = append(q.at, time.Now())
		q.mu.Unlock()
		h.ServeHTTP(undelayed{w}, r)
	})
}

// undelayed is an answer that its client takes at once: no deadline is ever reached.
type undelayed struct{ http.ResponseWriter }

func (undelayed) SetReadDeadline(time.Time) error  { return nil }
func (undelayed) SetWriteDeadline(time.Time) error { return nil }

// peak is the most requests within a second.
func (q *requests) peak() (most int) {
	at := slices.SortedFunc(slices.Values(q.at), time.Time.Compare)
	first := 0
	for last := range at {
		for at[last].Sub(at[first]) >= time.Second {
			first++
		}
		most = max(most, last-first+1)
	}
	return most
}

// S3 takes "at least 3,500 PUT/COPY/POST/DELETE or 5,500 GET/HEAD requests per second per
// partitioned Amazon S3 prefix" (S3 User Guide, "Best practices design patterns: optimizing Amazon
// S3 performance").
const (
	putsPerSecond = 3500
	getsPerSecond = 5500
)

// objects is S3, as far as an agent asks it.
type objects struct {
	mu     sync.Mutex
	all    map[string][]byte // by path: bucket and key
	second time.Time
	spent  map[string]int // requests of this second, by method
	slowed int            // that were refused
}

func newObjects() *objects { return &objects{all: map[string][]byte{}, spent: map[string]int{}} }

func (o *objects) put(path string, data []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all[path] = data
}

// admit takes one of the requests of this second.
func (o *objects) admit(method string) bool {
	if now := time.Now().Truncate(time.Second); now != o.second {
		o.second, o.spent = now, map[string]int{}
	}
	o.spent[method]++
	if o.spent[http.MethodPut] <= putsPerSecond && o.spent[http.MethodGet] <= getsPerSecond {
		return true
	}
	o.slowed++
	return false
}

func (o *objects) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	o.mu.Lock()
	defer o.mu.Unlock()
	data, found := o.all[r.URL.Path]
	refuse := func(status int, code string) {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		fmt.Fprintf(w, "<Error><Code>%s</Code><Message>%s</Message></Error>", code, code)
	}
	switch {
	case err != nil:
		refuse(http.StatusBadRequest, "IncompleteBody")
	case !o.admit(r.Method):
		refuse(http.StatusServiceUnavailable, "SlowDown")
	case r.Method == http.MethodPut && !strings.Contains(r.Header.Get("Content-Encoding"), "aws-chunked"):
		o.all[r.URL.Path] = body
	case r.Method != http.MethodGet || r.URL.Query().Has("list-type"):
		refuse(http.StatusNotImplemented, "NotImplemented")
	case !found:
		refuse(http.StatusNotFound, "NoSuchKey")
	default:
		sum := md5.Sum(data)
		w.Header().Set("ETag", `"`+hex.EncodeToString(sum[:])+`"`)
		_, _ = w.Write(data)
	}
}
