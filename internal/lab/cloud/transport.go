package cloud

import (
	"bytes"
	"errors"
	"io"
	"net/http"
)

// ErrConnectionBroken is what a client of Transport sees when the handler broke the connection.
var ErrConnectionBroken = errors.New("connection reset by peer")

// Transport is an http.RoundTripper that calls handlers without a network: in a testing/synctest
// bubble, or to listen in on real clients' requests.
type Transport struct{ Handler http.Handler }

// RoundTrip serves the request in a goroutine of its own, so that a client may leave while the
// handler goes on.
func (t Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	in := req.Clone(req.Context())
	if in.Host == "" {
		in.Host = in.URL.Host
	}
	if in.Body == nil {
		in.Body = http.NoBody
	}
	type outcome struct {
		answer *answer
		err    error
	}
	served := make(chan outcome, 1)
	go func() { // ends with the handler, which outlives its client only as long as the server's own work takes
		w := &answer{header: http.Header{}}
		defer func() {
			switch p := recover(); p {
			case nil:
				served <- outcome{w, nil}
			case http.ErrAbortHandler:
				served <- outcome{nil, ErrConnectionBroken}
			default:
				panic(p)
			}
		}()
		t.Handler.ServeHTTP(w, in)
	}()
	select {
	case o := <-served:
		if o.err != nil {
			return nil, o.err
		}
		return o.answer.response(req), nil
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
}

// answer collects what a handler writes.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *answer) Header() http.Header { return w.header }

func (w *answer) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

func (w *answer) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}

func (w *answer) response(req *http.Request) *http.Response {
	w.WriteHeader(http.StatusOK)
	return &http.Response{
		Status: http.StatusText(w.status), StatusCode: w.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.header, Body: io.NopCloser(bytes.NewReader(w.body.Bytes())), ContentLength: int64(w.body.Len()), Request: req,
	}
}
