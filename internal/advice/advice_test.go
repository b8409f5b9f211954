package advice_test

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"ebs-release/internal/advice"
	"ebs-release/internal/exit"
)

func Example() {
	err := advice.Try(errors.New("nothing is mounted at /release"), "ebs-release-agent %s", "up")
	err = fmt.Errorf("check: %w", err)
	fmt.Println(err)
	words, try := advice.Of(err)
	fmt.Printf("%s\n%s\n", words, try)
	// Output:
	// check: nothing is mounted at /release. Try: ebs-release-agent up
	// check: nothing is mounted at /release
	// ebs-release-agent up
}

// TestAdvice: the advice is written once, at the end, and is found under whatever wraps it.
func TestAdvice(t *testing.T) {
	full := advice.Try(fmt.Errorf("no room: %w", fs.ErrInvalid), "df")
	refused := advice.Try(errors.New("refused"), "ssh b")
	for _, tc := range []struct {
		name             string
		err              error
		text, words, try string
	}{
		{"none", errors.New("late"), "late", "late", ""},
		{"own", refused, "refused. Try: ssh b", "refused", "ssh b"},
		{"of somebody who ends sentences", advice.Try(errors.New("EC2: you may not."), "the policy"), "EC2: you may not. Try: the policy", "EC2: you may not", "the policy"},
		{"wrapped", exit.With(3, fmt.Errorf("P0: %w", full)), "P0: no room: invalid argument. Try: df", "P0: no room: invalid argument", "df"},
		{"twice", advice.Try(fmt.Errorf("P0: %w", refused), "again"), "P0: refused. Try: ssh b", "P0: refused", "ssh b"},
		{"words behind it", advice.Errorf("%w (%d times)", refused, 2), "refused (2 times). Try: ssh b", "refused (2 times)", "ssh b"},
		{"behind it, wrapped", fmt.Errorf("P5: %w", advice.Errorf("%w; %w", full, refused)),
			"P5: no room: invalid argument; refused. Try: df; ssh b", "P5: no room: invalid argument; refused", "df; ssh b"},
		{"behind none", advice.Errorf("%w (%d times)", fs.ErrExist, 2), "file already exists (2 times)", "file already exists (2 times)", ""},
		{"one more", advice.Also(full, "du %s", "/"), "no room: invalid argument. Try: df; du /", "no room: invalid argument", "df; du /"},
		{"the first", advice.Also(fs.ErrExist, "rm"), "file already exists. Try: rm", "file already exists", "rm"},
		{"of joined ones", errors.Join(full, refused), "no room: invalid argument. Try: df\nrefused. Try: ssh b",
			"no room: invalid argument. Try: df\nrefused. Try: ssh b", ""},
		{"of the last joined one", errors.Join(fs.ErrExist, refused), "file already exists\nrefused. Try: ssh b", "file already exists\nrefused", "ssh b"},
		{"read", advice.Parse("refused. Try: ssh b"), "refused. Try: ssh b", "refused", "ssh b"},
		{"read, none", advice.Parse("refused"), "refused", "refused", ""},
		{"read, of several", advice.Parse("a. Try: b; c. Try: d"), "a. Try: b; c. Try: d", "a. Try: b; c. Try: d", ""},
	} {
		words, try := advice.Of(tc.err)
		if tc.err.Error() != tc.text || words != tc.words || try != tc.try {
			t.Errorf("%s: %q is %q and %q, want %q: %q and %q", tc.name, tc.err, words, try, tc.text, tc.words, tc.try)
		}
	}
	if err := advice.Errorf("%w; it goes on", full); !errors.Is(err, fs.ErrInvalid) || !errors.As(err, new(*advice.Error)) {
		t.Errorf("%v has lost what is below it", err)
	}
	if err := advice.Try(nil, "nothing"); err != nil {
		t.Errorf("of no error came %v", err)
	}
}
