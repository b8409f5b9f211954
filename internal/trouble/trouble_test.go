package trouble_test

import (
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"ebs-release/internal/trouble"
)

func TestTroubleInATag(t *testing.T) {
	for _, said := range []trouble.Trouble{
		{Generation: 7, Why: "its disk is full"},
		{Generation: 7, Revision: 12, Refused: true, Why: "its disk is full"},
		{Generation: 9007199254740000, Refused: true, Why: "run stage.d: 10-smoke ended with exit code 3: no index.html"},
		{Generation: 1, Refused: true, Why: "refused: failed: Größe"},
	} {
		if got := trouble.Parse(said.Tag()); got != said {
			t.Errorf("%+v is read as %+v", said, got)
		}
	}
}

// Whoever may tag a volume can write anything there.
func TestTroubleIsHostileUntilChecked(t *testing.T) {
	for _, tag := range []string{
		"", "7", "7 failed", "7 failed: ", "7 failed: \x1b \n", "-1 failed: x", "0 failed: x", "9223372036854775807 failed: x",
		"7 ready: x", "failed: x", "7  failed: x",
	} {
		if got := trouble.Parse(tag); got != (trouble.Trouble{}) {
			t.Errorf("%q is read as %+v", tag, got)
		}
	}
	long := trouble.Trouble{Generation: 9007199254740000, Revision: math.MaxInt64, Refused: true, Why: "\x1b[2J\u202e" + strings.Repeat("ö\n", 5000) + "\xff"}
	tag := long.Tag()
	got := trouble.Parse(tag)
	if n := utf8.RuneCountInString(tag); n > 256 || !utf8.ValidString(tag) || strings.ContainsAny(tag, "\x1b\n\u202e") || got.Why == "" {
		t.Errorf("%d characters: %q", n, tag)
	}
	if again := got.Tag(); again != tag {
		t.Errorf("%q becomes %q", tag, again)
	}
}
