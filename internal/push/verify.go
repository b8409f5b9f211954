package push

import (
	"context"
	"fmt"

	"ebs-release/internal/push/wire"
	"ebs-release/internal/release"
)

// Verify has the member's agent read every file of a release that it holds, and compare all of the tree with its manifest, whose digest has to be digest.
// It returns how many files were read. Nothing is changed there.
func (s *Session) Verify(ctx context.Context, id, digest string) (files int, err error) {
	if !release.ValidID(id) || !release.ValidDigest(digest) {
		return 0, fmt.Errorf("verify %q: not a release", id)
	}
	var answer wire.Verified
	err = s.ask(ctx, wire.Request{Do: wire.Verify, Release: id, Digest: digest}, nil, &answer)
	if err == nil && (answer.State != wire.StateVerified || answer.Digest != digest) {
		err = fmt.Errorf("its agent answers %q", answer.State)
	}
	if err != nil {
		return 0, s.failed("verify "+id, err)
	}
	return answer.Files, nil
}
