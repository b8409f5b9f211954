package manifest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
)

// Differing returns the entries of two encoded manifests that are not in the other one.
func Differing(base, next io.Reader) (was, is Manifest, err error) {
	a, b := newWindow(base), newWindow(next)
	for {
		if err := errors.Join(a.fill(), b.fill()); err != nil {
			return nil, nil, err
		}
		if len(a.text) == 0 && len(b.text) == 0 {
			return was, is, nil
		}
		if same := commonLines(a.text, b.text); same > 0 {
			a.text, b.text = a.text[same:], b.text[same:]
			continue
		}
		old, afterOld, err1 := a.entry()
		new, afterNew, err2 := b.entry()
		if err := errors.Join(err1, err2); err != nil {
			return nil, nil, err
		}
		hasOld, hasNew := len(a.text) > 0, len(b.text) > 0
		if hasOld && (!hasNew || old.Path <= new.Path) {
			was, a.text = append(was, old), afterOld
		}
		if hasNew && (!hasOld || new.Path <= old.Path) {
			is, b.text = append(is, new), afterNew
		}
	}
}

// commonLines counts the bytes of the whole lines that a and b both begin with.
func commonLines(a, b []byte) int {
	n, most := 0, min(len(a), len(b))
	for step := 1 << 12; step > 0; step >>= 3 { // 4096, 512, 64, 8, 1
		for n+step <= most && bytes.Equal(a[n:n+step], b[n:n+step]) {
			n += step
		}
	}
	return bytes.LastIndexByte(a[:n], '\n') + 1
}

// ContentNotIn returns the files among some entries whose content no line of an encoded manifest
// has, without parsing every line.
func ContentNotIn(base io.Reader, some Manifest) (missing []Entry, err error) {
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
	for w := newWindow(base); len(held) > 0; {
		if err := w.fill(); err != nil {
			return nil, err
		}
		if len(w.text) == 0 {
			break
		}
		for end := bytes.IndexByte(w.text, '\n'); end >= 0; end = bytes.IndexByte(w.text, '\n') {
			line := w.text[:end]
			w.text = w.text[end+1:]
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
	}
	for i := range some {
		if some[i].Type == 'f' && !held[hex.EncodeToString(some[i].SHA256[:])] {
			missing = append(missing, some[i])
		}
	}
	return missing, nil
}

// window is the next part of a manifest, from the beginning of a line on. After fill it has at
// least one whole line, if there is one left.
type window struct {
	from   io.Reader
	buffer []byte
	text   []byte // of buffer: what is not looked at yet
	ended  bool
}

func newWindow(from io.Reader) *window {
	return &window{from: from, buffer: make([]byte, 4*MaxLine)}
}

func (w *window) fill() error {
	if w.ended || bytes.IndexByte(w.text, '\n') >= 0 {
		return nil
	}
	have := copy(w.buffer, w.text)
	n, err := io.ReadFull(w.from, w.buffer[have:])
	w.text = w.buffer[:have+n]
	w.ended = errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	switch {
	case err != nil && !w.ended:
		return err
	case len(w.text) > 0 && bytes.IndexByte(w.text, '\n') < 0:
		return errors.New("a line is too long, or cut off")
	}
	return nil
}

// entry reads the first line, if there is one.
func (w *window) entry() (e Entry, rest []byte, err error) {
	if len(w.text) == 0 {
		return e, nil, nil
	}
	line, rest, whole := bytes.Cut(w.text, []byte{'\n'})
	if !whole {
		return e, nil, errors.New("a line is cut off")
	}
	e, err = ParseEntry(string(line))
	return e, rest, err
}
