package packaging_test

import (
	"maps"
	"strings"
	"testing"

	"ebs-release/internal/lab/policy"
	"ebs-release/packaging/iam"
)

// TestBucketPolicyGuardsThePointer: what the policy of the bucket forbids everybody, also who may
// do all else there, and that it forbids nothing that the programs do.
func TestBucketPolicyGuardsThePointer(t *testing.T) {
	type facts = map[string][]string
	byTLS := func(more ...facts) facts {
		all := facts{"aws:SecureTransport": {"true"}}
		for _, m := range more {
			maps.Copy(all, m)
		}
		return all
	}
	whole, parts := facts{"s3:ObjectCreationOperation": {"true"}}, facts{"s3:ObjectCreationOperation": {"false"}}
	const releaseJSON, pack = inS3 + "release.json", inS3 + "packs/0123456789ab-0123456789ab-0123456789ab"
	for prefix, at := range map[string]string{"prod": inS3, "": "arn:aws:s3:::releases/"} {
		doc, err := policy.ParseBucket([]byte(iam.Bucket("releases", prefix)))
		if err != nil {
			t.Fatal(err)
		}
		needed := map[string]bool{}
		for _, a := range []ask{
			{"write the pointer over what was read", "s3:PutObject", releaseJSON, byTLS(whole, facts{"s3:if-match": {`"abc"`}}), ""},
			{"write the first one", "s3:PutObject", releaseJSON, byTLS(whole, facts{"s3:if-none-match": {"*"}}), ""},
			{"write it whatever is there", "s3:PutObject", releaseJSON, byTLS(whole), "PointerOnlyOverWhatWasRead"},
			{"in parts", "s3:PutObject", releaseJSON, byTLS(parts), "PointerOnlyOverWhatWasRead"},
			{"end an upload in parts, whatever is there", "s3:PutObject", releaseJSON, byTLS(whole), "PointerOnlyOverWhatWasRead"},
			{"remove it", "s3:DeleteObject", releaseJSON, byTLS(), "PointerStays"},
			{"remove a version of it", "s3:DeleteObjectVersion", releaseJSON, byTLS(), "PointerStays"},
			{"read it", "s3:GetObject", releaseJSON, byTLS(), ""},
			{"read it in the clear", "s3:GetObject", releaseJSON, facts{"aws:SecureTransport": {"false"}}, "OnlyByTLS"},
			{"list in the clear", "s3:ListBucket", "arn:aws:s3:::releases", facts{"aws:SecureTransport": {"false"}}, "OnlyByTLS"},
			{"list", "s3:ListBucket", "arn:aws:s3:::releases", byTLS(), ""},
			{"write a pack", "s3:PutObject", pack, byTLS(whole), ""},
			{"write a part of one", "s3:PutObject", pack, byTLS(parts), ""},
			{"remove a pack", "s3:DeleteObject", pack, byTLS(), ""},
			{"write snap.txt", "s3:PutObject", inS3 + "snap.txt", byTLS(whole), ""},
			{"another store's pointer", "s3:PutObject", "arn:aws:s3:::releases/other/release.json", byTLS(whole), ""},
		} {
			request := policy.Request{Action: a.action, Resource: strings.Replace(a.resource, inS3, at, 1), Context: a.context}
			if got := doc.Evaluate(request); got.Sid != a.sid {
				t.Errorf("prefix %q: %s: decided by %q, want %q", prefix, a.name, got.Sid, a.sid)
			}
			if a.sid != "" && doc.Without(a.sid).Evaluate(request).Sid == "" {
				needed[a.sid] = true
			}
		}
		for _, sid := range doc.Sids() {
			if !needed[sid] {
				t.Errorf("prefix %q: nothing needs the statement %s", prefix, sid)
			}
		}
	}
	if text := read(t, "iam/bucket.json"); len(text) > 20<<10 { // "20 KB", bucket policies (S3 User Guide)
		t.Errorf("it has %d bytes: too long for a bucket", len(text))
	}
}
