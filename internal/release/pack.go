package release

import (
	"bytes"
	"fmt"
	"io"

	"ebs-release/internal/manifest"
)

// Pack is what a member that holds one release needs in order to have another one.
type Pack struct {
	Delta   []byte           // for Stage
	Missing []manifest.Entry // files whose content the base does not have, in the order in which they have to be sent
}

// Pack works out what makes release id of release base; base "" is nothing at all. It parses
// only into those lines of the manifests that differ, and keeps only them: what a push costs
// depends on what changed, not on the size of the tree. Whether it is right the member says, by the
// digest.
func (v *Volume) Pack(base, id string) (p Pack, err error) {
	next, err := v.openManifest(id)
	if err != nil {
		return p, err
	}
	defer func() { _ = next.Close() }()
	var old io.ReadSeeker = bytes.NewReader(nil)
	if base != "" {
		file, err := v.openManifest(base)
		if err != nil {
			return p, err
		}
		defer func() { _ = file.Close() }()
		old = file
	}
	was, is, err := manifest.Differing(old, next)
	if err == nil {
		_, err = old.Seek(0, io.SeekStart)
	}
	if err == nil {
		p.Missing, err = manifest.ContentNotIn(old, is)
	}
	if err != nil {
		return p, fmt.Errorf("compare the manifests of %s and %s: %w", base, id, err)
	}
	var delta bytes.Buffer
	err = manifest.Diff(was, is).Encode(&delta)
	p.Delta = delta.Bytes()
	return p, err
}
