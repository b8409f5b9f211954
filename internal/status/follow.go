package status

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"ebs-release/internal/trouble"
)

const (
	followName   = "follow.json"
	programsName = "activate.json"
)

// Follow is follow.json: what a member that follows the pointer saw last.
type Follow struct {
	Looked     time.Time       `json:"looked,omitzero"`   // when the store answered last
	Generation int64           `json:"generation"`        // that the pointer named then for this member
	Release    string          `json:"release"`           // the same
	Rollout    Rollout         `json:"rollout,omitzero"`  // that was open then
	Trouble    string          `json:"trouble,omitempty"` // what is wrong; "": nothing, as last seen
	Since      time.Time       `json:"since,omitzero"`    // since when
	Reported   Reported        `json:"reported,omitzero"` // what was told to the publisher last
	Believed   Believed        `json:"believed,omitzero"` // the newest pointer that this volume was to be brought to
	Told       trouble.Trouble `json:"told,omitzero"`     // the trouble that was told to the publisher last
}

// Believed is the newest pointer that was believed on a volume, and the volume's fence as last
// seen: when it is lower later, that is the operator's word that what was believed was wrong.
type Believed struct {
	VolumeID   string `json:"volume_id"`
	Generation int64  `json:"generation"`
	Revision   int64  `json:"revision"`
	Fence      int64  `json:"fence"`
}

// Reported is what a member has told the publisher.
type Reported struct {
	VolumeID   string `json:"volume_id"`
	Generation int64  `json:"generation"`
	Release    string `json:"release"`
	Ready      bool   `json:"ready"` // false: a program of activate.d has not succeeded
}

// OlderThan compares the pointers.
func (b Believed) OlderThan(other Believed) bool {
	return b.Generation < other.Generation || b.Generation == other.Generation && b.Revision < other.Revision
}

// Programs is activate.json: how the programs of activate.d ended for a generation.
type Programs struct {
	Schema     int    `json:"schema"`
	Generation int64  `json:"generation"`
	Error      string `json:"error,omitempty"`   // "": all have succeeded
	Refused    bool   `json:"refused,omitempty"` // it is the word of a program of stage.d or drain.d
}

// WriteFollow replaces follow.json.
func (d Dir) WriteFollow(f Follow) error { return d.writeJSON(followName, f) }

// ReadFollow returns follow.json; nil: this boot has not followed.
func (d Dir) ReadFollow() (*Follow, error) { return readJSON[Follow](d, followName) }

// WritePrograms replaces activate.json.
func (d Dir) WritePrograms(p Programs) error { return d.writeJSON(programsName, p) }

// ReadPrograms returns activate.json; nil: no programs have run in this boot, or they run now.
func (d Dir) ReadPrograms() (*Programs, error) { return readJSON[Programs](d, programsName) }

// ForgetPrograms removes activate.json.
func (d Dir) ForgetPrograms() error {
	if err := os.Remove(filepath.Join(string(d), programsName)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (d Dir) writeJSON(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return d.replace(name, append(data, '\n'))
}

func readJSON[T any](d Dir, name string) (*T, error) {
	path := filepath.Join(string(d), name)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	v := new(T)
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return v, nil
}
