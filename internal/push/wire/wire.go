// Package wire is what publisher and agent say to each other over a member's one ssh connection.
// The publisher starts `ebs-release-agent receive` there, which says Hello; then the publisher asks
// and the agent answers, one after the other, each with a line of JSON. Only words travel here: a
// member fetches what it needs from the store. The end of the input ends the agent.
//
// A later version of either side has to get along with this one, or to say that it cannot: by
// Schema.
package wire

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
)

// Schema is the version of all that is said.
const Schema = 3

// What a Request asks for.
const (
	Stage    = "stage"    // have a release, whole, by packs of the store. Answer: Staged
	Activate = "activate" // make a release the current one. Answer: Activated
	Verify   = "verify"   // read every file of a release. Answer: Verified
)

// MaxLine is the longest line, in bytes.
const MaxLine = 1 << 20

// Hello is the first line of the agent. Lines before it are some shell's talk.
type Hello struct {
	Schema int    `json:"schema"`
	State  string `json:"state"` // StateListening
	Agent  string `json:"agent"` // its version
}

// States in answers.
const (
	StateListening = "listening"
	StatePresent   = "present"
	StateNoWay     = "no way"
	StateActive    = "active"
	StateVerified  = "verified"
)

// Request is a line of the publisher.
type Request struct {
	Do         string `json:"do"`
	Release    string `json:"release,omitempty"`
	Digest     string `json:"digest,omitempty"`
	Generation int64  `json:"generation,omitempty"` // of stage and activate; of verify: it and the release have to be active, 0: not looked at
	Store      string `json:"store,omitempty"`      // whose release it is

	// Of activate: the signed pointer, while it has a rollout. The member sees by it that the request
	// is what the pointer gives it; "": no rollout is open.
	Pointer string `json:"pointer,omitempty"`

	Edges []pointer.Edge `json:"edges,omitempty"` // of stage: packs that may lead there

	Within int64 `json:"within,omitempty"` // milliseconds for all of it, so that the member can say what it waits for; 0: no bound

	// Of stage and activate: what signs the pointer, and what opens the packs. A volume from before
	// there were keys, or from before they were changed, takes them with the activation. Who writes
	// here owns the volume. Secret.
	Keys    []string `json:"keys,omitempty"`
	PackKey string   `json:"pack_key,omitempty"`

	// Of stage and activate: how many releases to keep, and the releases of the committed
	// generations, the latest first.
	Keep      int      `json:"keep,omitempty"`
	Committed []string `json:"committed,omitempty"`
}

// Failure is the answer to any request that failed.
type Failure struct {
	Schema int    `json:"schema"`
	Error  string `json:"error"` // one line, never empty
	Code   int    `json:"code"`  // the exit code that a program would have ended with
	// Refused: it was a program of stage.d or drain.d. The release did not become current.
	Refused bool `json:"refused,omitempty"`
}

// Staged is the answer to stage.
type Staged struct {
	Schema  int            `json:"schema"`
	State   string         `json:"state"` // StatePresent, StateNoWay
	Release string         `json:"release"`
	Packs   int            `json:"packs,omitempty"`  // that were fetched
	Bytes   int64          `json:"bytes,omitempty"`  // of them
	Held    []release.Held `json:"held,omitempty"`   // with StateNoWay: what a pack can start from
	Reason  string         `json:"reason,omitempty"` // with StateNoWay
}

// Activated is the answer to activate.
type Activated struct {
	Schema     int    `json:"schema"`
	State      string `json:"state"` // StateActive
	Generation int64  `json:"generation"`
	Release    string `json:"release"`
	// Hook is a program of activate.d or ready.d that failed. The release is active all the same.
	Hook *Hook `json:"hook,omitempty"`
}

// Hook is a program that failed.
type Hook struct {
	Name string `json:"name"` // a file name; of ready.d: with its directory
	Code int    `json:"code"` // its exit code, -1 when it was ended by a signal or was not run at all
	Line string `json:"line"` // the last line that it said, or why it was not run
}

// Verified is the answer to verify.
type Verified struct {
	Schema     int    `json:"schema"`
	State      string `json:"state"` // StateVerified
	Release    string `json:"release"`
	Generation int64  `json:"generation,omitempty"` // that the release is active as; 0: that was not asked for
	Digest     string `json:"digest"`
	Files      int    `json:"files"`
	Bytes      int64  `json:"bytes"`
}

// Write writes a line.
func Write(w io.Writer, line any) error {
	data, err := json.Marshal(line)
	if err != nil {
		return err
	}
	_, err = w.Write(append(data, '\n'))
	return err
}

// Read reads a line without its newline. io.EOF: there is none any more.
func Read(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > MaxLine:
			return nil, fmt.Errorf("a line of more than %d bytes", MaxLine)
		case err == nil:
			return bytes.TrimSpace(line), nil
		case errors.Is(err, io.EOF) && len(line) > 0:
			return nil, io.ErrUnexpectedEOF
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}
