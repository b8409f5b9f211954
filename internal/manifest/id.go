package manifest

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

var idFormat = regexp.MustCompile(`^[0-9]{8}T[0-9]{6}Z-[0-9a-f]{12}$`)

const idTime = "20060102T150405Z"

// NewID names a release: UTC time and the first 12 hex digits of its digest.
func NewID(now time.Time, digest string) string {
	return now.UTC().Format(idTime) + "-" + digest[:12]
}

// NextID names a release so that it sorts after those that are there: two of one second, or of a
// clock that was put back a little, are a second apart by name.
func NextID(releases []string, now time.Time, digest string) string {
	const little = time.Minute
	for _, id := range releases {
		made, ok := IDTime(id)
		if ok && made.Before(now.Add(little)) && !made.Before(now.Truncate(time.Second)) {
			now = made.Add(time.Second)
		}
	}
	return NewID(now, digest)
}

// IDTime is when a release was taken in, which its id begins with; false: this one does not.
func IDTime(id string) (made time.Time, ok bool) {
	stamp, _, _ := strings.Cut(id, "-")
	made, err := time.Parse(idTime, stamp)
	return made, err == nil
}

// ValidID says whether id has the form that NewID gives. Only such an id may become part of a path
// or a command.
func ValidID(id string) bool { return idFormat.MatchString(id) }

// ValidDigest says whether digest is a sha256 in lower-case hex.
func ValidDigest(digest string) bool {
	_, ok := parseSum(digest)
	return ok
}

// CheckID is ValidID in words.
func CheckID(id string) error {
	if !ValidID(id) {
		return fmt.Errorf("%q is not a release id", id)
	}
	return nil
}
