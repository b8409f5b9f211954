package source

import (
	"ebs-release/internal/boot"
	"ebs-release/internal/pointer"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestWhatIsRefusedBeforeAnyVolumeIsAsked: trusted-keys and min-generation.
func TestWhatIsRefusedBeforeAnyVolumeIsAsked(t *testing.T) {
	secret, err := pointer.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	other, err := pointer.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	const id = "0123456789abcdef"
	digest := strings.Repeat("ab", 32)
	p := pointer.Pointer{
		Generation: 7, Release: "20261122T231500Z-" + digest[:12], Digest: digest, Created: time.Now(), Store: id,
		Snapshots: map[string]string{"eu-west-1": "snap-0123456789abcdef0"},
	}
	document, err := p.Sign(secret)
	if err != nil {
		t.Fatal(err)
	}
	unsigned, plain := string(p.Render()), "snap-0123456789abcdef0\n"
	of := func(store string, k pointer.SecretKey) string { return store + ":" + k.Public().String() }
	for _, tc := range []struct {
		name     string
		document string
		trusted  []string
		least    int64
		end      error
	}{
		{"nothing is set", unsigned, nil, 0, nil},
		{"nothing is set, a line", plain, nil, 0, nil},
		{"signed", string(document), nil, 7, nil},
		{"signed by one of several", string(document), []string{of(id, other), of(id, secret)}, 0, nil},
		{"signed by another", string(document), []string{of(id, other)}, 0, boot.ErrUnsigned},
		{"trusted for another store", string(document), []string{of("fedcba9876543210", secret)}, 0, boot.ErrUnsigned},
		{"unsigned", unsigned, []string{of(id, secret)}, 0, boot.ErrUnsigned},
		{"a line", plain, []string{of(id, secret)}, 0, boot.ErrUnsigned},
		{"below the least", string(document), nil, 8, boot.ErrOlder},
		{"a line, and there is a least", plain, nil, 1, boot.ErrOlder},
	} {
		web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, tc.document) }))
		fetcher, err := NewFetcher(web.URL, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		got, err := Pointers{Fetcher: fetcher, Trusted: tc.trusted, Least: tc.least, Log: slog.New(slog.DiscardHandler)}.Fetch(t.Context())
		web.Close()
		if !errors.Is(err, tc.end) || tc.end != nil && strings.Count(err.Error(), "Try: ") != 1 {
			t.Errorf("%s: %v", tc.name, err)
		}
		if want := tc.document == string(document) && err == nil; (got.Document == tc.document) != want {
			t.Errorf("%s: the document is %q", tc.name, got.Document)
		}
	}
}
