package status

import (
	"fmt"
	"time"
)

const loadingName = "loading.json"

// Loading is loading.json: how far EBS has loaded the volume by itself, at an initialization rate.
// EC2's figure is up to five minutes old when it is asked.
type Loading struct {
	VolumeID string    `json:"volume_id"`
	Percent  int       `json:"percent"`
	Seconds  int64     `json:"seconds_left"` // EBS's estimate
	Asked    time.Time `json:"asked"`
}

// WriteLoading replaces loading.json.
func (d Dir) WriteLoading(l Loading) error { return d.writeJSON(loadingName, l) }

// ReadLoading returns loading.json; nil: EC2 was not asked in this boot.
func (d Dir) ReadLoading() (*Loading, error) { return readJSON[Loading](d, loadingName) }

// Says tells how far it is.
func (l Loading) Says() string {
	if l.Percent >= 100 {
		return "all of the volume"
	}
	return fmt.Sprintf("%d %% of the volume, %s left (EC2 at %s, whose figure is up to 5 minutes old)",
		l.Percent, time.Duration(l.Seconds)*time.Second, l.Asked.UTC().Format(time.RFC3339))
}
