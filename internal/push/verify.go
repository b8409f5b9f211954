package push

import (
	"context"
	"fmt"

	"ebs-release/internal/advice"
	"ebs-release/internal/manifest"
	"ebs-release/internal/push/wire"
)

// Verify has the member's agent read every file of a release that it holds, and compare all of the
// tree with its manifest, whose digest has to be digest. It has to be what is active there, as that
// generation. It returns how many files were read. Nothing is changed there.
func (s *Session) Verify(ctx context.Context, id, digest string, generation int64) (files int, err error) {
	if !manifest.ValidID(id) || !manifest.ValidDigest(digest) {
		return 0, fmt.Errorf("verify %q: not a release", id)
	}
	var answer wire.Verified
	err = s.ask(ctx, wire.Request{Do: wire.Verify, Release: id, Digest: digest, Generation: generation}, &answer)
	switch {
	case err != nil:
	case answer.State != wire.StateVerified || answer.Digest != digest:
		err = fmt.Errorf("its agent answers %q", answer.State)
	case answer.Generation != generation:
		err = advice.Try(fmt.Errorf("its agent is too old to say what `current` leads to; the files of %s are as published", id),
			"update ebs-release-agent there")
	}
	if err != nil {
		return 0, s.failed("verify "+id, err)
	}
	return answer.Files, nil
}
