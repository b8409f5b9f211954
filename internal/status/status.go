// Package status is the files that the agent leaves under /run/ebs-release, and the version of all
// reports.
//
// The files are for people and for the application. No program decides by them what to do to the
// world: EC2's tags, mountinfo and the volume itself are the truth.
package status

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"ebs-release/internal/advice"

	"github.com/google/renameio/v2"
)

// Schema is the version of every JSON report.
const Schema = 1

// The states of a boot.
const (
	NotStarted = "not started"
	Booting    = "booting"
	Ready      = "ready"
	Failed     = "failed"
	Warmed     = "warmed" // in a warm pool: the volume is prepared, and nothing is served
)

// Status is status.json: where the boot of this instance is.
type Status struct {
	Schema     int       `json:"schema"`
	State      string    `json:"state"`
	Stage      string    `json:"stage"`
	Generation int64     `json:"generation"`
	Release    string    `json:"release"`
	SnapshotID string    `json:"snapshot_id"`
	VolumeID   string    `json:"volume_id"`
	Device     string    `json:"device"`
	Brought    bool      `json:"brought,omitempty"` // EC2 attached the volume with the launch
	Pending    bool      `json:"pending,omitempty"` // a program of activate.d has not succeeded for the release
	Error      string    `json:"error"`
	Warning    string    `json:"warning,omitempty"` // of a member that is ready
	InstanceID string    `json:"instance_id"`
	MountPoint string    `json:"mount_point"`
	Started    time.Time `json:"started,omitzero"`
	Finished   time.Time `json:"finished,omitzero"`
	Stages     []Stage   `json:"stages"`

	// Not in the file, but what `status` adds.
	Rollout Rollout  `json:"rollout,omitzero"`  // that the pointer has
	Follow  *Follow  `json:"follow,omitempty"`  // of a member that follows
	Loading *Loading `json:"loading,omitempty"` // of a volume that EBS loads by itself
	Warm    *Warm    `json:"warm,omitempty"`    // of one whose files were read
}

// Rollout is one that is open, and on which side of it this member is.
type Rollout struct {
	Generation int64  `json:"generation"` // of the new release
	Release    string `json:"release"`    // the new one
	HasIt      bool   `json:"has_it"`     // this member is given it; else it stays on the one before
}

func (r Rollout) String() string {
	side := "stays on the release before"
	if r.HasIt {
		side = "has it"
	}
	return fmt.Sprintf("of generation %d: this member %s", r.Generation, side)
}

// Stage is a stage that was gone through, and how long that took.
type Stage struct {
	Name         string `json:"name"`
	Milliseconds int64  `json:"milliseconds"`
	Skipped      bool   `json:"skipped,omitempty"` // there was nothing to do
}

// Dir is where the files are: /run/ebs-release.
type Dir string

// Run is the directory on a real machine. It is in memory, so that no AMI is baked with a stale
// one.
const Run Dir = "/run/ebs-release"

// Path returns the path of status.json.
func (d Dir) Path() string { return filepath.Join(string(d), "status.json") }

// LockPath returns the path of the file that `up` holds a flock on.
func (d Dir) LockPath() string { return filepath.Join(string(d), "lock") }

// Make makes the directory. Everybody may look into it, whatever the umask is.
func (d Dir) Make() error {
	err := os.MkdirAll(string(d), 0o755)
	if info, statErr := os.Lstat(string(d)); err == nil && (statErr != nil || !info.IsDir()) {
		err = advice.Try(fmt.Errorf("%s is no directory", d), "rm %s", d)
	}
	if err == nil {
		// Whatever it was: who may write into it may put another lock there.
		err = errors.Join(os.Lchown(string(d), os.Geteuid(), os.Getegid()), os.Chmod(string(d), 0o755))
	}
	if err != nil {
		return fmt.Errorf("make the directory for the status: %w", AsRoot(err))
	}
	return nil
}

// AsRoot says what to do when a right is missing.
func AsRoot(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return advice.Try(err, "run it as root")
	}
	return err
}

// Write replaces status.json: a reader sees the old one or the new one.
func (d Dir) Write(s Status) error {
	s.Schema = Schema
	return d.writeJSON("status.json", s)
}

// Read returns status.json. One that is not there is a Status with the state NotStarted.
func (d Dir) Read() (Status, error) {
	data, err := os.ReadFile(d.Path())
	if errors.Is(err, fs.ErrNotExist) {
		return Status{Schema: Schema, State: NotStarted}, nil
	}
	if err != nil {
		return Status{}, fmt.Errorf("read the status: %w", err)
	}
	var s Status
	if err := json.Unmarshal(data, &s); err != nil {
		return Status{}, fmt.Errorf("read the status from %s: %w", d.Path(), err)
	}
	if s.Schema != Schema {
		return Status{}, fmt.Errorf("read the status from %s: schema %d, want %d", d.Path(), s.Schema, Schema)
	}
	return s, nil
}

// WriteEnvironment replaces release.env: what an application's unit may take as its
// EnvironmentFile. It tells what was booted; a release that is activated later is behind the same
// path.
func (d Dir) WriteEnvironment(s Status) error {
	var text strings.Builder
	for _, v := range [][2]string{
		{"EBS_RELEASE_GENERATION", strconv.FormatInt(s.Generation, 10)},
		{"EBS_RELEASE_ID", s.Release},
		{"EBS_RELEASE_PATH", filepath.Join(s.MountPoint, "current")},
		{"EBS_RELEASE_VOLUME_ID", s.VolumeID},
		{"EBS_RELEASE_SNAPSHOT_ID", s.SnapshotID},
	} {
		fmt.Fprintf(&text, "%s=%s\n", v[0], v[1])
	}
	return d.replace("release.env", []byte(text.String()))
}

// replace writes a file that everybody reads.
func (d Dir) replace(name string, data []byte) error {
	return d.replaceAs(name, data, 0o644, -1, -1)
}

// replaceAs writes a file for somebody (-1: for who writes it): a reader sees the old one or the
// new one.
func (d Dir) replaceAs(name string, data []byte, mode fs.FileMode, uid, gid int) error {
	path := filepath.Join(string(d), name)
	// Temporary names next to the target, and the mode whatever the umask is.
	file, err := renameio.NewPendingFile(path, renameio.WithTempDir(string(d)), renameio.WithPermissions(mode), renameio.IgnoreUmask())
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() { _ = file.Cleanup() }()
	_, err = file.Write(data)
	if err = errors.Join(err, file.Chown(uid, gid)); err == nil {
		err = file.CloseAtomicallyReplace()
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
