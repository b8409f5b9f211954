package hook

import (
	"context"
	"time"
)

// Command is a command line of an operator, such as a gate. /bin/sh runs it, as root where this
// process is. All that it has started ends with it, and with this process, however that ends:
// whoever takes a rollout up asks anew. The main of this program has to begin with KeepIfAsked.
type Command struct {
	Name    string // gate: for the error
	Line    string
	Timeout time.Duration
	Env     []string // besides this process's environment
	Input   []byte   // its standard input
}

// Run returns a *Failure with the last line that it said, or the error of ctx.
func (c Command) Run(ctx context.Context) error {
	return Dir{Timeout: c.Timeout, Env: c.Env, Input: c.Input, kept: true}.execute(ctx, c.Name, "/bin/sh", "-c", c.Line)
}
