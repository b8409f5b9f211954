package instance_test

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

	"ebs-release/internal/instance"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
)

const document = `{"instanceId":"i-0123456789abcdef0","availabilityZone":"eu-west-1b","region":"eu-west-1","accountId":"123456789012","instanceType":"m5.large"}`

// service is a metadata service; nil handlers answer as EC2 does.
func service(t *testing.T, token, get http.HandlerFunc) *imds.Client {
	t.Helper()
	if token == nil {
		token = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "300")
			fmt.Fprint(w, "TOKEN")
		}
	}
	if get == nil {
		get = func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Aws-Ec2-Metadata-Token") != "TOKEN" {
				http.Error(w, "no token", http.StatusUnauthorized)
				return
			}
			fmt.Fprint(w, document)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /latest/api/token", token)
	mux.HandleFunc("GET /latest/dynamic/instance-identity/document", get)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.URL)
	return instance.NewClient(aws.Config{})
}

func identify(t *testing.T, client *imds.Client, limit time.Duration) (instance.Identity, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	return instance.Identify(ctx, client, slog.New(slog.DiscardHandler))
}

func TestIdentify(t *testing.T) {
	got, err := identify(t, service(t, nil, nil), 5*time.Second)
	want := instance.Identity{
		InstanceID: "i-0123456789abcdef0", AvailabilityZone: "eu-west-1b", Region: "eu-west-1", AccountID: "123456789012", InstanceType: "m5.large",
	}
	if err != nil || got != want {
		t.Fatalf("got %+v, %v", got, err)
	}
}

func TestIdentifyGoesOnUntilTheServiceAnswers(t *testing.T) {
	var tries atomic.Int32
	client := service(t, nil, func(w http.ResponseWriter, r *http.Request) {
		switch tries.Add(1) {
		case 1:
			http.NotFound(w, r)
		case 2:
			fmt.Fprint(w, `{"region":"eu-west-1"}`)
		case 3:
			<-r.Context().Done() // hangs: the client gives up
		default:
			fmt.Fprint(w, document)
		}
	})
	got, err := identify(t, client, 10*time.Second)
	if err != nil || got.InstanceID == "" || tries.Load() != 4 {
		t.Fatalf("got %+v, %v after %d tries", got, err, tries.Load())
	}
}

func TestIdentifyBearsWithASlowService(t *testing.T) {
	var tokens atomic.Int32
	client := service(t, func(w http.ResponseWriter, r *http.Request) {
		tokens.Add(1)
		time.Sleep(800 * time.Millisecond) // each time: more tries would not help
		w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "300")
		fmt.Fprint(w, "TOKEN")
	}, nil)
	if got, err := identify(t, client, 10*time.Second); err != nil || got.InstanceID == "" || tokens.Load() != 1 {
		t.Fatalf("got %+v, %v after %d tokens", got, err, tokens.Load())
	}
}

// The time is up when a first try has failed, and a second one hangs: what the first one said
// counts.
func TestErrorTellsTokenFromDocument(t *testing.T) {
	refuse := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", code) }
	}
	for _, tc := range []struct {
		name       string
		token, get http.HandlerFunc
		want       string
	}{
		{"token refused", refuse(http.StatusForbidden), nil, "PUT for the token"},
		{"token not found", refuse(http.StatusNotFound), nil, "PUT for the token"},
		{"document not found", nil, refuse(http.StatusNotFound), "GET of the identity document"},
		{"document without an id", nil, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "{}") }, "lacks the instance id"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var failed atomic.Bool // a try has come to its end
			cut := func(h http.HandlerFunc) http.HandlerFunc {
				if h == nil {
					return nil
				}
				return func(w http.ResponseWriter, r *http.Request) {
					if failed.Load() {
						cancel()
						<-r.Context().Done()
						return
					}
					h(w, r)
				}
			}
			client := service(t, cut(tc.token), cut(tc.get))
			_, err := instance.Identify(ctx, client, slog.New(onLog{slog.DiscardHandler, func() { failed.Store(true) }}))
			if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("error = %v, want %q in it", err, tc.want)
			}
		})
	}
}

// onLog calls said for each line of a log.
type onLog struct {
	slog.Handler
	said func()
}

func (onLog) Enabled(context.Context, slog.Level) bool { return true }

func (h onLog) Handle(context.Context, slog.Record) error { h.said(); return nil }
