// Package catchup brings a release volume from what it holds to what a pointer names, by packs of
// the store, and makes those packs. The rules of a pointer are package pointer's, what a pack says
// is package pack's, and what becomes of a tree is package release's: here they meet.
//
// A pack is on the volume, whole and with the sha256 that the signed pointer has, before anything
// in it is looked at.
package catchup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"ebs-release/internal/gc"
	"ebs-release/internal/pack"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/store"
	"ebs-release/internal/words"
)

var (
	// ErrNoWay says that no packs lead from what the volume holds to the pointer's release.
	ErrNoWay = errors.New("no packs lead there from what the volume holds")
	// ErrGone says that the store does not have a pack that the pointer names: it may have moved
	// on.
	ErrGone = errors.New("a pack that the pointer names is gone")
	// ErrStore says that a pack could not be had. Nothing is said of the volume by that.
	ErrStore = errors.New("the pack could not be fetched")
)

// Believe reads a pointer's document for a volume. trusted is the agent's setting trusted-keys;
// without one the volume's own keys count. ErrUnsigned: none of them signed it, or nobody signed it
// at all. Where there are no keys whatsoever, a pointer names one snapshot, and no packs. An empty
// document stands for any pointer that is not signed.
func Believe(v *release.Volume, document []byte, trusted []string) (p pointer.Pointer, err error) {
	if len(document) > 0 {
		if p, err = pointer.Parse(document); err != nil {
			return p, err
		}
	}
	keys, err := pointer.Trusted(trusted, p.Store)
	if err == nil && len(trusted) == 0 {
		keys, err = KeysOf(v)
	}
	if err != nil {
		return pointer.Pointer{}, err
	}
	if len(keys) == 0 {
		p.Edges, p.Keys = nil, nil
		return p, nil
	}
	err = pointer.CheckSignature(document, keys)
	if err != nil && p.Schema != pointer.Signed {
		err = fmt.Errorf("%w: it is not signed at all, and %s has keys", pointer.ErrUnsigned, v.Root())
	}
	if err != nil {
		return pointer.Pointer{}, err
	}
	return p, nil
}

// KeysOf returns who may sign the pointer of a volume's store; none: it is from before there were
// keys.
func KeysOf(v *release.Volume) ([]pointer.PublicKey, error) {
	lines, err := v.Keys()
	if err != nil {
		return nil, err
	}
	keys, err := pointer.ParsePublicKeys(lines)
	if err != nil {
		return nil, unfit{fmt.Errorf("keys of %s: %w", v.Root(), err)}
	}
	return keys, nil
}

// SetKeys writes to a volume who may sign the next pointers, and what opens the packs; none, "":
// as it is.
func SetKeys(ctx context.Context, v *release.Volume, keys []string, packKey string) error {
	have, err := v.Keys()
	if err == nil && len(keys) > 0 && !slices.Equal(have, keys) {
		err = v.SetKeys(ctx, keys)
	}
	if err != nil || packKey == "" {
		return err
	}
	secret, err := v.PackKey()
	if err == nil && secret != packKey {
		err = v.SetPackKey(ctx, packKey)
	}
	return err
}

// Way is what it took to get there.
type Way struct {
	From  string // the release that was held
	Packs int
	Bytes int64 // of the packs
}

// Says tells of a way to a release: from where, by how many packs, how large.
func (w Way) Says(to string) string {
	start := "from nothing"
	if w.From != "" {
		start = "from release " + w.From
	}
	return fmt.Sprintf("%s to %s: %s, %s", start, to, words.Count(w.Packs, "pack"), words.Bytes(w.Bytes))
}

// Volume is a release volume that is to catch up.
type Volume struct {
	*release.Volume

	Packs  func(context.Context) (store.Reader, error) // where they lie; asked when one is needed
	Tries  int                                         // of a pack; 0: until ctx ends
	Served bool                                        // somebody may be reading what is there: it stays whole
	Ahead  bool                                        // its fence may be above the pointer: a release server's, after a publish that failed
	Wanted gc.Wanted                                   // what may go for the new tree, where Served
	Secret string                                      // opens the packs; "": what the volume has for that
}

// OnServer is the release volume of a release server, where somebody waits for an end. A publish
// that failed there has left its fence above the pointer.
func OnServer(v *release.Volume, packs store.Reader, wanted gc.Wanted) *Volume {
	const tries = 5
	return &Volume{
		Volume: v, Packs: func(context.Context) (store.Reader, error) { return packs, nil },
		Tries: tries, Served: true, Ahead: true, Wanted: wanted,
	}
}

// To makes the pointer's release be on the volume, whole. It is not activated. The pointer is one
// that Believe returned. Where nobody is served, a step that was cut off is ended first; where
// somebody is, a release that is there and was edited is made anew. ErrNoWay and release.ErrBase:
// another pack would do.
func (v *Volume) To(ctx context.Context, p pointer.Pointer) (Way, error) {
	way, err := v.to(ctx, p)
	return way, finding(err)
}

func (v *Volume) to(ctx context.Context, p pointer.Pointer) (Way, error) {
	if !v.Served {
		if _, err := v.FinishCatchUp(ctx); err != nil {
			return Way{}, err
		}
	}
	if err := v.CheckFence(p.Generation); err != nil && !v.Ahead {
		return Way{}, err
	}
	if v.Served {
		if whole, err := v.Whole(ctx, p.Release, p.Digest); whole || err != nil {
			return Way{}, err
		}
	}
	damaged := map[string]bool{}
	edges, held, err := v.way(p, damaged)
	if err != nil {
		return Way{}, err
	}
	for {
		way, err := v.goOver(ctx, edges, held)
		if !errors.Is(err, release.ErrBase) || way.Packs > 0 {
			return way, err
		}
		damaged[way.From] = true
		var none error // is there a way from another one that is held?
		if edges, held, none = v.way(p, damaged); none != nil {
			return way, err
		}
	}
}

// goOver makes a release by each of the packs, one after the other.
func (v *Volume) goOver(ctx context.Context, edges []pointer.Edge, held []string) (way Way, err error) {
	for i, e := range edges {
		step := release.Step{From: named(held, e.From), FromDigest: e.From, To: e.Release, ToDigest: e.To}
		if i > 0 {
			step.From = edges[i-1].Release
		} else {
			way.From = step.From
		}
		if err := v.step(ctx, e, step); err != nil {
			return way, err
		}
		way.Packs, way.Bytes = way.Packs+1, way.Bytes+e.Bytes
	}
	return way, nil
}

// way returns the packs from what the volume holds to the pointer's release.
// Those that are damaged are none.
func (v *Volume) way(p pointer.Pointer, damaged map[string]bool) (edges []pointer.Edge, held []string, err error) {
	held, err = v.Releases()
	if err != nil {
		return nil, nil, err
	}
	held = slices.DeleteFunc(held, func(id string) bool { return damaged[id] })
	edges, found := p.Way(func(digest string) bool {
		if digest == p.Digest {
			return slices.Contains(held, p.Release)
		}
		return named(held, digest) != ""
	})
	if !found {
		return nil, nil, fmt.Errorf("%s holds %s, the pointer names %s and lists %d packs: %w",
			v.Root(), strings.Join(held, ", "), p.Release, len(p.Edges), ErrNoWay)
	}
	return edges, held, nil
}

// named returns the release with a digest by its id, which has the beginning of it. Whether it is
// that one, who uses it sees by the whole digest.
func named(held []string, digest string) string {
	if digest == "" {
		return ""
	}
	for _, id := range slices.Backward(held) {
		if strings.HasSuffix(id, "-"+digest[:12]) {
			return id
		}
	}
	return ""
}

// withPack fetches the pack of an edge, opens it, and lets go of it in the end.
func (v *Volume) withPack(ctx context.Context, e pointer.Edge, do func(*pack.Opened) error) (err error) {
	file, err := v.fetch(ctx, e)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	secret := v.Secret
	if secret == "" {
		if secret, err = v.PackKey(); err != nil {
			return err
		}
	}
	opened, err := open(file, secret)
	if err != nil {
		return fmt.Errorf("pack %s: %w", e.Pack, err)
	}
	defer opened.Close()
	return do(opened)
}

// step goes over one edge.
func (v *Volume) step(ctx context.Context, e pointer.Edge, s release.Step) error {
	if v.Served { // on a volume that nobody serves there is nothing that could go
		if err := v.MakeRoom(ctx, e.Bytes, v.Wanted, s.From); err != nil {
			return fmt.Errorf("keep pack %s: %w", e.Pack, err)
		}
	}
	return v.withPack(ctx, e, func(opened *pack.Opened) error { return v.apply(ctx, e, s, opened) })
}

// apply brings the volume over an edge by its pack.
func (v *Volume) apply(ctx context.Context, e pointer.Edge, s release.Step, opened *pack.Opened) (err error) {
	keys := opened.Keys
	if got, want := opened.Head, (pack.Head{From: e.From, To: e.To, Release: e.Release, Keys: keys}); got != want {
		return fmt.Errorf("pack %s leads from %.12q to %s, the pointer says from %.12q to %s",
			e.Pack, got.From, got.Release, want.From, want.Release)
	}
	if keys != "" { // first: the release is not fetched again
		if err := v.takePackKeys(ctx, keys); err != nil {
			return err
		}
	}
	if v.Served || e.From == "" {
		err = v.CatchUpBeside(ctx, s, opened, v.Wanted)
	} else {
		err = v.CatchUp(ctx, s, opened)
	}
	if errors.Is(err, fs.ErrExist) { // somebody else was faster
		err = nil
	}
	return err
}

// ageHeader begins what age has encrypted (age-encryption.org/v1).
const ageHeader = "age-encryption.org/"

// open reads a sealed pack: secret is the key of the volume, for one that is encrypted.
func open(sealed io.ReadSeeker, secret string) (*pack.Opened, error) {
	head := make([]byte, len(ageHeader))
	_, err := io.ReadFull(sealed, head)
	if _, seekErr := sealed.Seek(0, io.SeekStart); seekErr != nil {
		return nil, seekErr
	}
	if err != nil || string(head) != ageHeader {
		opened, err := pack.Open(sealed, nil)
		if err == nil && opened.Keys != "" {
			opened.Close()
			return nil, errors.New("it has secret keys in it, and is not encrypted")
		}
		return opened, err
	}
	if secret == "" {
		return nil, errors.New("it is encrypted, and the volume has no key for it")
	}
	keys, err := parsePackKeys(secret)
	if err != nil {
		return nil, fmt.Errorf("it is encrypted, and the volume's pack key: %w", err)
	}
	return pack.Open(sealed, keys)
}
