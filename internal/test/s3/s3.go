// Package s3 gives tests a real S3 server, which is gone when the test is.
package s3

import (
	"context"
	"testing"
	"time"

	"ebs-release/internal/lab/bucket"
)

// buildTime is for the first server on a machine, which is built.
const buildTime = 5 * time.Minute

// Start starts a server with an empty bucket.
func Start(t testing.TB) *bucket.Server { t.Helper(); return start(t, bucket.Start) }

// StartVersioned starts one whose bucket can keep versions.
func StartVersioned(t testing.TB) *bucket.Server { t.Helper(); return start(t, bucket.StartVersioned) }

func start(t testing.TB, how func(context.Context, string) (*bucket.Server, error)) *bucket.Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), buildTime)
	defer cancel()
	server, err := how(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	return server
}
