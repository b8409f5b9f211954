package release

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// StageState says how far a release is on a member.
type StageState string

// What Stage answers.
const (
	Staged   StageState = "staged"    // the partial tree waits for what has to be sent: see Staging
	Present  StageState = "present"   // the release is there, whole
	NeedBase StageState = "need-base" // the base is not there or can't be used: choose one of Releases, or none
)

// StageRequest asks for a release to be prepared on a member.
type StageRequest struct {
	ID     string
	Digest string    // of the manifest that base and delta must give
	Base   string    // release that the delta starts from; "": from nothing
	Delta  io.Reader // see Delta.Encode
	Keep   int       // when the volume holds that many releases, the one that is needed least is made into the new one; 0: never
}

// StageResult is the answer. Its JSON form is what the agent tells the publisher.
type StageResult struct {
	State    StageState `json:"state"`
	Release  string     `json:"release"`
	Releases []Held     `json:"releases,omitempty"` // with NeedBase
	Reason   string     `json:"reason,omitempty"`   // with NeedBase
	Files    int        `json:"files,omitempty"`    // with Staged: that have to be sent
	Recycled string     `json:"recycled,omitempty"` // with Staged: the release whose tree became the new one's
}

// Held is a release that a volume holds.
type Held struct {
	ID     string `json:"id"`
	Digest string `json:"digest"`
}

// Staging is a release on its way to a member: its tree has all that could be found there, and waits for the rest. Until Close nobody else changes
// the volume.
type Staging struct {
	tree     Tree
	id       string
	root     *os.Root
	unlock   func()
	partial  *os.File
	assembly *assembly
	text     []byte // the manifest
	missing  []int  // entries that have to be sent
	done     bool
}

// Stage makes releases/<id>.partial of what the volume has already: hard links into the base, copies where only the mode changed, all
// directories and symlinks. It needs no root. With Staged the caller gets a Staging, and has to close it. After an error, and with any other state,
// nothing is left behind.
func (t Tree) Stage(ctx context.Context, req StageRequest) (result StageResult, staging *Staging, err error) {
	if err := checkID(req.ID); err != nil {
		return result, nil, err
	}
	if req.Base != "" {
		if err := checkID(req.Base); err != nil {
			return result, nil, err
		}
	}
	// All of it is read before the answer, or the sender would get a broken pipe instead.
	delta, err := ParseDelta(req.Delta)
	if err != nil {
		return result, nil, fmt.Errorf("stage %s: %w", req.ID, err)
	}
	s := &Staging{tree: t, id: req.ID}
	if s.root, s.unlock, err = t.lock(ctx); err != nil {
		return result, nil, fmt.Errorf("stage %s: %w", req.ID, err)
	}
	defer func() {
		if staging == nil {
			err = errors.Join(err, s.Close())
		}
	}()
	result.Release = req.ID
	if _, err := s.root.Lstat(releasesDir + "/" + req.ID); err == nil {
		result.State = Present
		return result, nil, t.checkRelease(s.root, req.ID, req.Digest)
	}
	result.Recycled, err = s.begin(ctx, req, delta)
	if errors.Is(err, errBase) {
		result = StageResult{State: NeedBase, Release: req.ID, Reason: err.Error(), Releases: t.held(s.root)}
		return result, nil, nil
	}
	if err != nil {
		return StageResult{}, nil, fmt.Errorf("stage %s: %w", req.ID, err)
	}
	result.State, result.Files = Staged, len(s.missing)
	return result, s, nil
}

func (s *Staging) begin(ctx context.Context, req StageRequest, delta Delta) (recycled string, err error) {
	base := &baseRelease{}
	if req.Base != "" {
		if base, err = s.tree.base(s.root, req.Base); err != nil {
			return "", fmt.Errorf("%w: %w", errBase, err)
		}
		defer base.close()
	}
	next, err := delta.Apply(base.manifest)
	if err == nil {
		s.text = next.text()
		if digest := digestOf(s.text); digest != req.Digest {
			err = fmt.Errorf("delta gives digest %s, want %s", digest, req.Digest)
		}
	}
	if err != nil && req.Base != "" {
		return "", fmt.Errorf("%w: %s: %w", errBase, req.Base, err)
	}
	if err != nil {
		return "", err
	}
	steps := plan(base.manifest, next)
	var need int64
	for i := range next {
		if next[i].Type == 'f' && steps[i].how != byLink {
			need += next[i].Size
		}
		if next[i].Type == 'f' && steps[i].how == fromAfar {
			s.missing = append(s.missing, i)
		}
	}
	who, err := s.tree.owner(s.root)
	if err != nil {
		return "", err
	}
	if s.partial, err = s.tree.startPartial(s.root, req.ID, who); err != nil {
		return "", err
	}
	if err := s.tree.room(need); err != nil {
		return "", err
	}
	if req.Keep > 0 {
		if recycled, err = s.tree.recycle(s.root, req.ID, req.Keep, req.Base); err != nil {
			return "", err
		}
	}
	s.assembly = &assembly{manifest: next, steps: steps, base: base.tree, whole: base.whole, copies: base.tree, who: who, copyAs: func(i int) (string, bool) {
		return steps[i].from, steps[i].how != fromAfar
	}}
	err = s.assembly.build(ctx, s.partial)
	if recycled != "" && errors.Is(err, fs.ErrPermission) { // what belongs to another user can't be made into anything
		if err = s.startOver(req.ID, recycled); err == nil {
			recycled, err = "", s.assembly.build(ctx, s.partial)
		}
	}
	if errors.Is(err, errOrigin) {
		err = fmt.Errorf("%w: %w", errBase, err)
	}
	return recycled, err
}

// startOver makes the partial tree an empty one. What was recycled goes back under the name that it had when it stopped to be a release.
func (s *Staging) startOver(id, recycled string) error {
	_ = s.partial.Close()
	if err := s.root.Rename(releasesDir+"/"+id+partialExt, releasesDir+"/"+recycled+partialExt); err != nil {
		return err
	}
	var err error
	s.partial, err = s.tree.startPartial(s.root, id, s.assembly.who)
	s.assembly.ajar = nil
	return err
}

// Receive takes the files that were missing, as Send sends them, compares each with its sha256 as it is written, and gives the release its name. The
// tree is then what the manifest says: whatever else is in it was looked at by Stage.
func (s *Staging) Receive(ctx context.Context, files io.Reader) error {
	err := s.receive(ctx, files)
	if err == nil {
		err = s.assembly.seal(s.partial)
	}
	if err == nil {
		err = s.tree.publish(s.root, s.id, s.text, s.assembly.began)
	}
	if err != nil {
		return fmt.Errorf("receive %s: %w", s.id, whatIsFull(s.partial, err))
	}
	s.done = true
	return nil
}

// Close lets others change the volume. A release that was not received to its end goes.
func (s *Staging) Close() error {
	var err error
	if s.partial != nil {
		_ = s.partial.Close()
		if !s.done {
			_, err = s.tree.sweep(s.root)
		}
	}
	s.unlock()
	return err
}

// held lists the releases that can be a base. One whose manifest can't be read can't.
func (t Tree) held(root *os.Root) []Held {
	ids, err := t.releases(root)
	if err != nil {
		return nil
	}
	var held []Held
	for _, id := range ids {
		if digest, err := t.manifestDigest(root, id); err == nil {
			held = append(held, Held{id, digest})
		}
	}
	return held
}

// baseRelease is the release that a new one is made from.
type baseRelease struct {
	manifest Manifest
	tree     *os.File
	whole    unix.Timespec // the last time at which its files were written: see publish
}

func (b *baseRelease) close() { _ = b.tree.Close() }

func (t Tree) base(root *os.Root, id string) (*baseRelease, error) {
	file, err := t.openManifest(root, id)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("manifest of %s: %w", id, err)
	}
	b := &baseRelease{whole: unix.NsecToTimespec(info.ModTime().UnixNano())} // see publish
	if b.manifest, err = ParseManifest(file); err != nil {
		return nil, fmt.Errorf("release %s: %w", id, err)
	}
	if b.tree, err = openFolder(root, releasesDir+"/"+id); err != nil {
		return nil, err
	}
	return b, nil
}

// publish gives a partial tree that is complete its name: manifest first, so that a release which is there has one; then everything to
// disk; then the rename. The manifest's time says since when nothing was written to the tree but what it names.
func (t Tree) publish(root *os.Root, id string, manifest []byte, began unix.Timespec) error {
	if err := t.replaceFile(root, id+manifestExt, func(file *os.File) error {
		if _, err := file.Write(manifest); err != nil {
			return err
		}
		tv := unix.NsecToTimeval(began.Nano())
		return unix.Futimes(int(file.Fd()), []unix.Timeval{tv, tv})
	}); err != nil {
		return err
	}
	if err := t.syncAll(root); err != nil {
		return err
	}
	name := releasesDir + "/" + id
	if err := root.Rename(name+partialExt, name); err != nil {
		return fmt.Errorf("release %s: %w", id, err)
	}
	return errors.Join(t.syncDir(root, releasesDir), t.syncDir(root, stateDir))
}
