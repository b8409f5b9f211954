// Package trouble is why a member is not on the generation that it is to be on: as a value, and as
// a tag. Follow, reports, and who lists members mean the same by it.
package trouble

import (
	"fmt"
	"strconv"
	"strings"

	"ebs-release/internal/generation"
	"ebs-release/internal/words"
)

// Trouble is why a member is not on the generation that it is to be on, in its own words.
type Trouble struct {
	Generation int64  `json:"generation"`         // that it is to be on
	Revision   int64  `json:"revision,omitempty"` // of the pointer by which that is so; 0: not known
	Refused    bool   `json:"refused,omitempty"`  // a program of stage.d says no to the release
	Why        string `json:"why"`
}

// mostWhy leaves room in a tag for what stands before it.
const mostWhy = 200 // characters

// The words before Why in a tag.
const (
	kindRefused = "refused"
	kindFailed  = "failed"
)

// Bounded is what may be shown of what a member wrote: the zero value where that is no trouble.
func (t Trouble) Bounded() Trouble {
	t.Why = strings.TrimSpace(words.Printable(strings.ToValidUTF8(t.Why, "")))
	if generation.Check(t.Generation) != nil || t.Why == "" {
		return Trouble{}
	}
	t.Revision = max(t.Revision, 0)
	if runes := []rune(t.Why); len(runes) > mostWhy {
		t.Why = string(runes[:mostWhy-1]) + "…"
	}
	return t
}

// Tag is the value of the tag ebs-release:trouble.
func (t Trouble) Tag() string {
	t = t.Bounded()
	if t.Why == "" {
		return ""
	}
	kind := kindFailed
	if t.Refused {
		kind = kindRefused
	}
	return fmt.Sprintf("%d/%d %s: %s", t.Generation, t.Revision, kind, t.Why)
}

// Parse reads the value of the tag ebs-release:trouble: the zero value where it is none.
func Parse(tag string) Trouble {
	head, why, _ := strings.Cut(tag, ": ")
	number, kind, _ := strings.Cut(head, " ")
	number, revision, _ := strings.Cut(number, "/")
	n, err := generation.Parse(number)
	at, _ := strconv.ParseInt(revision, 10, 64)
	if err != nil || kind != kindRefused && kind != kindFailed {
		return Trouble{}
	}
	return Trouble{Generation: n, Revision: at, Refused: kind == kindRefused, Why: why}.Bounded()
}
