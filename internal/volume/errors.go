package volume

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/smithy-go"
)

// What a caller has to tell apart. Errors of this package wrap one of these where it fits.
var (
	// ErrSnapshot: the snapshot is not there (deleted, wrong id, not in this Region), or not completed.
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

// IsNotFound: there is no such volume. Right after CreateVolume it may mean "not yet" (kubernetes #77389).
func IsNotFound(err error) bool { return hasCode(err, "InvalidVolume.NotFound") }

// isTokenBurned: the client token was used with other parameters, or its volume is gone; it stays so for about 12 hours (CSI #1951, #2075).
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

// isNameTaken: the device name is used by another attachment (CSI device_names). The code alone says less.
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

// isUnauthorized: the role lacks a right.
func isUnauthorized(err error) bool {
	return hasCode(err, "UnauthorizedOperation", "AccessDenied", "AccessDeniedException", "Client.UnauthorizedOperation")
}

// explain turns the SDK's error for an action into words for a person, and keeps it below for errors.As.
func explain(action string, err error) error {
	var api smithy.APIError
	switch {
	case isUnauthorized(err):
		// EC2's own message ends with hundreds of characters of an encoded reason.
		return &explained{fmt.Sprintf("not allowed. Try: allow ec2:%s in the role of this instance", action), err}
	case errors.As(err, &api):
		return &explained{fmt.Sprintf("%s: %s: %s", action, api.ErrorCode(), strings.TrimSpace(api.ErrorMessage())), err}
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
