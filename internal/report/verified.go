package report

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"ebs-release/internal/manifest"
)

// Tag is v as the value of a tag, for members without a store in S3:
//
//	20261122T231500Z-9f31c0de77aa 2026-11-23T08:00:00Z files=20000 bytes=1048576 bad=0 healed=0
func (v Verified) Tag(release string) string {
	when := v.When.UTC().Format(time.RFC3339)
	return fmt.Sprintf("%s %s files=%d bytes=%d bad=%d healed=%d", release, when, v.Files, v.Bytes, v.Bad, v.Healed)
}

// ParseTag reads it; nil: it is none.
func ParseTag(tag string) (release string, v *Verified) {
	fields := strings.Fields(tag)
	if len(fields) != 6 || !manifest.ValidID(fields[0]) {
		return "", nil
	}
	when, err := time.Parse(time.RFC3339, fields[1])
	if err != nil {
		return "", nil
	}
	var numbers [4]int64
	for i, name := range []string{"files=", "bytes=", "bad=", "healed="} {
		digits, ok := strings.CutPrefix(fields[2+i], name)
		n, err := strconv.ParseInt(digits, 10, 64)
		if !ok || err != nil || n < 0 {
			return "", nil
		}
		numbers[i] = n
	}
	return fields[0], &Verified{When: when, Files: numbers[0], Bytes: numbers[1], Bad: int(numbers[2]), Healed: int(numbers[3])}
}

// Word is v in a table: when, or what is wrong.
func (v *Verified) Word() string {
	switch {
	case v == nil:
		return ""
	case v.Bad > 0:
		return strconv.Itoa(v.Bad) + " damaged"
	}
	return v.When.UTC().Format(time.RFC3339)
}
