package manifest

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// parseSum is done for each line of a manifest: no branch for each digit.
func parseSum(s string) (sum [sha256.Size]byte, ok bool) {
	if len(s) != 2*sha256.Size {
		return sum, false
	}
	const small = 0x20 // a bit that digits and small letters have, and capital letters do not
	bits := byte(small)
	for i := range len(s) {
		bits &= s[i]
	}
	_, err := hex.Decode(sum[:], []byte(s))
	return sum, err == nil && bits == small
}

// AppendEntry adds the line of an entry, with its newline.
func AppendEntry(to []byte, e *Entry) []byte {
	to = append(to, e.Type, ' ')
	switch e.Type {
	case 'f':
		to = append(appendMode(to, e.Mode), ' ')
		to = append(strconv.AppendInt(to, e.Size, 10), ' ')
		to = hex.AppendEncode(to, e.SHA256[:])
		if e.Modified != 0 {
			to = strconv.AppendInt(append(to, ' '), e.Modified, 10)
		}
	case 'd':
		to = appendMode(to, e.Mode)
	case 'l':
		to = AppendEscaped(to, e.Target)
	}
	to = append(to, ' ')
	to = AppendEscaped(to, e.Path)
	return append(to, '\n')
}

// appendMode writes four octal digits; a mode has no more.
func appendMode(to []byte, mode uint32) []byte {
	for shift := 9; shift >= 0; shift -= 3 {
		to = append(to, '0'+byte(mode>>shift&7))
	}
	return to
}

// EachLine gives each line without its newline, bounded in length and number. The slice is good
// only until do returns.
func EachLine(r io.Reader, do func(number int, line []byte) error) error {
	lines := bufio.NewReaderSize(r, MaxLine)
	for number := 1; ; number++ {
		line, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF) && len(line) == 0:
			return nil
		case errors.Is(err, io.EOF):
			return fmt.Errorf("line %d is cut off", number)
		case errors.Is(err, bufio.ErrBufferFull):
			return fmt.Errorf("line %d is longer than %d bytes", number, MaxLine)
		case err != nil:
			return err
		case number > MaxEntries:
			return fmt.Errorf("more than %d lines", MaxEntries)
		}
		if err := do(number, line[:len(line)-1]); err != nil {
			return err
		}
	}
}

// ParseEntry reads a line without its newline. Whether the entry fits a release, Check says.
func ParseEntry(line string) (e Entry, err error) {
	malformed := func() (Entry, error) {
		return e, fmt.Errorf("%q… is not an entry", line[:min(len(line), 20)])
	}
	if len(line) < 2 || line[1] != ' ' {
		return malformed()
	}
	e.Type = line[0]
	field, rest, more := strings.Cut(line[2:], " ")
	if !more {
		return malformed()
	}
	switch e.Type {
	case 'f':
		if e.Mode, err = parseMode(field); err != nil {
			return e, err
		}
		if field, rest, more = strings.Cut(rest, " "); !more {
			return malformed()
		}
		if e.Size, err = parseSize(field); err != nil {
			return e, err
		}
		if field, rest, more = strings.Cut(rest, " "); !more {
			return malformed()
		}
		var ok bool
		if e.SHA256, ok = parseSum(field); !ok {
			return e, fmt.Errorf("%q is not a sha256", field)
		}
		if time, path, ok := strings.Cut(rest, " "); ok {
			if e.Modified, err = parseSize(time); err != nil || e.Modified == 0 || e.Modified > MaxModified {
				return e, fmt.Errorf("%q is not a time of modification", time)
			}
			rest = path
		}
	case 'd':
		if e.Mode, err = parseMode(field); err != nil {
			return e, err
		}
	case 'l':
		if e.Target, err = Unescape(field); err != nil {
			return e, fmt.Errorf("target: %w", err)
		}
	default:
		return malformed()
	}
	if strings.IndexByte(rest, ' ') >= 0 {
		return malformed()
	}
	if e.Path, err = Unescape(rest); err != nil {
		return e, fmt.Errorf("path: %w", err)
	}
	return e, nil
}

// parseSize takes the one spelling of a number that Encode writes.
func parseSize(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || s[0] < '0' || s[0] > '9' || s[0] == '0' && len(s) > 1 {
		return 0, fmt.Errorf("%q is not a size", s)
	}
	return n, nil
}

func parseMode(s string) (mode uint32, err error) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '7' || len(s) != 4 {
			mode = MaxMode + 1
			break
		}
		mode = mode<<3 | uint32(s[i]-'0')
	}
	if len(s) != 4 || mode > MaxMode {
		return 0, fmt.Errorf("%q is not a mode of four octal digits", s)
	}
	return mode, nil
}
