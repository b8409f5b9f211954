// Package report is what a member says of itself in a store in S3, where tags on its volume are not
// needed for that: one small object for each generation and state.
//
//	reports/<generation>/<state>/<caller>
//
// The caller is what IAM calls ${aws:userid} of the member's role, "AROA…:i-…": its policy lets it
// write these names and no other, so the instance id of a name is true. What is in the object, the
// member may have invented. A generation has 16 digits, so that names are in the order of
// generations.
package report

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/generation"
	"ebs-release/internal/manifest"
	"ebs-release/internal/store"
	"ebs-release/internal/trouble"
	"ebs-release/internal/volume"
)

// Prefix is where reports are in a store.
const Prefix = "reports/"

// MaxSize of a report, in bytes.
const MaxSize = 4 << 10

const schema = 1

// Report is what a member says.
type Report struct {
	Caller     string
	InstanceID string // of the caller
	Generation int64
	State      string // volume.StateReady or volume.StateHookFailed

	VolumeID string // that it is about
	Release  string // "": not known
	HostKey  string // of its sshd: "ssh-ed25519 AAAA…", or ""
	Trouble  trouble.Trouble

	Verified *Verified // nil: not all files of that release were read yet
}

// Verified is what came of reading all files of the release on the member, after its boot. A member
// may have invented it: it is for people.
type Verified struct {
	When   time.Time `json:"when"`
	Files  int64     `json:"files"`
	Bytes  int64     `json:"bytes"`
	Bad    int       `json:"bad,omitempty"`    // that are not what the manifest says
	Healed int       `json:"healed,omitempty"` // that were, and are right again
}

// body is a report without its name.
type body struct {
	Schema   int    `json:"schema"`
	VolumeID string `json:"volume_id,omitempty"` // empty: the report is withdrawn
	Release  string `json:"release,omitempty"`
	HostKey  string `json:"host_key,omitempty"`

	Verified *Verified        `json:"verified,omitempty"`
	Trouble  *trouble.Trouble `json:"trouble,omitempty"`
}

var (
	callerForm = regexp.MustCompile(`^[A-Z0-9]{4,128}:(i-[0-9a-z]{1,32})$`)
	digits     = regexp.MustCompile(`^[0-9]{16}$`)
	volumeForm = regexp.MustCompile(`^vol-[0-9a-z]{1,32}$`)
	keyForm    = regexp.MustCompile(`^[a-z0-9@.-]{1,64} [A-Za-z0-9+/=]{1,190}$`) // a tag's 256 characters
)

// CallerOf says whether IAM's name of a caller is that of an instance with its role.
func CallerOf(userID, instanceID string) error {
	if m := callerForm.FindStringSubmatch(userID); m == nil || m[1] != instanceID {
		return advice.Try(fmt.Errorf("this program calls AWS as %.80q, and not with the role of this instance, as ROLEID:%s",
			userID, instanceID), "take AWS_PROFILE and keys of AWS out of its environment")
	}
	return nil
}

// Key is the name of the report.
func (r Report) Key() string { return Generation(r.Generation) + "/" + r.State + "/" + r.Caller }

// Generation is what the names of a generation's reports begin with, without a slash at its end.
func Generation(n int64) string { return fmt.Sprintf("%s%016d", Prefix, n) }

// ParseKey reads a name; whoever may write to the store can have written any.
func ParseKey(key string) (Report, bool) {
	parts := strings.Split(strings.TrimPrefix(key, Prefix), "/")
	if !strings.HasPrefix(key, Prefix) || len(parts) != 3 || !digits.MatchString(parts[0]) || !volume.Serves(parts[1]) {
		return Report{}, false
	}
	caller := callerForm.FindStringSubmatch(parts[2])
	var n int64
	if strings.Trim(parts[0], "0") != "" {
		var err error
		if n, err = generation.Parse(parts[0]); err != nil {
			return Report{}, false
		}
	}
	if caller == nil {
		return Report{}, false
	}
	return Report{Caller: parts[2], InstanceID: caller[1], Generation: n, State: parts[1]}, true
}

// Newer says whether r counts before other: the higher generation, and of one generation the one
// whose programs have succeeded: who is taken out of service after that is on its way to another.
func (r Report) Newer(other Report) bool {
	if r.Generation != other.Generation {
		return r.Generation > other.Generation
	}
	return r.State == volume.StateReady && other.State != volume.StateReady
}

// Writer is a store in S3, as far as a member may write to it.
type Writer interface {
	PutDocument(ctx context.Context, key string, data []byte) error
}

// Put writes a report.
func Put(ctx context.Context, to Writer, r Report) error {
	if _, ok := ParseKey(r.Key()); !ok {
		return fmt.Errorf("%q is no name of a report", r.Key())
	}
	says := body{Schema: schema, VolumeID: r.VolumeID, Release: r.Release, HostKey: r.HostKey, Verified: r.Verified}
	if r.Trouble != (trouble.Trouble{}) {
		said := r.Trouble.Bounded()
		says.Trouble = &said
	}
	data, err := json.Marshal(says)
	if err != nil {
		return err
	}
	return to.PutDocument(ctx, r.Key(), data)
}

// Withdraw has nothing count that the caller has reported of a generation. It may not delete it.
func Withdraw(ctx context.Context, to Writer, caller string, generation int64) error {
	return errors.Join(
		Put(ctx, to, Report{Caller: caller, Generation: generation, State: volume.StateReady}),
		Put(ctx, to, Report{Caller: caller, Generation: generation, State: volume.StateHookFailed}))
}

// read fills in what the object says; false: it says nothing that can be used.
func (r *Report) read(data []byte) bool {
	var b body
	if json.Unmarshal(data, &b) != nil || b.Schema != schema || !volumeForm.MatchString(b.VolumeID) {
		return false
	}
	r.VolumeID = b.VolumeID
	if manifest.ValidID(b.Release) {
		r.Release = b.Release
	}
	if keyForm.MatchString(b.HostKey) {
		r.HostKey = b.HostKey
	}
	if b.Verified != nil && min(b.Verified.Files, b.Verified.Bytes, int64(b.Verified.Bad), int64(b.Verified.Healed)) >= 0 {
		r.Verified = b.Verified
	}
	if b.Trouble != nil {
		r.Trouble = b.Trouble.Bounded()
	}
	return true
}

// fetch reads one; false: it is gone, or of no use.
func fetch(ctx context.Context, from store.Reader, r *Report, key string) (bool, error) {
	data, _, err := store.ReadAll(ctx, from, key, MaxSize, "")
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrTooLarge):
		return false, nil
	case err != nil:
		return false, err
	}
	return r.read(data), nil
}
