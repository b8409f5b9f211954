// Package generation holds the bounds of a generation: the integer that grows by every publish.
// Everything that is read from outside (a pointer, a tag, a file on a volume, a request, a flag) is
// checked here, so that no one place takes a number that another one refuses.
package generation

import (
	"fmt"
	"strconv"
)

// Max is the highest generation. JSON readers hold whole numbers exactly up to here (RFC 8259,
// section 6), and nobody publishes that often.
const Max = 1<<53 - 1

// Check says whether n is a generation: from 1 to Max.
func Check(n int64) error {
	if n < 1 || n > Max {
		return fmt.Errorf("generation %d, want a generation of 1 to %d", n, int64(Max))
	}
	return nil
}

// Parse reads a generation in decimal digits. The error quotes at most 40 bytes of text.
func Parse(text string) (int64, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%.40q, want a generation, 1 to %d", text, int64(Max))
	}
	return n, Check(n)
}
