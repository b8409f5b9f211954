package pointer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/hashicorp/go-retryablehttp"
)

const (
	tryTimeout   = 5 * time.Second // for one request, its body included
	firstBackoff = 250 * time.Millisecond
	mostBackoff  = 5 * time.Second
	mostWaitTold = 30 * time.Second // the longest Retry-After that is believed

	mostRedirects = 5 // that one request follows
)

// Fetcher reads the pointer from a URL.
type Fetcher struct {
	url string // as given
	say string // without its password
	log *slog.Logger

	transport func() *http.Transport // tests put their own network here
}

// NewFetcher returns a fetcher of rawURL, http or https.
func NewFetcher(rawURL string, log *slog.Logger) (*Fetcher, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, fmt.Errorf("pointer URL: %w", err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("pointer URL %q: want http://HOST/… or https://HOST/…", u.Redacted())
	}
	transport := func() *http.Transport { return http.DefaultTransport.(*http.Transport).Clone() }
	return &Fetcher{url: rawURL, say: u.Redacted(), log: log, transport: transport}, nil
}

// URL returns the address that is read, without its password.
func (f *Fetcher) URL() string { return f.say }

// Fetch reads the pointer and tries again until ctx ends: on transport errors, 404 (not published
// yet), 429, 5xx, a body that is cut off and one that is no pointer. Other answers (401, 403, 410
// …) are final. The error names the last cause.
func (f *Fetcher) Fetch(ctx context.Context) (Pointer, error) {
	var got Pointer
	var last error // the cause of the last failure: a context that ends while we wait must not hide it
	tries := 0
	start := time.Now()

	transport := f.transport()
	defer transport.CloseIdleConnections()
	client := retryablehttp.NewClient()
	client.HTTPClient = &http.Client{Transport: transport, Timeout: tryTimeout, CheckRedirect: checkRedirect}
	client.Logger = nil
	client.RetryMax = math.MaxInt32
	client.Backoff = backoff
	client.CheckRetry = func(ctx context.Context, _ *http.Response, err error) (bool, error) {
		if err == nil {
			return false, nil // the answer goes to the handler below, whose verdict comes back here
		}
		tries++
		if last == nil || ctx.Err() == nil {
			last = plainly(err)
		}
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		if _, final := errors.AsType[finalError](err); final {
			return false, err
		}
		f.log.WarnContext(ctx, "pointer not read, trying again", "url", f.say, "try", tries, "error", last)
		return true, nil
	}

	req, err := retryablehttp.NewRequestWithContext(ctx, http.MethodGet, f.url, nil)
	if err != nil {
		return Pointer{}, fmt.Errorf("read pointer %s: %w", f.say, err)
	}
	// The proof that no instance serves a stale release rests on seeing the newest pointer: no
	// cache on the way may answer.
	req.Header.Set("Cache-Control", "no-cache")
	req.Header.Set("Pragma", "no-cache")
	req.Header.Set("User-Agent", "ebs-release")
	req.SetResponseHandler(func(resp *http.Response) (err error) {
		defer func() { _ = resp.Body.Close() }()
		got, err = read(resp)
		return err
	})
	if _, err = client.Do(req); err == nil {
		return got, nil
	}
	if last == nil {
		return Pointer{}, fmt.Errorf("read pointer %s: %w", f.say, err)
	}
	if ended := ctx.Err(); ended != nil {
		return Pointer{}, fmt.Errorf("read pointer %s: %w (%w after %d tries in %s)",
			f.say, last, ended, tries, time.Since(start).Round(time.Millisecond))
	}
	return Pointer{}, fmt.Errorf("read pointer %s: %w", f.say, last)
}

// checkRedirect keeps what https promises: who may change what is sent over http must not choose
// the release.
func checkRedirect(to *http.Request, from []*http.Request) error {
	switch last := from[len(from)-1].URL; {
	case last.Scheme == "https" && to.URL.Scheme != "https":
		return finalError{fmt.Errorf("%s redirects from https to %s: not followed. Try: the https address of the pointer",
			last.Redacted(), to.URL.Redacted())}
	case len(from) > mostRedirects:
		return fmt.Errorf("more than %d redirects, the last to %s", mostRedirects, to.URL.Redacted())
	}
	return nil
}

// finalError is an answer that another try does not change.
type finalError struct{ error }

func read(resp *http.Response) (Pointer, error) {
	switch code := resp.StatusCode; {
	case code == http.StatusOK:
	case code == http.StatusNotFound:
		return Pointer{}, errors.New("404 Not Found: nothing is published there yet, or the URL is wrong")
	case code == http.StatusTooManyRequests || code >= 500:
		return Pointer{}, errors.New(status(resp))
	default:
		return Pointer{}, finalError{fmt.Errorf("%s: the server does not give the pointer out", status(resp))}
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, MaxSize+1))
	if err != nil {
		return Pointer{}, fmt.Errorf("the answer is cut off after %d bytes: %w", len(data), err)
	}
	return Parse(data)
}

// plainly takes off what net/http puts before a cause: Get "http://…", which is said already.
func plainly(err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		return wrapped.Err
	}
	return err
}

func status(resp *http.Response) string {
	return fmt.Sprintf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
}

// backoff doubles from a quarter of a second to five seconds, with jitter: many instances boot at
// once. A server's Retry-After is obeyed within bounds.
func backoff(_, _ time.Duration, attempt int, resp *http.Response) time.Duration {
	if resp != nil {
		if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
			return min(time.Duration(s)*time.Second, mostWaitTold)
		}
	}
	wait := mostBackoff
	if attempt < 5 {
		wait = min(firstBackoff<<attempt, mostBackoff)
	}
	return wait/2 + rand.N(wait/2)
}
