// Package advice keeps what to do about an error beside its words: whoever shows both writes them
// as one line, and whoever shows them apart need not cut that line.
package advice

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Error is an error with what to do about it.
type Error struct {
	Err error
	Try string // a command, or what to look at; no full stop at its end
}

// Error has the advice at its end.
func (e *Error) Error() string { return Text(e.Err.Error(), e.Try) }

// Unwrap returns the error without the advice.
func (e *Error) Unwrap() error { return e.Err }

const before = ". Try: "

// Text is the line of words with advice; without any, the words. What others answered may end with
// a full stop of its own.
func Text(words, try string) string {
	if try == "" {
		return words
	}
	return strings.TrimSuffix(words, ".") + before + try
}

// Try adds to err what to do about it. An error whose words have advice keeps that, as who saw the
// cause knows best, and nil stays nil.
func Try(err error, format string, args ...any) error {
	if err == nil || strings.Contains(err.Error(), before) {
		return err
	}
	return &Error{err, fmt.Sprintf(format, args...)}
}

// Also adds one more thing to try to the advice that err has.
func Also(err error, format string, args ...any) error {
	words, try := Of(err)
	more := fmt.Sprintf(format, args...)
	if try != "" {
		more = try + "; " + more
	}
	return &Error{without{err, words}, more}
}

// Errorf is fmt.Errorf for words that go on behind an error: the advice of that error moves to the
// end, and that of several is there together.
func Errorf(format string, args ...any) error {
	var tries []string
	bare := slices.Clone(args)
	for i, arg := range args {
		err, ok := arg.(error)
		if !ok {
			continue
		}
		if words, try := Of(err); try != "" {
			bare[i] = without{err, words}
			if !slices.Contains(tries, try) {
				tries = append(tries, try)
			}
		}
	}
	err := fmt.Errorf(format, bare...)
	if tries == nil {
		return err
	}
	return &Error{err, strings.Join(tries, "; ")}
}

// without is an error that does not show its advice.
type without struct {
	error
	words string
}

func (w without) Error() string { return w.words }

func (w without) Unwrap() error { return w.error }

// Of is an error's words without its advice, and the advice. Where several of joined errors have
// some, each stays with its own words, and try is "".
func Of(err error) (words, try string) {
	text := err.Error()
	e, has := errors.AsType[*Error](err)
	if !has {
		return text, ""
	}
	words, last := strings.CutSuffix(text, before+e.Try)
	if !last || strings.Contains(words, before) {
		return text, ""
	}
	return words, e.Try
}

// Parse makes an error again of the text of one, which another process wrote.
func Parse(text string) error {
	at := strings.LastIndex(text, before)
	if at < 0 {
		return errors.New(text)
	}
	return &Error{errors.New(text[:at]), text[at+len(before):]}
}
