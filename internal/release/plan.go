package release

import (
	"context"
	"crypto/sha256"

	"ebs-release/internal/manifest"
)

// How a file of a new release comes to be.
type origin byte

const (
	isMissing origin = iota // its content is nowhere in the base: it has to be sent, or copied from the source
	byLink                  // the very file of the base: same content, same mode
	byCopy                  // same content with another mode or time: a link would change the base's
)

type step struct {
	how     origin
	from    string // path in the base
	doubted bool   // nobody compared the manifests there: it is hashed before it is linked
}

// entriesOf gives the entries of a manifest that is in memory, and their steps: see assembly.
func entriesOf(m manifest.Manifest, steps []step) func(context.Context, func(planned) error) error {
	return func(_ context.Context, do func(planned) error) error {
		for i := range m {
			if err := do(planned{i, &m[i], steps[i]}); err != nil {
				return err
			}
		}
		return nil
	}
}

// plan says for each entry of next where its content comes from; only files have a step that means
// something. Content is known by its sha256, so that a file which was moved or copied is not sent
// again.
func plan(base, next manifest.Manifest) []step {
	steps := make([]step, len(next))
	var unmatched []int
	for i, j := 0, 0; i < len(next); i++ {
		for j < len(base) && base[j].Path < next[i].Path {
			j++
		}
		switch {
		case next[i].Type != 'f':
		case j < len(base) && base[j] == next[i]:
			steps[i] = step{how: byLink, from: base[j].Path}
		default:
			unmatched = append(unmatched, i)
		}
	}
	if len(unmatched) == 0 {
		return steps
	}
	type content struct {
		sum      [sha256.Size]byte
		mode     uint32
		modified int64
	}
	any := func(sum [sha256.Size]byte) content { return content{sum: sum, mode: ^uint32(0)} }
	held := make(map[content]string, 2*len(unmatched))
	wanted := make(map[[sha256.Size]byte]bool, len(unmatched))
	for _, i := range unmatched {
		wanted[next[i].SHA256] = true
	}
	for j := range base {
		if base[j].Type == 'f' && wanted[base[j].SHA256] {
			held[content{base[j].SHA256, base[j].Mode, base[j].Modified}] = base[j].Path
			held[any(base[j].SHA256)] = base[j].Path
		}
	}
	for _, i := range unmatched {
		if path, ok := held[content{next[i].SHA256, next[i].Mode, next[i].Modified}]; ok {
			steps[i] = step{how: byLink, from: path}
		} else if path, ok := held[any(next[i].SHA256)]; ok {
			steps[i] = step{how: byCopy, from: path}
		}
	}
	return steps
}

// Missing returns the files of next whose content no file of base has: what is in a pack.
func Missing(base, next manifest.Manifest) []manifest.Entry {
	var missing []manifest.Entry
	for i, s := range plan(base, next) {
		if next[i].Type == 'f' && s.how == isMissing {
			missing = append(missing, next[i])
		}
	}
	return missing
}
