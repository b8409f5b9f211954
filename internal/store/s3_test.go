package store_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ebs-release/internal/lab/bucket"
	"ebs-release/internal/store"
	"ebs-release/internal/test/s3"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
)

// way is what happens to a request on its way to a real S3.
type way func(r *http.Request, send func(*http.Request) (*http.Response, error)) (*http.Response, error)

func (w way) Do(r *http.Request) (*http.Response, error) { return w(r, http.DefaultClient.Do) }

// via has all requests go a way, each once: the SDK makes none again.
func via(server *bucket.Server, w way) store.Load {
	return func(ctx context.Context) (aws.Config, error) {
		cfg, err := server.Config(ctx)
		cfg.HTTPClient = w
		cfg.Retryer = func() aws.Retryer { return aws.NopRetryer{} }
		return cfg, err
	}
}

var errLost = errors.New("the connection was reset")

func TestAnAnswerThatWasLostIsMadeClear(t *testing.T) {
	server := s3.Start(t)
	s := openS3(t, "", server.Config)
	one, err := s.PutIf(t.Context(), "release.json", []byte("one"), "")
	must(t, err)
	lost := openS3(t, "", via(server, func(r *http.Request, send func(*http.Request) (*http.Response, error)) (*http.Response, error) {
		resp, err := send(r)
		if err != nil || r.Method != http.MethodPut {
			return resp, err
		}
		return nil, errors.Join(errLost, resp.Body.Close())
	}))
	two, err := lost.PutIf(t.Context(), "release.json", []byte("two"), one)
	if err != nil || has(t, s, "release.json", "two") != two {
		t.Fatalf("it was written, and the answer lost: %q, %v", two, err)
	}
	// Somebody else who writes the same has lost all the same.
	if _, err := s.PutIf(t.Context(), "release.json", []byte("two"), one); !errors.Is(err, store.ErrChanged) {
		t.Errorf("another write of the same: %v", err)
	}
	if _, err := lost.PutIf(t.Context(), "release.json", []byte("three"), one); !errors.Is(err, store.ErrChanged) {
		t.Errorf("it lost, and so did the answer: %v", err)
	}
	has(t, s, "release.json", "two")
}

// The SDK makes a request again whose answer was lost, and meets its own success.
func TestARequestThatIsMadeAgainMeetsItself(t *testing.T) {
	server := s3.Start(t)
	var puts atomic.Int32
	s := openS3(t, "", func(ctx context.Context) (aws.Config, error) {
		cfg, err := server.Config(ctx)
		cfg.HTTPClient = way(func(r *http.Request, send func(*http.Request) (*http.Response, error)) (*http.Response, error) {
			resp, err := send(r)
			if err == nil && r.Method == http.MethodPut && puts.Add(1) == 1 {
				return nil, &net.OpError{Op: "read", Err: errors.Join(syscall.ECONNRESET, resp.Body.Close())}
			}
			return resp, err
		})
		return cfg, err
	})
	if _, err := s.PutIf(t.Context(), "release.json", []byte("one"), ""); err != nil || puts.Load() != 2 {
		t.Errorf("%v after %d requests", err, puts.Load())
	}
	has(t, s, "release.json", "one")
}

func TestAWriteThatMayStillComeIsUnclear(t *testing.T) {
	server := s3.Start(t)
	s := openS3(t, "", server.Config)
	one, err := s.PutIf(t.Context(), "release.json", []byte("one"), "")
	must(t, err)
	away := openS3(t, "", via(server, func(r *http.Request, send func(*http.Request) (*http.Response, error)) (*http.Response, error) {
		if r.Method == http.MethodPut {
			return nil, errLost
		}
		return send(r)
	}))
	_, err = away.PutIf(t.Context(), "release.json", []byte("two"), one)
	if !errors.Is(err, store.ErrUnclear) || !errors.Is(err, errLost) || !strings.Contains(err.Error(), "no answer from http://127.0.0.1") {
		t.Errorf("%v", err)
	}
	has(t, s, "release.json", "one")
}

// S3 answers 409 while another request writes the same key; the condition still holds when that one
// failed.
func TestAConflictIsTriedAgain(t *testing.T) {
	server := s3.Start(t)
	var puts atomic.Int32
	s := openS3(t, "", via(server, func(r *http.Request, send func(*http.Request) (*http.Response, error)) (*http.Response, error) {
		if r.Method == http.MethodPut && puts.Add(1) <= 3 {
			return answer(r, http.StatusConflict, "ConditionalRequestConflict", "The conditional request cannot succeed due to a conflicting operation", nil), nil
		}
		return send(r)
	}))
	_, err := s.PutIf(t.Context(), "release.json", []byte("one"), "")
	must(t, err)
	if has(t, s, "release.json", "one"); puts.Load() != 4 {
		t.Errorf("%d requests", puts.Load())
	}
}

func answer(r *http.Request, status int, code, message string, header http.Header) *http.Response {
	body := fmt.Sprintf("<Error><Code>%s</Code><Message>%s</Message></Error>", code, message)
	if header == nil {
		header = http.Header{}
	}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), Request: r, ProtoMajor: 1, ProtoMinor: 1}
}

func TestWhatS3RefusesIsSaidClearly(t *testing.T) {
	server := s3.Start(t)
	const object = "s3://releases/prod/release.json"
	elsewhere := http.Header{"X-Amz-Bucket-Region": {"eu-west-1"}}
	for _, tc := range []struct {
		name          string
		status        int
		code, message string
		header        http.Header
		get, put      string
		final         bool
	}{
		{"no right", 403, "AccessDenied", "Access Denied", nil, "the right s3:GetObject is missing; or it is not there (nothing is published yet, or it was removed)", "the right s3:PutObject is missing: Access Denied. Try: ", false},
		{"no right to the key", 403, "AccessDenied", "User: x is not authorized to perform: kms:Decrypt on resource: y", nil,
			"the right kms:Decrypt on the bucket's key is missing: ", "kms:Decrypt on the bucket's key", false},
		{"another Region", 301, "PermanentRedirect", "use the endpoint", elsewhere, "the bucket releases is in eu-west-1, and S3 was asked in us-east-1", "is in eu-west-1", true},
		{"another Region's signature", 400, "AuthorizationHeaderMalformed", "wrong", elsewhere, "is in eu-west-1", "is in eu-west-1", true},
		{"no bucket", 404, "NoSuchBucket", "none", nil, "there is no bucket releases. Try: ", "there is no bucket releases. Try: ", true},
		{"clock", 403, "RequestTimeTooSkewed", "off", nil, "the clock of this machine is too far off. Try: `timedatectl`", "the clock of this machine", false},
		{"keys", 403, "InvalidAccessKeyId", "none", nil, "S3 does not take the AWS credentials", "S3 does not take the AWS credentials", false},
		{"too much", 503, "SlowDown", "Please reduce your request rate.", nil, "S3 asks for fewer requests", "S3 asks for fewer requests", false},
		{"trouble", 500, "InternalError", "We encountered an internal error.", nil, "500 InternalError: We encountered", "500 InternalError: We encountered", false},
		{"conflicts without end", 409, "ConditionalRequestConflict", "conflict", nil, "409 ConditionalRequestConflict", "others write it all the time", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := openS3(t, "/prod", via(server, func(r *http.Request, _ func(*http.Request) (*http.Response, error)) (*http.Response, error) {
				return answer(r, tc.status, tc.code, tc.message, tc.header.Clone()), nil
			}))
			_, getErr := s.Get(t.Context(), "release.json", "")
			_, putErr := s.PutIf(t.Context(), "release.json", []byte("x"), "")
			for err, want := range map[error]string{getErr: "read " + object, putErr: "write " + object} {
				if err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
					t.Errorf("%v: want one line that begins with %s", err, want)
				}
			}
			if !strings.Contains(getErr.Error(), tc.get) || !strings.Contains(putErr.Error(), tc.put) {
				t.Errorf("%v\n%v", getErr, putErr)
			}
			if said, ok := errors.AsType[*store.Error](getErr); !ok || said.Final != tc.final {
				t.Errorf("final: %+v", said)
			}
			if unclear := errors.Is(putErr, store.ErrUnclear); unclear != (tc.status >= 500) {
				t.Errorf("unclear: %v, of %v", unclear, putErr)
			}
		})
	}
}

func TestABodyThatIsCutOffIsNoObject(t *testing.T) {
	server := s3.Start(t)
	s := openS3(t, "", server.Config)
	must(t, s.Put(t.Context(), "release.json", strings.NewReader(strings.Repeat("x", 1000))))
	short := openS3(t, "", via(server, func(r *http.Request, send func(*http.Request) (*http.Response, error)) (*http.Response, error) {
		resp, err := send(r)
		if err == nil {
			resp.Body = struct {
				io.Reader
				io.Closer
			}{io.MultiReader(io.LimitReader(resp.Body, 10), broken{}), resp.Body}
		}
		return resp, err
	}))
	_, _, err := store.ReadAll(t.Context(), short, "release.json", 1<<20, "")
	if err == nil || !strings.Contains(err.Error(), "cut off after 10 bytes") || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v", err)
	}
}

// What arrives instead of an object is refused before it is read as one, or held.
func TestAnswersThatAreNoObject(t *testing.T) {
	server := s3.Start(t)
	for name, tc := range map[string]struct {
		status int
		header http.Header
		body   io.Reader
		want   string
	}{
		"a part of it":     {206, http.Header{"Content-Range": {"bytes 100-200/1000"}}, strings.NewReader("part"), "206: only a part of it came (bytes 100-200/1000), and all was asked for. Try: "},
		"a part, unsaid":   {206, http.Header{}, strings.NewReader("part"), "206: only a part of it came (it is not said which)"},
		"10 GB":            {200, http.Header{}, io.LimitReader(endless{}, 10<<30), "it is larger than 1024 KiB: this is not what is wanted"},
		"an error in HTML": {403, http.Header{}, strings.NewReader("<html>Sign in</html>"), "403"},
	} {
		s := openS3(t, "/prod", via(server, func(r *http.Request, _ func(*http.Request) (*http.Response, error)) (*http.Response, error) {
			resp := answer(r, tc.status, "", "", tc.header)
			resp.Body, resp.ContentLength = io.NopCloser(tc.body), -1
			return resp, nil
		}))
		data, _, err := store.ReadAll(t.Context(), s, "release.json", 1<<20, "")
		if err == nil || !strings.HasPrefix(err.Error(), "read s3://releases/prod/release.json: ") || !strings.Contains(err.Error(), tc.want) ||
			strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %d bytes, %v", name, len(data), err)
		}
	}
}

// Who waits no longer than the SDK tries is told what S3 said, not that a wait was canceled.
func TestTheLastAnswerIsSaid(t *testing.T) {
	server := s3.Start(t)
	s := openS3(t, "/prod", func(ctx context.Context) (aws.Config, error) {
		cfg, err := server.Config(ctx)
		cfg.HTTPClient = way(func(r *http.Request, _ func(*http.Request) (*http.Response, error)) (*http.Response, error) {
			return answer(r, http.StatusServiceUnavailable, "SlowDown", "Please reduce your request rate.", nil), nil
		})
		cfg.Retryer = func() aws.Retryer { return retry.AddWithMaxAttempts(retry.NewStandard(), 100) }
		return cfg, err
	})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, _, err := store.ReadAll(ctx, s, "release.json", 1<<20, "")
	if err == nil || !strings.Contains(err.Error(), "503 SlowDown: S3 asks for fewer requests. Try: ") {
		t.Errorf("%v", err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestPlacesInS3(t *testing.T) {
	for place, want := range map[string]string{
		"s3://releases": "releases ", "s3://releases/": "releases ", "s3://releases/a/b": "releases a/b/", "s3://my.bucket-1/a/": "my.bucket-1 a/",
	} {
		bucket, prefix, err := store.ParseS3(place)
		if got := bucket + " " + prefix; err != nil || got != want {
			t.Errorf("%s: %q, %v", place, got, err)
		}
	}
	for _, wrong := range []string{"", "s3://", "s3:///a", "s3://UPPER/a", "s3://ab", "s3://releases//a", "s3://releases/../a", "http://releases/a", "s3://releases/a?b\x00"} {
		if _, _, err := store.ParseS3(wrong); err == nil || !strings.Contains(err.Error(), "want s3://BUCKET/PREFIX") {
			t.Errorf("%q: %v", wrong, err)
		}
	}
}
