package volume_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
)

type credentials func() error

func (c credentials) Retrieve(context.Context) (aws.Credentials, error) {
	return aws.Credentials{AccessKeyID: "AKID", SecretAccessKey: "secret"}, c()
}

func TestCallsAreRetriedUntilTheContextEnds(t *testing.T) {
	const empty = `<DescribeVolumesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><volumeSet/></DescribeVolumesResponse>`
	for _, tc := range []struct {
		name        string
		fail        func(w http.ResponseWriter)
		credentials func(try int32) error
	}{
		{name: "throttled", fail: func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, `<Response><Errors><Error><Code>RequestLimitExceeded</Code><Message>slow</Message></Error></Errors></Response>`)
		}},
		{name: "internal error", fail: func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) }},
		{name: "connection reset", fail: func(w http.ResponseWriter) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				conn.Close()
			}
		}},
		{name: "credentials late", fail: func(w http.ResponseWriter) { fmt.Fprint(w, empty) }, credentials: func(try int32) error {
			if try == 1 {
				return errors.New("no EC2 IMDS role found")
			}
			return nil
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var calls, tries atomic.Int32
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if calls.Add(1) == 1 {
					tc.fail(w)
					return
				}
				fmt.Fprint(w, empty)
			}))
			defer server.Close()
			provider := aws.NewCredentialsCache(credentials(func() error {
				if tc.credentials == nil {
					return nil
				}
				return tc.credentials(tries.Add(1))
			}))
			client := volume.NewEC2(aws.Config{Region: "eu-west-1", BaseEndpoint: aws.String(server.URL), Credentials: provider})
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			mine, err := volume.New(client, volume.DefaultTiming(), slog.New(slog.DiscardHandler)).Mine(ctx, owner)
			if err != nil || len(mine) != 0 {
				t.Fatalf("mine = %v, %v", mine, err)
			}
		})
	}
}

func TestACallWhoseTimeIsUpSaysWhy(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprint(w, `<Response><Errors><Error><Code>RequestLimitExceeded</Code><Message>Request limit exceeded.</Message></Error></Errors></Response>`)
	}))
	defer server.Close()
	client := volume.NewEC2(aws.Config{Region: "eu-west-1", BaseEndpoint: aws.String(server.URL), Credentials: credentials(func() error { return nil })})
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err := volume.New(client, volume.DefaultTiming(), slog.New(slog.DiscardHandler)).Mine(ctx, owner)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "RequestLimitExceeded") {
		t.Errorf("the error is %v", err)
	}
}

// TestAClockThatIsOff: the first answer refuses the signature and tells the time; the next try is
// signed with it (row 48).
func TestAClockThatIsOff(t *testing.T) {
	const empty = `<DescribeVolumesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><volumeSet/></DescribeVolumesResponse>`
	for _, code := range []string{"RequestExpired", "RequestInTheFuture", "AuthFailure", "SignatureDoesNotMatch", "InvalidSignatureException"} {
		for _, off := range []time.Duration{time.Hour, -time.Hour} {
			t.Run(fmt.Sprintf("%s %v", code, off), func(t *testing.T) {
				t.Parallel()
				var heals atomic.Bool
				heals.Store(true)
				server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					theirs := time.Now().Add(-off)
					w.Header().Set("Date", theirs.UTC().Format(http.TimeFormat))
					signed, _ := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
					if heals.Load() && signed.Sub(theirs).Abs() < 5*time.Minute {
						fmt.Fprint(w, empty)
						return
					}
					w.WriteHeader(http.StatusBadRequest)
					fmt.Fprintf(w, `<Response><Errors><Error><Code>%s</Code><Message>No.</Message></Error></Errors></Response>`, code)
				}))
				defer server.Close()
				client := volume.NewEC2(aws.Config{Region: "eu-west-1", BaseEndpoint: aws.String(server.URL), Credentials: credentials(func() error { return nil })})
				volumes := volume.New(client, volume.DefaultTiming(), slog.New(slog.DiscardHandler))
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				if _, err := volumes.Mine(ctx, owner); err != nil {
					t.Fatal(err)
				}
				heals.Store(false)
				ctx, cancel = context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, err := volumes.Mine(ctx, owner)
				if err == nil || !strings.Contains(err.Error(), "clock of this machine is 1h0m") || !strings.Contains(err.Error(), code) {
					t.Errorf("the error is %v", err)
				}
			})
		}
	}
}
