package e2e

import (
	"strings"
	"testing"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/bucket"
	"ebs-release/internal/lab/cloud"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// doctorOfBucket: the doctor names what the bucket does to the store behind its back, and what
// reading costs.
func doctorOfBucket(r *rig) {
	r.Helper()
	says := func(want ...string) {
		r.Helper()
		out := r.publisher("doctor")
		for _, w := range want {
			if !strings.Contains(out.Stdout, w) {
				r.Errorf("doctor does not say %q:\n%s%s", w, out.Stdout, out.Stderr)
			}
		}
		if out.Code != 0 {
			r.Errorf("doctor: exit %d", out.Code)
		}
	}
	says("ok    lifecycle of the bucket: no rule touches the store", "ok    versions in the bucket: not kept",
		"a member that asks for the pointer every 30s costs $0.03 a month, 1 of them $0.03 (list price of us-east-1")
	r.lab.Account.SetLifecycle("<LifecycleConfiguration><Rule><ID>tidy</ID><Filter><Prefix>prod/packs/</Prefix></Filter><Status>Enabled</Status>" +
		"<Expiration><Days>30</Days></Expiration></Rule></LifecycleConfiguration>")
	says("warn  lifecycle of the bucket: rules take away what members boot from, or what they have reported: tidy: removes packs/ after 30 days. Try: limit these rules")
	defer r.lab.Account.Fault(cloud.Fault{Action: "GetBucketLifecycleConfiguration", Effect: cloud.Effect{Fail: cloud.Unauthorized}})()
	says("warn  lifecycle of the bucket: could not look: ", "the right s3:GetLifecycleConfiguration is missing")
}

// guarded: the bucket's policy stops also who has all rights of the account.
func guarded(r *rig) {
	r.Helper()
	was := r.inStore("release.json")
	for name, act := range map[string]func(*s3.Client, *string) error{
		"a plain write": func(c *s3.Client, key *string) error {
			_, err := c.PutObject(r.Context(), &s3.PutObjectInput{Bucket: aws.String(bucket.Name), Key: key, Body: strings.NewReader("{}")})
			return err
		},
		"an upload in parts": func(c *s3.Client, key *string) error {
			_, err := c.CreateMultipartUpload(r.Context(), &s3.CreateMultipartUploadInput{Bucket: aws.String(bucket.Name), Key: key})
			return err
		},
		"a delete": func(c *s3.Client, key *string) error {
			_, err := c.DeleteObject(r.Context(), &s3.DeleteObjectInput{Bucket: aws.String(bucket.Name), Key: key})
			return err
		},
	} {
		err := act(r.lab.S3(), aws.String(bucket.Prefix+"/release.json"))
		if err == nil || !strings.Contains(err.Error(), "StatusCode: 403") || !strings.Contains(err.Error(), "AccessDenied") {
			r.Errorf("%s by the owner: %v", name, err)
		}
		must(r, act(r.lab.S3(), aws.String(bucket.Prefix+"/something")))
	}
	if r.inStore("release.json") != was {
		r.Error("the pointer was changed")
	}
}

// TestLargePackInS3: what is larger than one part goes there in parts, and comes back whole.
func TestLargePackInS3(t *testing.T) {
	roles := shippedPolicies(t)
	r := newRig(t, func(o *lab.Options) { o.S3 = true; o.Policy = roles.Allow })
	r.sh("mkdir /srv/source; echo one > /srv/source/version")
	r.ok("init", "--size", "1")
	r.ok("publish", "/srv/source")
	member := r.scale(1)[0]
	sum := r.sh("echo two > /srv/source/version; head -c 150000000 /dev/urandom > /srv/source/large; sha256sum < /srv/source/large")
	before := r.count(r.server.ID, "UploadPart", "")
	r.ok("publish", "/srv/source")
	if parts := r.count(r.server.ID, "UploadPart", "") - before; parts != 2 || r.count(r.server.ID, "CompleteMultipartUpload", "") != 1 {
		t.Errorf("it went in %d parts", parts)
	}
	if got := r.on(member, "sha256sum < /release/current/large"); got != sum || r.version(member) != "two" {
		t.Errorf("the member has %s of it, want %s", got, sum)
	}
	for _, c := range roles.Denied() {
		t.Errorf("refused: %+v", c)
	}
}

// put writes an object as the account's owner.
func (r *rig) put(key, text string) {
	r.Helper()
	_, err := r.lab.S3().PutObject(r.Context(), &s3.PutObjectInput{
		Bucket: aws.String(bucket.Name), Key: aws.String(bucket.Prefix + "/" + key), Body: strings.NewReader(text),
	})
	must(r, err)
}
