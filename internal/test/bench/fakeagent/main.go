// Fakeagent answers the publisher in place of `ebs-release-agent receive`, and does none of the
// work: it fetches nothing, and takes only time, as much as /etc/fakeagent says. A fleet of them
// shows what members cost the release server when their work is done by processors of their own.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"ebs-release/internal/push/wire"
)

func main() {
	if err := run(bufio.NewReaderSize(os.Stdin, 64<<10), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "fakeagent:", err)
		os.Exit(1)
	}
}

func run(in *bufio.Reader, out io.Writer) error {
	setting, err := os.ReadFile("/etc/fakeagent")
	if err != nil {
		return err
	}
	work, err := time.ParseDuration(strings.TrimSpace(string(setting)))
	if err != nil {
		return err
	}
	if err := wire.Write(out, wire.Hello{Schema: wire.Schema, State: wire.StateListening, Agent: "fakeagent"}); err != nil {
		return err
	}
	for {
		line, err := wire.Read(in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		var q wire.Request
		if err == nil {
			err = json.Unmarshal(line, &q)
		}
		if err != nil {
			return err
		}
		answer, err := answer(q, work)
		if err == nil {
			err = wire.Write(out, answer)
		}
		if err != nil {
			return err
		}
	}
}

func answer(q wire.Request, work time.Duration) (any, error) {
	switch q.Do {
	case wire.Stage:
		time.Sleep(work) // stands for all of it: what a lone member takes from its login to its answer
		return wire.Staged{Schema: wire.Schema, State: wire.StatePresent, Release: q.Release}, nil
	case wire.Activate:
		return wire.Activated{Schema: wire.Schema, State: wire.StateActive, Generation: q.Generation, Release: q.Release}, nil
	default:
		return nil, fmt.Errorf("asked for %q", q.Do)
	}
}
