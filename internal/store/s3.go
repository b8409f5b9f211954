package store

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"ebs-release/internal/advice"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	smithytime "github.com/aws/smithy-go/time"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

const (
	scheme = "s3://"

	conflictTries = 8                      // of a PutIf that S3 answers with 409
	conflictPause = 200 * time.Millisecond // at most, before another one
	readBackTime  = 10 * time.Second       // for looking what became of a write, also after ctx ended
	writeName     = "ebs-release-write"    // of an object's metadata: which PutIf wrote it
)

// bucketName is what S3 takes ("General purpose bucket naming rules").
var bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)

// Load is the SDK's configuration, with a Region.
type Load func(context.Context) (aws.Config, error)

// S3 is a store below a prefix of a bucket. Keys and Region are the SDK's; an endpoint of one's own
// (AWS_ENDPOINT_URL_S3) is spoken to in path style. A bucket that encrypts by KMS needs nothing
// here: an ETag is never taken for a hash.
type S3 struct {
	api            *s3.Client // for documents: as long as the configuration says
	bodies         *s3.Client // for what may be large: as long as its caller waits
	bucket, prefix string     // the prefix is "" or ends with a slash
	region         string
	part           int64 // bytes: see partSize
}

// IsS3 says whether a place is meant as s3://bucket/prefix.
func IsS3(place string) bool { return strings.HasPrefix(place, scheme) }

// ParseS3 takes s3://bucket or s3://bucket/prefix apart. The prefix ends with a slash, unless it is
// empty.
func ParseS3(place string) (bucket, prefix string, err error) {
	bucket, prefix, _ = strings.Cut(strings.TrimPrefix(place, scheme), "/")
	prefix = strings.TrimSuffix(prefix, "/")
	if !IsS3(place) || !bucketName.MatchString(bucket) || prefix != "" && checkKey(prefix) != nil {
		return "", "", fmt.Errorf("%q is no place in S3: want s3://BUCKET/PREFIX", place)
	}
	if prefix != "" {
		prefix += "/"
	}
	return bucket, prefix, nil
}

// OpenS3 opens the store at s3://bucket/prefix. S3 is not asked for anything yet.
func OpenS3(ctx context.Context, place string, load Load) (*S3, error) {
	bucket, prefix, err := ParseS3(place)
	if err != nil {
		return nil, err
	}
	cfg, err := load(ctx)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", place, err)
	}
	options := func(o *s3.Options) {
		o.APIOptions = append(o.APIOptions, keepAnswer)
		o.UsePathStyle = o.BaseEndpoint != nil
		o.DisableLogOutputChecksumValidationSkipped = true // KMS and multipart objects have none; nobody reads its log
	}
	patient := func(o *s3.Options) {
		if c, ok := o.HTTPClient.(*awshttp.BuildableClient); ok {
			o.HTTPClient = c.WithTimeout(0)
		}
	}
	return &S3{s3.NewFromConfig(cfg, options), s3.NewFromConfig(cfg, options, patient), bucket, prefix, cfg.Region, partSize}, nil
}

func (s *S3) String() string { return strings.TrimSuffix(scheme+s.bucket+"/"+s.prefix, "/") }

// Get implements Store, and so do the methods below.
func (s *S3) Get(ctx context.Context, key string, unless Version) (Object, error) {
	if err := checkKey(key); err != nil {
		return Object{}, err
	}
	in := &s3.GetObjectInput{Bucket: &s.bucket, Key: aws.String(s.prefix + key)}
	if unless != "" {
		in.IfNoneMatch = aws.String(string(unless))
	}
	out, err := s.bodies.GetObject(ctx, in)
	if err != nil {
		return Object{}, s.failed(opRead, key, "s3:GetObject", err)
	}
	if raw, ok := awsmiddleware.GetRawResponse(out.ResultMetadata).(*smithyhttp.Response); ok && raw.StatusCode == http.StatusPartialContent {
		_ = out.Body.Close()
		return Object{}, s.wrap(opRead, key, advice.Try(fmt.Errorf("206: only a part of it came (%s), and all was asked for",
			cmp.Or(aws.ToString(out.ContentRange), "it is not said which")),
			"look at what is between here and S3: a proxy, a cache"))
	}
	object := Object{Body: out.Body, Size: -1, Version: Version(aws.ToString(out.ETag))}
	if out.ContentLength != nil {
		object.Size = *out.ContentLength
	}
	return object, nil
}

// PutIf asks S3 to compare. A request that is made again may meet its own success as a conflict,
// and one whose answer was lost may have had it: what is there tells, by a name that each write
// has.
func (s *S3) PutIf(ctx context.Context, key string, data []byte, was Version) (Version, error) {
	if err := checkKey(key); err != nil {
		return "", err
	}
	in := &s3.PutObjectInput{Bucket: &s.bucket, Key: aws.String(s.prefix + key), Metadata: map[string]string{writeName: rand.Text()}}
	if len(data) > MaxDocument {
		return "", s.wrap(opWrite, key, fmt.Errorf("it has %d bytes, want at most %d", len(data), MaxDocument))
	}
	if was == "" {
		in.IfNoneMatch = aws.String("*")
	} else {
		in.IfMatch = aws.String(string(was))
	}
	for try := 1; ; try++ {
		in.Body = bytes.NewReader(data)
		out, err := s.api.PutObject(ctx, in)
		if err == nil {
			return Version(aws.ToString(out.ETag)), nil
		}
		answer := answerTo(err)
		switch {
		case answer.code == codeNoBucket:
			return "", s.failed(opWrite, key, rightToPut, err)
		case answer.status == http.StatusPreconditionFailed, answer.status == http.StatusNotFound && was != "":
			return s.readBack(ctx, in, key, ErrChanged)
		case answer.status == http.StatusConflict && try < conflictTries &&
			smithytime.SleepWithContext(ctx, conflictPause/2+mathrand.N(conflictPause/2)) == nil:
			continue // somebody writes the same key at this moment; who is second then gets 412
		case answer.unclear():
			return s.readBack(ctx, in, key, fmt.Errorf("%w: %w", ErrUnclear, s.failed(opWrite, key, rightToPut, err)))
		}
		return "", s.failed(opWrite, key, rightToPut, err)
	}
}

// readBack says what became of a write. verdict holds when what is there is not of this write.
func (s *S3) readBack(ctx context.Context, wrote *s3.PutObjectInput, key string, verdict error) (Version, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readBackTime)
	defer cancel()
	out, err := s.bodies.GetObject(ctx, &s3.GetObjectInput{Bucket: wrote.Bucket, Key: wrote.Key})
	none := answerTo(err).status == http.StatusNotFound
	if err == nil {
		_ = out.Body.Close()
	}
	switch {
	case err == nil && out.Metadata[writeName] == wrote.Metadata[writeName]:
		return Version(aws.ToString(out.ETag)), nil
	case errors.Is(verdict, ErrChanged):
	case err != nil && !none:
		verdict = advice.Errorf("%w; and it cannot be read back: %w", verdict, s.failed(opRead, key, "s3:GetObject", err))
	case err == nil && aws.ToString(out.ETag) != aws.ToString(wrote.IfMatch), none && wrote.IfMatch != nil:
		verdict = ErrChanged
	}
	return "", s.wrap(opWrite, key, verdict)
}

// Put sends body as one request, and a large one in parts.
func (s *S3) Put(ctx context.Context, key string, body io.ReadSeeker) error {
	if err := checkKey(key); err != nil {
		return err
	}
	at, err := body.Seek(0, io.SeekCurrent)
	if err != nil {
		return s.wrap(opWrite, key, err)
	}
	end, err := body.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = body.Seek(at, io.SeekStart)
	}
	if err != nil {
		return s.wrap(opWrite, key, err)
	}
	if end-at > s.part {
		return s.putParts(ctx, key, body, at, end-at)
	}
	_, err = s.bodies.PutObject(ctx, &s3.PutObjectInput{
		Bucket: &s.bucket, Key: aws.String(s.prefix + key), Body: body, ContentLength: aws.Int64(end - at),
	})
	return s.failed(opWrite, key, rightToPut, err)
}

// PutDocument writes a small object, whatever was there. Unlike Put it does not wait for a large
// one, and needs no right but s3:PutObject.
func (s *S3) PutDocument(ctx context.Context, key string, data []byte) error {
	if err := checkKey(key); err != nil {
		return err
	}
	_, err := s.api.PutObject(ctx, &s3.PutObjectInput{Bucket: &s.bucket, Key: aws.String(s.prefix + key), Body: bytes.NewReader(data)})
	return s.failed(opWrite, key, rightToPut, err)
}

// List reads page after page. A list shows what was written before it was asked for ("Amazon S3
// data consistency model", S3 User Guide).
func (s *S3) List(ctx context.Context, prefix, after string, most int) ([]Item, error) {
	var items []Item
	in := &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: aws.String(s.prefix + prefix)}
	if after != "" {
		in.StartAfter = aws.String(s.prefix + after)
	}
	pages := s3.NewListObjectsV2Paginator(s.api, in)
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, s.failed(opList, prefix, "s3:ListBucket", err)
		}
		for _, o := range page.Contents { // S3 sorts them
			items = append(items, Item{
				strings.TrimPrefix(aws.ToString(o.Key), s.prefix), aws.ToInt64(o.Size), aws.ToTime(o.LastModified), Version(aws.ToString(o.ETag)),
			})
		}
		if len(items) > most {
			return items[:most], s.wrap(opList, prefix, tooMany(most))
		}
	}
	return items, nil
}

// Delete is what S3 says yes to, whether the object is there or not.
func (s *S3) Delete(ctx context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	_, err := s.api.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.bucket, Key: aws.String(s.prefix + key)})
	return s.failed(opDelete, key, "s3:DeleteObject", err)
}

func (s *S3) wrap(op, key string, err error) error {
	return &Error{Op: op, On: s.on(key), Err: err}
}

func (s *S3) on(key string) string { return scheme + s.bucket + "/" + s.prefix + key }

// endpoint is where S3 was looked for, for errors without an answer.
func (s *S3) endpoint() string {
	if base := s.api.Options().BaseEndpoint; base != nil {
		if u, err := url.Parse(*base); err == nil {
			return u.Redacted()
		}
	}
	return "S3 in " + s.region
}
