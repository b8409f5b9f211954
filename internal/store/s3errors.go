package store

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"ebs-release/internal/advice"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// What S3 answers ("Error responses", S3 API reference), where a program tells it apart.
const (
	codeNoBucket    = "NoSuchBucket"
	codeNoUpload    = "NoSuchUpload"
	codeNoRules     = "NoSuchLifecycleConfiguration"
	codeNoLock      = "ObjectLockConfigurationNotFoundError"
	codeWrongKey    = "InvalidAccessKeyId"
	codeWrongSign   = "SignatureDoesNotMatch"
	codeSlowDown    = "SlowDown"
	codeSkewed      = "RequestTimeTooSkewed"
	codeWrongRegion = "AuthorizationHeaderMalformed" // 400, with the bucket's Region in the message

	rightToPut = "s3:PutObject"
)

// answer is what S3 said; zero: nothing that arrived here.
type answer struct {
	status  int
	code    string
	message string
	region  string // of the bucket, where S3 says it
}

func answerTo(err error) (a answer) {
	if response, ok := errors.AsType[*smithyhttp.ResponseError](err); ok && response.Response != nil {
		a.status = response.HTTPStatusCode()
		a.region = response.Response.Header.Get("X-Amz-Bucket-Region")
	}
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		a.code, a.message = api.ErrorCode(), api.ErrorMessage()
	}
	return a
}

// unclear says whether a write may have been carried out, or still will be: no answer, or one of a
// server in trouble.
func (a answer) unclear() bool {
	return a.status == 0 || a.status >= 500 || a.status == http.StatusRequestTimeout
}

// kmsRight finds the right of a key that AWS names: a bucket with SSE-KMS needs one for each read
// and write.
var kmsRight = regexp.MustCompile(`kms:[A-Za-z]+`)

// failed says what S3's answer means, and what to do. right is what the call needs.
func (s *S3) failed(op, key, right string, err error) error {
	if err == nil {
		return nil
	}
	a := answerTo(err)
	e := &Error{Op: op, On: s.on(key), Err: err}
	said := strings.TrimSpace(fmt.Sprintf("%d %s", a.status, a.code))
	switch {
	case a.status == http.StatusNotModified:
		e.Err = ErrUnmodified
	case a.code == codeNoBucket:
		e.Final = true
		e.Err = advice.Try(fmt.Errorf("%s: there is no bucket %s", said, s.bucket), "correct its name, or make it")
	case a.status == http.StatusNotFound:
		e.Err = fmt.Errorf("%s: %w", said, ErrNotFound)
	case a.status == http.StatusMovedPermanently, a.code == codeWrongRegion && a.region != "":
		e.Final = true
		where := "another Region"
		if a.region != "" {
			where = a.region
		}
		e.Err = advice.Try(fmt.Errorf("%s: the bucket %s is in %s, and S3 was asked in %s", said, s.bucket, where, s.region),
			"a bucket in %s, which is where instances and snapshots are", s.region)
	case a.code == codeSkewed:
		e.Err = advice.Try(fmt.Errorf("%s: the clock of this machine is too far off", said),
			"`timedatectl`, and chrony with the server 169.254.169.123")
	case a.code == codeWrongKey, a.code == codeWrongSign:
		e.Err = advice.Try(fmt.Errorf("%s: S3 does not take the AWS credentials: %s", said, a.message),
			"look at the instance's role, AWS_PROFILE, and the clock")
	case a.status == http.StatusForbidden:
		e.Err = s.denied(op, said, right, a.message)
	case a.code == codeSlowDown, a.status == http.StatusTooManyRequests:
		e.Err = advice.Try(fmt.Errorf("%s: S3 asks for fewer requests", said),
			"again in a minute; a prefix takes 3,500 writes and 5,500 reads a second")
	case a.status == http.StatusConflict:
		e.Err = advice.Try(fmt.Errorf("%s: others write it all the time: %s", said, a.message), "again")
	case a.status == 0:
		e.Err = fmt.Errorf("no answer from %s: %w", s.endpoint(), plainCause(err))
	default:
		e.Err = fmt.Errorf("%s: %s", said, a.message)
	}
	return e
}

// denied names the right that is missing. S3 says 403 also of an object that is not there, to who
// may not list the bucket ("GetObject", S3 API reference).
func (s *S3) denied(op, said, right, message string) error {
	if kms := kmsRight.FindString(message); kms != "" {
		right = kms + " on the bucket's key"
	}
	hint, hidden := "", op == opRead && !strings.HasPrefix(right, "kms:")
	if hidden {
		hint = "; or it is not there (nothing is published yet, or it was removed), which S3 tells only who has s3:ListBucket"
	}
	err := advice.Try(fmt.Errorf("%s: the right %s is missing%s: %s", said, right, hint, message),
		"compare the role with the policies of packaging/iam, and look at the bucket's policy")
	if hidden {
		return named{err, ErrDenied}
	}
	return err
}

// plainCause takes off the SDK's own words: operation, attempts, request ids.
func plainCause(err error) error {
	if sent, ok := errors.AsType[*smithyhttp.RequestSendError](err); ok {
		return sent.Err
	}
	return err
}
