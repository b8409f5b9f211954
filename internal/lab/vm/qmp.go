package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// qmp is a connection to a machine's monitor (QEMU Machine Protocol). It ends with the machine.
type qmp struct {
	conn net.Conn

	mu      sync.Mutex
	id      int
	replies map[int]chan message // who waits for the answer to a command
	events  []message
	changed chan struct{} // closed and replaced at each event
	ended   chan struct{} // closed when the machine has hung up
}

type message struct {
	ID     *int            `json:"id"`
	Event  string          `json:"event"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Data struct {
		Device string `json:"device"`
		Reason string `json:"reason"` // of SHUTDOWN: guest-shutdown is ACPI's "off", which a kernel says after all else has ended
	} `json:"data"`
}

// errNoPower is what a command meets when the machine goes off meanwhile.
var errNoPower = errors.New("the machine is switched off")

func newQMP(conn net.Conn) *qmp {
	q := &qmp{conn: conn, replies: map[int]chan message{}, changed: make(chan struct{}), ended: make(chan struct{})}
	go q.read()
	return q
}

// read takes in all that the machine says, until it hangs up.
func (q *qmp) read() {
	defer close(q.ended)
	lines := json.NewDecoder(q.conn)
	for {
		var m message
		if err := lines.Decode(&m); err != nil {
			return
		}
		q.mu.Lock()
		switch {
		case m.Event != "":
			q.events = append(q.events, m)
			close(q.changed)
			q.changed = make(chan struct{})
		case m.ID != nil:
			if reply := q.replies[*m.ID]; reply != nil {
				reply <- m
				delete(q.replies, *m.ID)
			}
		}
		q.mu.Unlock()
	}
}

// do runs one command.
func (q *qmp) do(ctx context.Context, command string, arguments any) error {
	q.mu.Lock()
	q.id++
	id, reply := q.id, make(chan message, 1)
	q.replies[id] = reply
	request := map[string]any{"execute": command, "id": id}
	if arguments != nil {
		request["arguments"] = arguments
	}
	data, err := json.Marshal(request)
	if err == nil {
		q.conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
		_, err = q.conn.Write(append(data, '\n'))
	}
	q.mu.Unlock()
	if err != nil {
		return fmt.Errorf("%s: %w (%v)", command, errNoPower, err)
	}
	select {
	case m := <-reply:
		if m.Error != nil {
			return fmt.Errorf("%s: %s: %s", command, m.Error.Class, m.Error.Desc)
		}
		return nil
	case <-q.ended:
		return fmt.Errorf("%s: %w", command, errNoPower)
	case <-ctx.Done():
		return fmt.Errorf("%s: no answer: %w", command, context.Cause(ctx))
	}
}

// onReset says what a reset from now on does: "reset", or "shutdown", which ends qemu.
func (q *qmp) onReset(action string) error {
	return q.tell("set-action", map[string]string{"reboot": action})
}

// tell runs a command that is answered at once.
func (q *qmp) tell(command string, arguments any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return q.do(ctx, command, arguments)
}

// mark is a place in the stream of events, for wait.
func (q *qmp) mark() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.events)
}

// wait waits for an event about a device that came after the mark.
func (q *qmp) wait(ctx context.Context, mark int, event, device string) error {
	for {
		q.mu.Lock()
		events, changed := q.events[mark:], q.changed
		q.mu.Unlock()
		for _, e := range events {
			if e.Event == event && e.Data.Device == device {
				return nil
			}
		}
		select {
		case <-changed:
		case <-q.ended:
			return fmt.Errorf("wait for %s of %s: %w", event, device, errNoPower)
		case <-ctx.Done():
			return fmt.Errorf("wait for %s of %s: %w", event, device, context.Cause(ctx))
		}
	}
}
