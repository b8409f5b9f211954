package generation_test

import (
	"math"
	"strings"
	"testing"

	"ebs-release/internal/generation"
)

func TestBounds(t *testing.T) {
	for _, n := range []int64{1, 42, 1<<53 - 1} {
		if err := generation.Check(n); err != nil {
			t.Errorf("%d: %v", n, err)
		}
	}
	for _, n := range []int64{0, -1, 1 << 53, math.MaxInt64, math.MinInt64} {
		if err := generation.Check(n); err == nil {
			t.Errorf("%d is taken", n)
		}
	}
}

func TestParse(t *testing.T) {
	if n, err := generation.Parse("42"); n != 42 || err != nil {
		t.Errorf("42: %d, %v", n, err)
	}
	for _, text := range []string{"", "0", "-1", "1e3", "42 ", "9007199254740992", "9223372036854775807", "9223372036854775808", "\x1b[2J" + strings.Repeat("9", 4000)} {
		n, err := generation.Parse(text)
		if err == nil || len(err.Error()) > 200 || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%.20q: %d, %v", text, n, err)
		}
	}
}
