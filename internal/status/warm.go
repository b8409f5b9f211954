package status

import (
	"fmt"
	"time"

	"ebs-release/internal/words"
)

const warmName = "warm.json"

// Warm is warm.json: how far the files of a release were read, and what came of it.
type Warm struct {
	VolumeID   string    `json:"volume_id"`
	Generation int64     `json:"generation"`
	Release    string    `json:"release"` // that is, or was, read
	Started    time.Time `json:"started,omitzero"`
	Updated    time.Time `json:"updated,omitzero"`
	Files      int64     `json:"files"` // that were read
	AllFiles   int64     `json:"all_files"`
	Bytes      int64     `json:"bytes"` // that were read
	AllBytes   int64     `json:"all_bytes"`
	Trouble    string    `json:"trouble,omitempty"`  // what is wrong; "": nothing
	Verified   *Verified `json:"verified,omitempty"` // the last release that was read to its end
}

// Verified is what came of reading all files of a release, and comparing them with its manifest.
type Verified struct {
	VolumeID   string    `json:"volume_id"`
	Generation int64     `json:"generation"`
	Release    string    `json:"release"`
	When       time.Time `json:"when"`
	Files      int64     `json:"files"`
	Bytes      int64     `json:"bytes"`
	Bad        int       `json:"bad"`              // files that are not what the manifest says, still
	Healed     int       `json:"healed,omitempty"` // that were, and are right again
	Named      []string  `json:"named,omitempty"`  // some of the bad ones, with what is wrong
}

// WriteWarm replaces warm.json.
func (d Dir) WriteWarm(w Warm) error { return d.writeJSON(warmName, w) }

// ReadWarm returns warm.json; nil: nothing was read in this boot.
func (d Dir) ReadWarm() (*Warm, error) { return readJSON[Warm](d, warmName) }

// Says tells how far it is.
func (w Warm) Says() string {
	if w.Verified != nil && w.Verified.Release == w.Release && w.Verified.VolumeID == w.VolumeID {
		return "all of release " + w.Release
	}
	said := fmt.Sprintf("%d of %d files, %s of %s", w.Files, w.AllFiles, words.Bytes(w.Bytes), words.Bytes(w.AllBytes))
	took := w.Updated.Sub(w.Started)
	if w.Bytes <= 0 || took <= 0 {
		return said
	}
	rate := float64(w.Bytes) / took.Seconds()
	left := time.Duration(float64(w.AllBytes-w.Bytes) / rate * float64(time.Second))
	return fmt.Sprintf("%s, %s/s, %s left", said, words.Bytes(int64(rate)), left.Round(time.Second))
}

func (v Verified) String() string {
	said := fmt.Sprintf("generation %d, release %s, %s: ", v.Generation, v.Release, v.When.UTC().Format(time.RFC3339))
	switch {
	case v.Bad > 0:
		said += fmt.Sprintf("%d of %d files are damaged", v.Bad, v.Files)
	default:
		said += fmt.Sprintf("all %d files are as the manifest says", v.Files)
	}
	if v.Healed > 0 {
		said += fmt.Sprintf(", %d after they were healed from the store", v.Healed)
	}
	return said
}
