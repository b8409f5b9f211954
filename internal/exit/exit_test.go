package exit_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"ebs-release/internal/exit"
)

func TestCode(t *testing.T) {
	plain := errors.New("boom")
	for _, tc := range []struct {
		name string
		err  error
		want int
	}{
		{"nil", nil, 0},
		{"plain", plain, 1},
		{"marked", exit.With(exit.Conflict, plain), 4},
		{"marked below other words", fmt.Errorf("publish: %w", exit.With(exit.Unchanged, plain)), 3},
		{"outermost mark wins", exit.With(exit.Usage, exit.With(exit.Conflict, plain)), 2},
		{"cancelled", fmt.Errorf("attach: %w", context.Canceled), 130},
		{"deadline is a failure", context.DeadlineExceeded, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := exit.Code(tc.err); got != tc.want {
				t.Fatalf("Code(%v) = %d, want %d", tc.err, got, tc.want)
			}
		})
	}
	if exit.With(exit.Usage, nil) != nil {
		t.Fatal("With(code, nil) must stay nil")
	}
}
