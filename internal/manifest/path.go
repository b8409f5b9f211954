package manifest

import (
	"fmt"
	"strconv"
	"strings"
)

// CheckPath says whether a path stays inside of a release, and is in its one form.
func CheckPath(path string) error {
	if path == "" || len(path) > MaxPath {
		return fmt.Errorf("%s…: a path of %d bytes, want 1 to %d", Quote(path[:min(len(path), 60)]), len(path), MaxPath)
	}
	if strings.IndexByte(path, 0) >= 0 {
		return fmt.Errorf("%s: a NUL in a path", Quote(path))
	}
	for rest, more := path, true; more; {
		var name string
		name, rest, more = strings.Cut(rest, "/")
		if name == "" || name == "." || name == ".." || len(name) > maxName {
			return fmt.Errorf("%s: the path leaves the release, or is not in its plain form", Quote(path))
		}
	}
	return nil
}

// Split cuts a path into the path of its parent, "" for the root, and its last name.
func Split(path string) (parent, name string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}

const hexDigits = "0123456789abcdef"

// plain says whether a byte stands for itself in a manifest: printable ASCII, but no space and no
// backslash. Every other one is \xNN, so that a line stays a line and a field a field, whatever
// bytes a file name has.
func plain(c byte) bool { return c > ' ' && c < 0x7f && c != '\\' }

// AppendEscaped adds a path or target as it stands in a line.
func AppendEscaped(to []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; plain(c) {
			to = append(to, c)
		} else {
			to = append(to, '\\', 'x', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return to
}

// Unescape takes only what AppendEscaped makes: with one spelling per name, equal manifests have
// equal digests.
func Unescape(s string) (string, error) {
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

// Quote makes a path fit for a one-line message.
func Quote(path string) string {
	for i := range len(path) {
		if !plain(path[i]) {
			return strconv.Quote(path)
		}
	}
	return path
}
