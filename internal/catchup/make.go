package catchup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/manifest"
	"ebs-release/internal/pack"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/store"

	"filippo.io/age"
)

// Make writes the pack that leads from a release on the volume ("": from nothing) to another one
// there into the store, and reads it back from there: whoever is told of it can rely on it. secret:
// it is encrypted for the volume's key.
func Make(ctx context.Context, v *release.Volume, to store.Store, from, id string, secret bool) (e pointer.Edge, err error) {
	file, err := v.Scratch()
	if err != nil {
		return e, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	var keys packKeys
	carried := ""
	if secret {
		if keys, carried, err = ownPackKeys(v); err != nil {
			return e, err
		}
	}
	if e, err = write(ctx, v, file, from, id, keys, carried); err != nil {
		return e, fmt.Errorf("make the pack from release %q to %s: %w", from, id, err)
	}
	if err := put(ctx, to, e.Pack, file); err != nil {
		return e, fmt.Errorf("bring pack %s to %s: %w", e.Pack, to, err)
	}
	if err := readBack(ctx, to, e, keys); err != nil {
		return e, fmt.Errorf("read pack %s back from %s: %w", e.Pack, to, err)
	}
	return e, nil
}

// ownPackKeys returns the keys that a pack is encrypted for, and those that it has in it: "" but
// for a rotation.
func ownPackKeys(v *release.Volume) (keys packKeys, carried string, err error) {
	text, err := v.PackKey()
	if err != nil {
		return nil, "", err
	}
	if keys, err = parsePackKeys(text); err != nil {
		return nil, "", advice.Try(fmt.Errorf("the pack key of %s: %w", v.Root(), err), "ebs-release key init")
	}
	if len(keys) > 1 {
		carried = text
	}
	return keys, carried, nil
}

func write(
	ctx context.Context, v *release.Volume, file *os.File, from, id string, keys packKeys, carried string,
) (e pointer.Edge, err error) {
	changes, err := v.Changes(ctx, from, id)
	if err != nil {
		return e, err
	}
	defer func() { err = errors.Join(err, changes.Close()) }()
	var who age.Recipient
	if len(keys) > 0 {
		who = keys
	}
	seal, err := pack.NewSeal(file, who)
	if err != nil {
		return e, err
	}
	head := pack.Head{From: changes.FromDigest, To: changes.ToDigest, Release: changes.To, Keys: carried}
	if err := pack.Write(ctx, seal, head, changes.All(ctx), changes.Open); err != nil {
		return e, err
	}
	sum, err := seal.Close()
	return pointer.Edge{
		From: head.From, To: head.To, Release: head.Release, Pack: pointer.PackKey(head.From, head.To, sum.SHA256),
		Bytes: sum.Bytes, SHA256: sum.SHA256, Made: time.Now().UTC().Truncate(time.Second),
	}, err
}

func put(ctx context.Context, to store.Store, key string, file *os.File) error {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	ctx, moves, stop := watched(ctx)
	defer stop()
	err := to.Put(ctx, key, progress{file, moves})
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, errStalled) {
		return errors.Join(cause, err)
	}
	return err
}

// progress tells of each read.
type progress struct {
	io.ReadSeeker

	moves func()
}

func (p progress) Read(into []byte) (int, error) {
	p.moves()
	return p.ReadSeeker.Read(into)
}

// readBack compares what the store gives with what was written, and goes through all of it as a
// member does.
func readBack(ctx context.Context, from store.Reader, e pointer.Edge, keys packKeys) error {
	ctx, moves, stop := watched(ctx)
	defer stop()
	object, err := from.Get(ctx, e.Pack, "")
	if err != nil {
		return err
	}
	defer func() { _ = object.Body.Close() }()
	body := reader(func(p []byte) (int, error) { moves(); return object.Body.Read(p) })
	checked, w := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- goThrough(checked, keys) }()
	err = pack.Check(io.TeeReader(body, w), pack.Sum{Bytes: e.Bytes, SHA256: e.SHA256})
	_ = w.CloseWithError(err) // nil: the end
	return errors.Join(err, <-ended)
}

// goThrough reads a sealed pack to its end.
func goThrough(r *io.PipeReader, keys packKeys) error {
	defer func() { _, _ = io.Copy(io.Discard, r) }() // whoever writes must not wait for what nobody reads
	var secret age.Identity
	if len(keys) > 0 {
		secret = keys
	}
	opened, err := pack.Open(r, secret)
	if err != nil {
		return err
	}
	defer opened.Close()
	var sizes []int64
	for c, err := range opened.Changes() {
		if err != nil {
			return err
		}
		if c.HasContent() {
			sizes = append(sizes, c.Entry.Size)
		}
	}
	for _, size := range sizes {
		content, err := opened.Content(&manifest.Entry{Size: size})
		if err == nil {
			_, err = io.Copy(io.Discard, content)
		}
		if err != nil {
			return err
		}
	}
	return opened.End()
}
