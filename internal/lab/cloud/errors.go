package cloud

import (
	"fmt"
	"net/http"
)

// apiError is an error as the wire carries it. Codes and their wording are those of "Error codes
// for the Amazon EC2 API", or as quoted in the issues that failures.md names.
type apiError struct {
	Code, Message string
	Status        int
}

func (e *apiError) Error() string { return e.Code + ": " + e.Message }

func fail(code, format string, args ...any) *apiError {
	return &apiError{code, fmt.Sprintf(format, args...), http.StatusBadRequest}
}

func notFound(kind, id string) *apiError {
	switch kind {
	case "volume":
		return fail("InvalidVolume.NotFound", "The volume '%s' does not exist.", id)
	case "snapshot":
		return fail("InvalidSnapshot.NotFound", "The snapshot '%s' does not exist.", id)
	case "instance":
		return fail("InvalidInstanceID.NotFound", "The instance ID '%s' does not exist", id)
	}
	return fail("InvalidID", "The ID '%s' is not valid", id)
}

// malformed checks an id's form: prefix, then 8 or 17 hexadecimal digits. EC2 answers differently
// for a wrong prefix and for wrong digits.
func malformed(kind, id string) error {
	prefix := map[string]string{"volume": "vol-", "snapshot": "snap-", "instance": "i-"}[kind]
	if len(id) < len(prefix) || id[:len(prefix)] != prefix {
		if kind == "instance" {
			return fail("InvalidInstanceID.Malformed", "Invalid id: %q", id)
		}
		return fail("InvalidParameterValue", "Value (%s) for parameter %sId is invalid. Expected: '%s...'.", id, kind, prefix)
	}
	digits := id[len(prefix):]
	ok := len(digits) == 8 || len(digits) == 17
	for _, c := range digits {
		ok = ok && (c >= '0' && c <= '9' || c >= 'a' && c <= 'f')
	}
	if ok {
		return nil
	}
	code := map[string]string{"volume": "InvalidVolumeID.Malformed",
		"snapshot": "InvalidSnapshotID.Malformed", "instance": "InvalidInstanceID.Malformed"}[kind]
	return fail(code, "Invalid id: %q", id)
}
