package release

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
)

// Pack is what a member that holds one release needs in order to have another one.
type Pack struct {
	Digest  string  // of the release
	Delta   []byte  // for Stage
	Missing []Entry // files whose content the base does not have, in the order in which they have to be sent
}

// Pack works out what makes release id of release base; base "" is nothing at all. Only the lines of the manifests that differ are looked into.
func (t Tree) Pack(base, id string) (Pack, error) {
	root, err := t.open()
	if err != nil {
		return Pack{}, err
	}
	defer func() { _ = root.Close() }()
	next, err := t.manifestText(root, id)
	if err != nil {
		return Pack{}, err
	}
	var old []byte
	if base != "" {
		if old, err = t.manifestText(root, base); err != nil {
			return Pack{}, err
		}
	}
	was, is, err := differing(old, next)
	if err != nil {
		return Pack{}, fmt.Errorf("compare the manifests of %s and %s: %w", base, id, err)
	}
	var delta bytes.Buffer
	if err := Diff(was, is).Encode(&delta); err != nil {
		return Pack{}, fmt.Errorf("delta of %s: %w", id, err)
	}
	return Pack{digestOf(next), delta.Bytes(), contentNotIn(old, is)}, nil
}

func (t Tree) manifestText(root *os.Root, id string) ([]byte, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	file, err := openPlain(root, stateDir+"/"+id+manifestExt, maxManifest)
	if err != nil {
		return nil, fmt.Errorf("manifest of %s: %w", id, err)
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("manifest of %s: %w", id, err)
	}
	text := make([]byte, info.Size())
	if _, err := io.ReadFull(file, text); err != nil {
		return nil, fmt.Errorf("manifest of %s: %w", id, err)
	}
	return text, nil
}

// contentNotIn returns the files among some entries whose content no line of an encoded manifest has: what Missing says, without reading sense into
// every line.
func contentNotIn(base []byte, some Manifest) (missing []Entry) {
	held := make(map[string]bool) // by hex sum: whether the base has it
	var begins [1 << 12]bool      // what some of them begin with; it spares most lines the look into the map
	mark := func(sum []byte) *bool { return &begins[(int(sum[0])<<8^int(sum[1])<<4^int(sum[2]))%len(begins)] }
	var sum []byte
	for i := range some {
		if some[i].Type == 'f' {
			sum = hex.AppendEncode(sum[:0], some[i].SHA256[:])
			held[string(sum)] = false
			*mark(sum) = true
		}
	}
	const size = len("f 0644 ") // here begins the size of a file, then a space and its sum
	for len(base) > 0 && len(held) > 0 {
		line := base
		if end := bytes.IndexByte(base, '\n'); end >= 0 {
			line, base = base[:end], base[end+1:]
		} else {
			base = nil
		}
		if len(line) < size || line[0] != 'f' {
			continue
		}
		_, rest, _ := bytes.Cut(line[size:], []byte{' '})
		if len(rest) < 2*sha256.Size || !*mark(rest) {
			continue
		}
		if _, wanted := held[string(rest[:2*sha256.Size])]; wanted {
			held[string(rest[:2*sha256.Size])] = true
		}
	}
	for i := range some {
		if some[i].Type == 'f' && !held[hex.EncodeToString(some[i].SHA256[:])] {
			missing = append(missing, some[i])
		}
	}
	return missing
}
