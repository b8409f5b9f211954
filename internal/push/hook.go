package push

import (
	"encoding/json"
	"fmt"
)

// HookError: the release is active on the member, but a program in its activate.d failed, so that the application there may not have noticed.
type HookError struct {
	Name string `json:"name"` // of the program, a file name
	Code int    `json:"code"` // its exit code, -1 when it was ended by a signal or was not run at all
	Line string `json:"line"` // the last line that it said, or why it was not run
}

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

// hookOf reads the agent's answer to activate. An agent that knows no hooks names none.
func hookOf(answer []byte) error {
	var active struct {
		Hook *HookError `json:"hook"`
	}
	if err := json.Unmarshal(answer, &active); err != nil {
		return fmt.Errorf("its agent's answer can't be read: %w", err)
	}
	if active.Hook == nil {
		return nil
	}
	return active.Hook
}
