package release

import (
	"fmt"
	"strconv"
	"strings"
)

const hexDigits = "0123456789abcdef"

// plain says whether a byte stands for itself in a manifest: printable ASCII, but no space and no
// backslash. Every other one is \xNN, so that a line stays a line and a field a field, whatever
// bytes a file name has.
func plain(c byte) bool { return c > ' ' && c < 0x7f && c != '\\' }

func appendEscaped(to []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; plain(c) {
			to = append(to, c)
		} else {
			to = append(to, '\\', 'x', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return to
}

// unescape takes only what appendEscaped makes: with one spelling per name, equal manifests have
// equal digests.
func unescape(s string) (string, error) {
	if !strings.Contains(s, `\`) {
		for i := range len(s) {
			if !plain(s[i]) {
				return "", fmt.Errorf("byte %#02x is not escaped", s[i])
			}
		}
		return s, nil
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if plain(s[i]) {
			out = append(out, s[i])
			continue
		}
		if len(s)-i < 4 || s[i] != '\\' || s[i+1] != 'x' {
			return "", fmt.Errorf("%q is not a \\xNN escape", s[i:min(len(s), i+4)])
		}
		high, low := strings.IndexByte(hexDigits, s[i+2]), strings.IndexByte(hexDigits, s[i+3])
		if high < 0 || low < 0 {
			return "", fmt.Errorf("%q is not a \\xNN escape", s[i:i+4])
		}
		c := byte(high<<4 | low)
		if plain(c) {
			return "", fmt.Errorf("%q is escaped without need", s[i:i+4])
		}
		out = append(out, c)
		i += 3
	}
	return string(out), nil
}

// quote makes a path fit for a one-line message.
func quote(path string) string {
	for i := range len(path) {
		if !plain(path[i]) {
			return strconv.Quote(path)
		}
	}
	return path
}
