package words_test

import (
	"errors"
	"math"
	"testing"

	"ebs-release/internal/words"
)

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 55241407: "52.7 MiB", 1<<20 - 1: "1.0 MiB", 1 << 30: "1.0 GiB", math.MaxInt64: "8.0 EiB",
	} {
		if got := words.Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestCount(t *testing.T) {
	for n, want := range map[int]string{0: "0 members", 1: "1 member", 2: "2 members"} {
		if got := words.Count(n, "member"); got != want {
			t.Errorf("Count(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestErrorsAreOneLineThatMovesNoTerminal(t *testing.T) {
	for text, want := range map[string]string{
		"plain": "plain",
		"unknown command \"statsu\"\n\nDid you mean this?\n\tstatus\n; see --help": "unknown command \"statsu\"; Did you mean this?; status; see --help",
		"\x1b[31mred\x1b[0m\r\nand\x07 more":                                       " [31mred [0m; and  more",
		"Größe …":                                                                  "Größe …",
	} {
		if got := words.OneLine(errors.New(text)); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
