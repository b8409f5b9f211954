package release

import (
	"fmt"
	"regexp"
	"strings"
)

const (
	originName = "origin"
	originPath = stateDir + "/" + originName // where this volume is from: Origin
	maxOrigin  = 256
)

// Origin is where a member's volume is from. It is written before the first release is served from
// it: a volume that says nothing, or names another one, has served nobody yet. (A snapshot of a
// member's volume would have the name of that one.)
type Origin struct {
	VolumeID string
	Brought  bool // EC2 attached it with the launch of the instance; else an agent made it
}

var originForm = regexp.MustCompile(`^(vol-[0-9a-f]{1,32}) (brought|made)\n$`)

// Origin reads it; the zero value: it says none.
func (v *Volume) Origin() (Origin, error) {
	data, err := v.readPlain(originPath, maxOrigin)
	if err != nil {
		return Origin{}, fmt.Errorf("origin of %s: %w", v.path, err)
	}
	m := originForm.FindStringSubmatch(string(data))
	if m == nil { // a file of ours that was cut off is as good as none
		return Origin{}, nil
	}
	return Origin{VolumeID: m[1], Brought: m[2] == "brought"}, nil
}

// SetOrigin writes it, on disk.
func (v *Volume) SetOrigin(o Origin) error {
	have, err := v.Origin()
	if err == nil && have == o {
		return nil
	}
	how := "made"
	if o.Brought {
		how = "brought"
	}
	text := strings.Join([]string{o.VolumeID, how}, " ") + "\n"
	if !originForm.MatchString(text) {
		return fmt.Errorf("origin of %s: %q is no volume id", v.path, o.VolumeID)
	}
	if err := v.replaceText(originName, stateMode, text); err != nil {
		return fmt.Errorf("origin of %s: %w", v.path, err)
	}
	return nil
}
