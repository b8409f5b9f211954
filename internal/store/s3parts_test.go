package store_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"ebs-release/internal/lab/bucket"
	"ebs-release/internal/store"
	"ebs-release/internal/test/s3"

	"github.com/aws/aws-sdk-go-v2/aws"
)

const smallPart = 5 << 20 // the smallest that S3 takes

// inParts opens a store with small parts, whose requests are counted by what they do, and lets
// change see each first.
func inParts(t *testing.T, server *bucket.Server, change func(kind string, r *http.Request) (*http.Response, error)) (*store.S3, func(kind string) int) {
	t.Helper()
	var mu sync.Mutex
	seen := map[string]int{}
	s := openS3(t, "/prod", func(ctx context.Context) (aws.Config, error) {
		cfg, err := server.Config(ctx)
		cfg.HTTPClient = way(func(r *http.Request, send func(*http.Request) (*http.Response, error)) (*http.Response, error) {
			kind := r.Method
			for _, of := range []string{"uploads", "partNumber", "uploadId"} {
				if r.URL.Query().Has(of) {
					kind += " " + of
					break
				}
			}
			mu.Lock()
			seen[kind]++
			mu.Unlock()
			if change != nil {
				if resp, err := change(kind, r); resp != nil || err != nil {
					return resp, err
				}
			}
			return send(r)
		})
		return cfg, err
	})
	s.SmallParts(smallPart)
	return s, func(kind string) int { mu.Lock(); defer mu.Unlock(); return seen[kind] }
}

func content(size int) []byte {
	data := make([]byte, size)
	source := rand.NewChaCha8([32]byte{7})
	_, _ = source.Read(data)
	return data
}

// leftParts are the files of uploads that nobody ended, in the server's own place for them.
func leftParts(t *testing.T, server *bucket.Server) (names []string) {
	t.Helper()
	must(t, filepath.WalkDir(filepath.Join(server.Objects(), bucket.Name), func(name string, entry os.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() && strings.Contains(name, "multipart") {
			names = append(names, name)
		}
		return err
	}))
	return names
}

func TestALargeObjectGoesInParts(t *testing.T) {
	server := s3.Start(t)
	var failed atomic.Bool
	s, count := inParts(t, server, func(kind string, r *http.Request) (*http.Response, error) {
		if r.URL.Query().Get("partNumber") == "2" && failed.CompareAndSwap(false, true) {
			_, _ = io.CopyN(io.Discard, r.Body, 1<<20)
			return nil, &net.OpError{Op: "write", Err: syscall.ECONNRESET} // the SDK sends this part again
		}
		return nil, nil
	})
	data := content(2*smallPart + 1234)
	body := bytes.NewReader(append([]byte("before"), data...))
	_, err := body.Seek(6, io.SeekStart)
	must(t, err)
	must(t, s.Put(t.Context(), "packs/large", body))
	got, _, err := store.ReadAll(t.Context(), s, "packs/large", 1<<30, "")
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes came back of %d, %v", len(got), len(data), err)
	}
	if count("POST uploads") != 1 || count("PUT partNumber") != 4 || count("POST uploadId") != 1 || count("PUT") != 0 {
		t.Errorf("%d uploads, %d parts, %d ends", count("POST uploads"), count("PUT partNumber"), count("POST uploadId"))
	}
	must(t, s.Put(t.Context(), "packs/small", bytes.NewReader(data[:smallPart])))
	if count("PUT") != 1 || count("POST uploads") != 1 {
		t.Errorf("what fits into one request took %d", count("PUT"))
	}
}

func TestAnUploadThatFailsLeavesNothing(t *testing.T) {
	server := s3.Start(t)
	denied := func(kind string, r *http.Request) (*http.Response, error) {
		if r.URL.Query().Get("partNumber") == "3" {
			return answer(r, http.StatusForbidden, "AccessDenied", "Access Denied", nil), nil
		}
		return nil, nil
	}
	s, count := inParts(t, server, denied)
	err := s.Put(t.Context(), "packs/large", bytes.NewReader(content(3*smallPart)))
	if err == nil || !strings.HasPrefix(err.Error(), "write s3://releases/prod/packs/large: 403 AccessDenied: the right s3:PutObject is missing") {
		t.Errorf("%v", err)
	}
	if left := leftParts(t, server); len(left) > 0 || count("DELETE uploadId") != 1 {
		t.Errorf("%d gave up; the server has %v", count("DELETE uploadId"), left)
	}
	items, err := s.List(t.Context(), "", "", 10)
	if err != nil || len(items) > 0 {
		t.Errorf("%v, %v", items, err)
	}
	// Who waits no longer still has the parts removed.
	ctx, cancel := context.WithCancel(t.Context())
	s, count = inParts(t, server, func(kind string, r *http.Request) (*http.Response, error) {
		if r.URL.Query().Get("partNumber") == "2" {
			cancel()
			return nil, ctx.Err()
		}
		return nil, nil
	})
	if err := s.Put(ctx, "packs/large", bytes.NewReader(content(3*smallPart))); err == nil {
		t.Error("it went on after its end")
	}
	if left := leftParts(t, server); len(left) > 0 || count("DELETE uploadId") != 1 {
		t.Errorf("%d gave up; the server has %v", count("DELETE uploadId"), left)
	}
	// Without the right to give up, it is told what to do.
	s, _ = inParts(t, server, func(kind string, r *http.Request) (*http.Response, error) {
		if kind == "DELETE uploadId" {
			return answer(r, http.StatusForbidden, "AccessDenied", "Access Denied", nil), nil
		}
		return denied(kind, r)
	})
	err = s.Put(t.Context(), "packs/large", bytes.NewReader(content(3*smallPart)))
	if err == nil || !strings.Contains(err.Error(), "the right s3:AbortMultipartUpload is missing") || !strings.Contains(err.Error(), "AbortIncompleteMultipartUpload") {
		t.Errorf("%v", err)
	}
}

// The answer to the last request is lost, and S3 knows no such upload when it is asked again.
func TestAnUploadThatMeetsItsOwnEnd(t *testing.T) {
	server := s3.Start(t)
	ended := false
	s, count := inParts(t, server, func(kind string, r *http.Request) (*http.Response, error) {
		if kind != "POST uploadId" || ended {
			return nil, nil
		}
		ended = true
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			return resp, err
		}
		_, _ = resp.Body.Close(), resp.StatusCode
		return nil, &net.OpError{Op: "read", Err: syscall.ECONNRESET}
	})
	if err := s.Put(t.Context(), "packs/large", bytes.NewReader(content(2*smallPart))); err != nil || count("POST uploadId") < 2 {
		t.Errorf("%v after %d ends", err, count("POST uploadId"))
	}
}

func TestPartsAreNotHeldInMemory(t *testing.T) {
	s, _ := inParts(t, s3.Start(t), nil)
	s.SmallParts(64 << 20)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	must(t, s.Put(t.Context(), "packs/large", big{io.NewSectionReader(zeros{}, 0, 200<<20)}))
	runtime.ReadMemStats(&after)
	if took := (after.TotalAlloc - before.TotalAlloc) >> 20; took > 32 {
		t.Errorf("200 MiB took %d MiB", took)
	}
}
