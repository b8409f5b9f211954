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
func Start(t testing.TB) *bucket.Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), buildTime)
	defer cancel()
	server, err := bucket.Start(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	return server
}
