package push

import (
	"context"
	"encoding/json"
	"fmt"

	"ebs-release/internal/release"
)

// Verify has the member's agent read every file of a release that it holds, and compare all of the tree with its manifest, whose digest has to be digest.
// It returns how many files were read. Nothing is changed there.
func (s *Session) Verify(ctx context.Context, id, digest string) (files int, err error) {
	if !release.ValidID(id) || !release.ValidDigest(digest) {
		return 0, fmt.Errorf("verify %q: not a release", id)
	}
	var out []byte
	if err := s.agent(ctx, nil, &out, "verify", "--release", id, "--digest", digest, "--output", "json"); err != nil {
		return 0, s.failed("verify "+id, err)
	}
	var answer struct {
		State string
		Files int
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		return 0, s.failed("verify "+id, fmt.Errorf("its agent's answer can't be read: %w", err))
	}
	if answer.State != "verified" {
		return 0, s.failed("verify "+id, fmt.Errorf("its agent answers %q", answer.State))
	}
	return answer.Files, nil
}
