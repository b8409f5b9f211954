package instance_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/instance"

	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
)

// metadataSays is a metadata service that answers for the target lifecycle state.
func metadataSays(t *testing.T, answer http.HandlerFunc) *imds.Client {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /latest/api/token", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "60")
		_, _ = fmt.Fprint(w, "token")
	})
	mux.HandleFunc("GET /latest/meta-data/autoscaling/target-lifecycle-state", answer)
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", s.URL)
	cfg, err := instance.LoadConfig(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return instance.NewClient(cfg)
}

func TestTargetState(t *testing.T) {
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		want   string
		warmed bool
	}{
		"in service":     {func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "InService\n") }, "InService", false},
		"in the pool":    {func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "Warmed:Hibernated") }, "Warmed:Hibernated", true},
		"of no group":    {http.NotFound, "", false},
		"without an end": {func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, strings.Repeat("x", 1<<20)) }, strings.Repeat("x", 64), false},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := instance.TargetState(t.Context(), metadataSays(t, tc.answer))
			if err != nil || got != tc.want || instance.Warmed(got) != tc.warmed {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

func TestWhetherItIsInAWarmPoolIsAskedAgain(t *testing.T) {
	asked := 0
	client := metadataSays(t, func(w http.ResponseWriter, _ *http.Request) {
		if asked++; asked < 3 {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		_, _ = fmt.Fprint(w, "Warmed:Running")
	})
	if warmed, err := instance.InWarmPool(t.Context(), client, slog.New(slog.DiscardHandler)); err != nil || !warmed {
		t.Errorf("%v, %v", warmed, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	silent := metadataSays(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	if _, err := instance.InWarmPool(ctx, silent, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "is IMDS switched on?") {
		t.Errorf("%v", err)
	}
}
