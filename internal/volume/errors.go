package volume

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"ebs-release/internal/advice"

	"github.com/aws/smithy-go"
)

// What a caller has to tell apart. Errors of this package wrap one of these where it fits.
var (
	// ErrSnapshot: the snapshot is not there (deleted, wrong id, not in this Region), or not
	// completed.
	ErrSnapshot = errors.New("the snapshot cannot be used")
	// ErrFailed: EC2 accepted the volume, and then it went to `error`, was deleted, or vanished.
	ErrFailed = errors.New("the volume failed")
	// ErrLimit: the instance cannot take one more volume.
	ErrLimit = errors.New("the attachment limit of the instance is reached")
)

// deniedWords are in EC2's message, which names the right: CreateVolume with tags needs
// ec2:CreateTags, too.
var deniedWords = regexp.MustCompile(`not authorized to perform: ([a-z0-9]+:[A-Za-z]+)`)

// DeniedAction is the right that is missing, by EC2's own word, or else action.
func DeniedAction(err error, action string) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		if words := deniedWords.FindStringSubmatch(api.ErrorMessage()); words != nil {
			return words[1]
		}
	}
	return action
}

// encodedReason is what EC2's message of a refusal may end with: hundreds of characters, which only
// their owner can read.
var encodedReason = regexp.MustCompile(`\s*Encoded authorization failure message: (\S+)`)

// Denied is EC2's refusal of an action in its own words, and what to do about it: they say which
// policy refuses, and that may be one of the organization (woodpecker autoscaler #528).
func Denied(err error, action string) error {
	var api smithy.APIError
	if !errors.As(err, &api) {
		return err
	}
	message := strings.TrimSpace(api.ErrorMessage())
	text := api.ErrorCode() + ": " + strings.TrimRight(encodedReason.ReplaceAllString(message, ""), ". ")
	try := "allow " + DeniedAction(err, action) + " in the role of this instance"
	if strings.Contains(message, "explicit deny") {
		try = "look at the policy that denies it; one that demands tags is content with the setting `tags`"
	}
	if reason := encodedReason.FindStringSubmatch(message); reason != nil {
		try += "; the whole reason: aws sts decode-authorization-message --encoded-message " + reason[1]
	}
	return advice.Try(withClock(&explained{"not allowed: " + text, err}), "%s", try)
}

// explain turns the SDK's error for an action into words for a person, and keeps it below for
// errors.As.
func explain(action string, err error) error {
	var api smithy.APIError
	switch {
	case IsDenied(err):
		return Denied(err, "ec2:"+action)
	case errors.As(err, &api):
		text := fmt.Sprintf("%s: %s: %s", action, api.ErrorCode(), strings.TrimSpace(api.ErrorMessage()))
		if errors.Is(err, context.DeadlineExceeded) {
			text += " (again and again, until the time was up)"
		}
		return withClock(&explained{text, err})
	default:
		return err
	}
}

// explained is an error with shorter words.
type explained struct {
	text string
	err  error
}

func (e *explained) Error() string { return e.text }

func (e *explained) Unwrap() error { return e.err }
