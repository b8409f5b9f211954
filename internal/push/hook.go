package push

import (
	"fmt"

	"ebs-release/internal/push/wire"
)

// HookError says that the release is active on the member, but that a program in its activate.d
// failed: the application there may not have noticed.
type HookError wire.Hook

func (e *HookError) Error() string {
	s := fmt.Sprintf("hook %s failed with exit code %d", e.Name, e.Code)
	if e.Code < 0 {
		s = fmt.Sprintf("hook %s did not run to its end", e.Name)
	}
	if e.Line != "" {
		s += ": " + e.Line
	}
	return s
}
