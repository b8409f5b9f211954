package volume

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

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

// hasCode says whether EC2 answered with one of codes
// (https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html).
func hasCode(err error, codes ...string) bool {
	var api smithy.APIError
	return errors.As(err, &api) && slices.Contains(codes, api.ErrorCode())
}

func says(err error, words string) bool {
	var api smithy.APIError
	return errors.As(err, &api) && strings.Contains(api.ErrorMessage(), words)
}

// IsNotFound says that there is no such volume. Right after CreateVolume it may mean "not yet"
// (kubernetes #77389).
func IsNotFound(err error) bool { return hasCode(err, "InvalidVolume.NotFound") }

// isTokenBurned: the client token was used with other parameters, or its volume is gone; it stays
// so for about 12 hours (CSI #1951, #2075).
func isTokenBurned(err error) bool { return hasCode(err, "IdempotentParameterMismatch") }

// isSnapshotUnusable: not found, or still pending (velero #1799).
func isSnapshotUnusable(err error) bool {
	return hasCode(err, "InvalidSnapshot.NotFound", "InvalidSnapshotID.Malformed") ||
		hasCode(err, "IncorrectState") && says(err, "napshot")
}

// isIncorrectState: the volume or the instance is not in a state for this yet, or any more.
func isIncorrectState(err error) bool { return hasCode(err, "IncorrectState") }

// isInstanceNotFound: like IsNotFound, "not yet" when the instance was launched a moment ago.
func isInstanceNotFound(err error) bool { return hasCode(err, "InvalidInstanceID.NotFound") }

// isNameTaken: the device name is used by another attachment (CSI device_names). The code alone
// says less.
func isNameTaken(err error) bool {
	return hasCode(err, "InvalidParameterValue") && says(err, "already in use")
}

// isInUse: the volume is attached, perhaps by an earlier call of ours whose answer was lost.
func isInUse(err error) bool { return hasCode(err, "VolumeInUse") }

// isLimit: looks like a stuck attach if it is retried (CSI #1163, #1258).
func isLimit(err error) bool {
	return hasCode(err, "AttachmentLimitExceeded", "InstanceLimitExceeded") || says(err, "TooManyAttachments")
}

// isNotMapped: ModifyInstanceAttribute does not see the attachment yet.
func isNotMapped(err error) bool {
	return hasCode(err, "InvalidInstanceAttributeValue") && says(err, "No device is currently mapped")
}

// IsDenied says that the role lacks a right.
func IsDenied(err error) bool {
	return hasCode(err, "UnauthorizedOperation", "AccessDenied", "AccessDeniedException", "Client.UnauthorizedOperation")
}

// IsDryRun says that this is the answer to a DryRun that would have been allowed.
func IsDryRun(err error) bool { return hasCode(err, "DryRunOperation") }

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
func Denied(err error, action string) string {
	var api smithy.APIError
	if !errors.As(err, &api) {
		return err.Error()
	}
	message := strings.TrimSpace(api.ErrorMessage())
	text := api.ErrorCode() + ": " + strings.TrimRight(encodedReason.ReplaceAllString(message, ""), ". ")
	advice := "allow " + DeniedAction(err, action) + " in the role of this instance"
	if strings.Contains(message, "explicit deny") {
		advice = "look at the policy that denies it; one that demands tags is content with the setting `tags`"
	}
	text = "not allowed: " + text + clockWords(err) + ". Try: " + advice
	if reason := encodedReason.FindStringSubmatch(message); reason != nil {
		text += "; the whole reason: aws sts decode-authorization-message --encoded-message " + reason[1]
	}
	return text
}

// explain turns the SDK's error for an action into words for a person, and keeps it below for
// errors.As.
func explain(action string, err error) error {
	var api smithy.APIError
	switch {
	case IsDenied(err):
		return &explained{Denied(err, "ec2:"+action), err}
	case errors.As(err, &api):
		text := fmt.Sprintf("%s: %s: %s%s", action, api.ErrorCode(), strings.TrimSpace(api.ErrorMessage()), clockWords(err))
		if errors.Is(err, context.DeadlineExceeded) {
			text += " (again and again, until the time was up)"
		}
		return &explained{text, err}
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
