package volume

import (
	"errors"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go"
)

// Every error code of EC2 that a program tells apart, here and nowhere else. A row is one of
// docs/failures.md; what has no other source is in "Error codes for the Amazon EC2 API"
// (https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html).
const (
	// A DryRun would have been allowed.
	codeDryRun = "DryRunOperation"
	// The role lacks a right.
	codeUnauthorized = "UnauthorizedOperation"
	// The same, as STS and S3 say it (IAM, "Common errors").
	codeDenied = "AccessDenied"
	// The same, as services with a JSON protocol say it, such as KMS.
	codeDeniedException = "AccessDeniedException"
	// The same, as CloudTrail has it.
	codeClientUnauthorized = "Client.UnauthorizedOperation"

	// There is no such volume. Right after CreateVolume it may mean "not yet" (row 5).
	codeNoVolume = "InvalidVolume.NotFound"
	// There is no such snapshot in this Region (row 19).
	codeNoSnapshot = "InvalidSnapshot.NotFound"
	// What was asked for is no snapshot's id.
	codeBadSnapshotID = "InvalidSnapshotID.Malformed"
	// There is no such instance. It was launched a moment ago, perhaps (row 5).
	codeNoInstance = "InvalidInstanceID.NotFound"
	// The volume is not attached to the instance.
	codeNoAttachment = "InvalidAttachment.NotFound"

	// A volume, snapshot or instance is not in a state for this yet, or any more (rows 1, 2, 19).
	codeIncorrectState = "IncorrectState"
	// The volume is attached, perhaps by an earlier call of ours whose answer was lost.
	codeVolumeInUse = "VolumeInUse"
	// The client token was used with other parameters, or its volume is gone (row 4).
	codeTokenBurned = "IdempotentParameterMismatch"
	// Many things; one is a device name that another attachment has (row 7).
	codeBadParameter = "InvalidParameterValue"
	// ModifyInstanceAttribute does not see the attachment yet.
	codeBadAttribute = "InvalidInstanceAttributeValue"

	// The resource has all the tags that it can have: 50 (row 101).
	codeTagLimit = "TagLimitExceeded"
	// The instance takes no more volumes. Tried again, it looks like a stuck attach (row 17).
	codeAttachmentLimit = "AttachmentLimitExceeded"
	// The account takes no more instances. Final, too.
	codeInstanceLimit = "InstanceLimitExceeded"
	// A volume takes one snapshot in 15 s (row 50).
	codeSnapshotRate = "SnapshotCreationPerVolumeRateExceeded"
	// This many snapshots of a volume are pending (row 50).
	codeSnapshotsAtOnce = "ConcurrentSnapshotLimitExceeded"
	// This many snapshots of the account are pending (row 50).
	codeSnapshotsPending = "PendingSnapshotLimitExceeded"
)

// There is no such launch template, or no such version. It was made a moment ago, perhaps.
const (
	codeNoTemplate        = "InvalidLaunchTemplateId.NotFound"
	codeNoTemplateName    = "InvalidLaunchTemplateName.NotFoundException"
	codeNoTemplateVersion = "InvalidLaunchTemplateId.VersionNotFound"
)

// Auto Scaling's code for what is wrong with a request; one thing is a launch that does not wait
// for this hook (row 37).
const codeValidation = "ValidationError"

// skewedCodes are what AWS says of a signature that is too old or too young (row 48). The SDK tries
// all but the first two again by itself (clockSkewCodes of
// its aws/retry).
var skewedCodes = []string{
	"RequestExpired", "RequestInTheFuture",
	"AuthFailure", "ExpiredToken", "InvalidSignatureException", "RequestTimeTooSkewed", "SignatureDoesNotMatch",
}

// hasCode says whether AWS answered with one of codes.
func hasCode(err error, codes ...string) bool {
	var api smithy.APIError
	return errors.As(err, &api) && slices.Contains(codes, api.ErrorCode())
}

// says looks into EC2's message, where the code alone says too little.
func says(err error, words string) bool {
	var api smithy.APIError
	return errors.As(err, &api) && strings.Contains(api.ErrorMessage(), words)
}

// IsDryRun says that this is the answer to a DryRun that would have been allowed.
func IsDryRun(err error) bool { return hasCode(err, codeDryRun) }

// IsDenied says that the role lacks a right.
func IsDenied(err error) bool {
	return hasCode(err, codeUnauthorized, codeDenied, codeDeniedException, codeClientUnauthorized)
}

// IsTagLimit says that the resource takes no more tags.
func IsTagLimit(err error) bool { return hasCode(err, codeTagLimit) }

// IsThrottled says that AWS refused a call for a request limit of the account (row 16), by the
// codes that the SDK knows.
func IsThrottled(err error) bool {
	return err != nil && retry.ThrottleErrorCode{Codes: retry.DefaultThrottleErrorCodes}.IsErrorThrottle(err) == aws.TrueTernary
}

// IsNotFound says that there is no such volume.
func IsNotFound(err error) bool { return hasCode(err, codeNoVolume) }

// IsSnapshotNotFound says that there is no such snapshot.
func IsSnapshotNotFound(err error) bool { return hasCode(err, codeNoSnapshot, codeBadSnapshotID) }

// IsNoTemplate says that there is no such launch template.
func IsNoTemplate(err error) bool { return hasCode(err, codeNoTemplate, codeNoTemplateName) }

// IsNoTemplateVersion says that a launch template has no such version, or none that is seen yet.
func IsNoTemplateVersion(err error) bool { return hasCode(err, codeNoTemplateVersion) }

// IsSnapshotLimit says that the volume or the account takes no further snapshot at the moment.
func IsSnapshotLimit(err error) bool {
	return hasCode(err, codeSnapshotRate, codeSnapshotsAtOnce, codeSnapshotsPending)
}

// IsNoLifecycleAction says that an instance does not wait for a lifecycle hook: not yet, not any
// more, or for another one.
func IsNoLifecycleAction(err error) bool {
	return hasCode(err, codeValidation) && says(err, "No active Lifecycle Action")
}

// isSnapshotUnusable: not there, or still pending.
func isSnapshotUnusable(err error) bool {
	return IsSnapshotNotFound(err) || hasCode(err, codeIncorrectState) && says(err, "napshot")
}

func isTokenBurned(err error) bool { return hasCode(err, codeTokenBurned) }

func isIncorrectState(err error) bool { return hasCode(err, codeIncorrectState) }

// IsInstanceNotFound says that there is no such instance, or that it is new.
func IsInstanceNotFound(err error) bool { return hasCode(err, codeNoInstance) }

func isInUse(err error) bool { return hasCode(err, codeVolumeInUse) }

func isNameTaken(err error) bool {
	return hasCode(err, codeBadParameter) && says(err, "already in use")
}

func isLimit(err error) bool {
	return hasCode(err, codeAttachmentLimit, codeInstanceLimit) || says(err, "TooManyAttachments")
}

func isNotMapped(err error) bool {
	return hasCode(err, codeBadAttribute) && says(err, "No device is currently mapped")
}

// isNotAttached: detaching, or detached already.
func isNotAttached(err error) bool { return isIncorrectState(err) || hasCode(err, codeNoAttachment) }
