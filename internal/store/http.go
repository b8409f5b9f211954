package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"ebs-release/internal/advice"

	"github.com/hashicorp/go-retryablehttp"
)

const (
	mostRedirects = 5 // that one request follows
	quickTries    = 1 // more of a request that failed; who reads has the longer patience
	quickPause    = 50 * time.Millisecond
	mostWaitTold  = 30 * time.Second // the longest Retry-After that is believed
)

// HTTP reads a store that a web server gives out. Its own URL is the object with the key "", other
// keys are beside it.
type HTTP struct {
	url    *url.URL
	client *http.Client
}

// NewHTTP returns a reader of rawURL, http or https, by a transport; nil: a new one.
func NewHTTP(rawURL string, via http.RoundTripper) (*HTTP, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, err
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("%q: want http://HOST/… or https://HOST/…", u.Redacted())
	}
	if via == nil {
		via = http.DefaultTransport.(*http.Transport).Clone()
	}
	return &HTTP{u, &http.Client{Transport: via, CheckRedirect: checkRedirect}}, nil
}

// do sends a request, and once more when it did not arrive or a server in trouble refused it; not
// when that asks for a wait of its own: whoever called may have something better to do.
func (h *HTTP) do(req *retryablehttp.Request) (*http.Response, error) {
	var cause error // of the first try: a context that ends in the pause must not hide it
	client := retryablehttp.NewClient()
	client.HTTPClient, client.Logger = h.client, nil
	client.RetryMax, client.RetryWaitMin, client.RetryWaitMax = 1, quickPause, 2*quickPause
	client.Backoff = retryablehttp.LinearJitterBackoff          // many instances boot at once
	client.ErrorHandler = retryablehttp.PassthroughErrorHandler // the last answer is looked at by the caller
	client.CheckRetry = func(ctx context.Context, resp *http.Response, err error) (bool, error) {
		switch {
		case ctx.Err() != nil && cause != nil:
			return false, cause
		case err != nil:
			cause = plainlyHTTP(err)
		case waitTold(resp) > 0:
			return false, nil
		case resp.StatusCode >= 500:
			cause = errors.New(answered(resp))
		}
		if _, insecure := errors.AsType[insecureError](err); insecure {
			return false, err
		}
		return retryablehttp.DefaultRetryPolicy(ctx, resp, err)
	}
	resp, err := client.Do(req)
	if err != nil && cause != nil {
		err = cause
	}
	return resp, err
}

// plainlyHTTP takes off what net/http puts before a cause: Get "http://…", which is said already.
func plainlyHTTP(err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		return wrapped.Err
	}
	return err
}

func answered(resp *http.Response) string {
	return fmt.Sprintf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
}

func (h *HTTP) String() string { return h.url.Redacted() }

// Get asks past all caches on the way: the proof that no instance serves a stale release rests on
// seeing the newest pointer.
func (h *HTTP) Get(ctx context.Context, key string, unless Version) (Object, error) {
	u := *h.url
	if key != "" {
		if err := checkKey(key); err != nil {
			return Object{}, err
		}
		u.Path, u.RawPath = path.Join(path.Dir("/"+strings.TrimPrefix(u.Path, "/")), key), ""
	}
	fail := func(final bool, err error) (Object, error) {
		return Object{}, &Error{Op: opRead, On: u.Redacted(), Err: err, Final: final}
	}
	req, err := retryablehttp.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return fail(true, err)
	}
	req.Header.Set("Cache-Control", "no-cache")
	req.Header.Set("Pragma", "no-cache")
	req.Header.Set("User-Agent", "ebs-release")
	if unless != "" {
		req.Header.Set("If-None-Match", string(unless))
	}
	resp, err := h.do(req)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no answer in time (timeout): %w", err)
	}
	if err != nil {
		_, insecure := errors.AsType[insecureError](err)
		return fail(insecure, err)
	}
	said := answered(resp)
	switch code := resp.StatusCode; {
	case code == http.StatusOK:
		return Object{resp.Body, resp.ContentLength, Version(resp.Header.Get("ETag"))}, nil
	case code == http.StatusNotModified:
		err = ErrUnmodified
	case code == http.StatusNotFound:
		err = named{fmt.Errorf("%s: nothing is published there yet, or the URL is wrong", said), ErrNotFound}
	case code == http.StatusTooManyRequests || code >= 500:
		err = &Error{Op: opRead, On: u.Redacted(), Err: errors.New(said), Wait: waitTold(resp)}
	default:
		_, err = fail(true, fmt.Errorf("%s: the server does not give it out", said))
	}
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10) // so that the connection can be used again
	_ = resp.Body.Close()
	if _, whole := errors.AsType[*Error](err); whole {
		return Object{}, err
	}
	return fail(false, err)
}

// waitTold is a server's Retry-After, within bounds.
func waitTold(resp *http.Response) time.Duration {
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
		return min(time.Duration(s)*time.Second, mostWaitTold)
	}
	return 0
}

// insecureError is a redirect that is not followed.
type insecureError struct{ error }

func (e insecureError) Unwrap() error { return e.error }

// checkRedirect keeps what https promises: who may change what is sent over http must not choose
// the release.
func checkRedirect(to *http.Request, from []*http.Request) error {
	switch last := from[len(from)-1].URL; {
	case last.Scheme == "https" && to.URL.Scheme != "https":
		return insecureError{advice.Try(fmt.Errorf("%s redirects from https to %s: not followed", last.Redacted(), to.URL.Redacted()),
			"the https address of the pointer")}
	case len(from) > mostRedirects:
		return fmt.Errorf("more than %d redirects, the last to %s", mostRedirects, to.URL.Redacted())
	}
	return nil
}
