package release

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"ebs-release/internal/gc"
	"ebs-release/internal/manifest"

	"golang.org/x/sys/unix"
)

// StageState says how far a release is on a member.
type StageState string

// What Stage answers.
const (
	Staged   StageState = "staged"    // the partial tree waits for what has to be sent: see Staging
	Present  StageState = "present"   // the release is there, whole
	NeedBase StageState = "need-base" // the base is not there or cannot be used: choose one of Releases, or none
)

// StageRequest asks for a release to be prepared on a member.
type StageRequest struct {
	ID     string
	Digest string    // of the manifest that base and delta must give
	Base   string    // release that the delta starts from; "": from nothing
	Delta  io.Reader // see Delta.Encode
	Wanted gc.Wanted // what is kept on the volume when there is no room, or an old tree is made into the new one
	More   bool      // the caller can send files besides those that base does not have: see StageResult.More
}

// StageResult is the answer. Its JSON form is what the agent tells the publisher.
type StageResult struct {
	State    StageState `json:"state"`
	Release  string     `json:"release"`
	Releases []Held     `json:"releases,omitempty"` // with NeedBase
	Reason   string     `json:"reason,omitempty"`   // with NeedBase
	Files    int        `json:"files,omitempty"`    // with Staged: that have to be sent because base does not have them
	More     []string   `json:"more,omitempty"`     // with Staged: paths, escaped, of files to send after these: base lost them
	Recycled string     `json:"recycled,omitempty"` // with Staged: the release whose tree became the new one's
}

// Held is a release that a volume holds.
type Held struct {
	ID     string `json:"id"`
	Digest string `json:"digest"`
}

// Staging is a release on its way to a member: its tree has all that could be found there, and
// waits for the rest. Until Close nobody else changes the volume.
type Staging struct {
	volume   *Volume
	id       string
	unlock   func()
	partial  *os.File
	assembly *assembly
	next     manifest.Manifest
	text     []byte // the same, encoded
	missing  []int  // entries that have to be sent: first those that the base does not have, then those that it lost
	lost     []int  // the last of missing
	done     bool
}

// Stage makes releases/<id>.partial of what the volume has already: hard links into the base,
// copies where only the mode changed, all directories and symlinks. It needs no root. With Staged
// the caller gets a Staging, and has to close it. After an error, and with any other state, nothing
// is left behind.
func (v *Volume) Stage(ctx context.Context, req StageRequest) (result StageResult, staging *Staging, err error) {
	if err := manifest.CheckID(req.ID); err != nil {
		return result, nil, err
	}
	if req.Base != "" {
		if err := manifest.CheckID(req.Base); err != nil {
			return result, nil, err
		}
	}
	// All of it is read before the answer, or the sender would get a broken pipe instead.
	delta, err := manifest.ParseDelta(req.Delta)
	if err != nil {
		return result, nil, fmt.Errorf("stage %s: %w", req.ID, err)
	}
	s := &Staging{volume: v, id: req.ID}
	if s.unlock, err = v.lock(ctx); err != nil {
		return result, nil, fmt.Errorf("stage %s: %w", req.ID, err)
	}
	defer func() {
		if staging == nil {
			err = errors.Join(err, s.Close())
		}
	}()
	result.Release = req.ID
	if _, err := s.volume.root.Lstat(releasesDir + "/" + req.ID); err == nil {
		whole, err := s.present(ctx, req)
		if whole || err != nil {
			result.State = Present
			return result, nil, err
		}
	}
	result.Recycled, err = s.begin(ctx, req, delta)
	if errors.Is(err, errBase) {
		result = StageResult{State: NeedBase, Release: req.ID, Reason: err.Error(), Releases: v.held()}
		return result, nil, nil
	}
	if err != nil {
		return StageResult{}, nil, fmt.Errorf("stage %s: %w", req.ID, err)
	}
	result.State, result.Files = Staged, len(s.missing)-len(s.lost)
	for _, i := range s.lost {
		result.More = append(result.More, string(manifest.AppendEscaped(nil, s.next[i].Path)))
	}
	return result, s, nil
}

func (s *Staging) begin(ctx context.Context, req StageRequest, delta manifest.Delta) (recycled string, err error) {
	base := &Tree{}
	if req.Base != "" {
		if base, err = s.volume.openTree(req.Base); err != nil {
			return "", fmt.Errorf("%w: %w", errBase, err)
		}
		defer base.close()
	}
	s.next, err = delta.Apply(base.manifest)
	if err == nil {
		s.text = s.next.Text()
		if digest := manifest.DigestOf(s.text); digest != req.Digest {
			err = fmt.Errorf("delta gives digest %s, want %s", digest, req.Digest)
		}
	}
	if err != nil && req.Base != "" {
		return "", fmt.Errorf("%w: %s: %w", errBase, req.Base, err)
	}
	if err != nil {
		return "", err
	}
	next := s.next
	steps := plan(base.manifest, next)
	var need int64
	for i := range next {
		if next[i].Type == 'f' && steps[i].how != byLink {
			need += next[i].Size
		}
		if next[i].Type == 'f' && steps[i].how == isMissing {
			s.missing = append(s.missing, i)
		}
	}
	who, err := s.volume.owner()
	if err != nil {
		return "", err
	}
	if s.partial, err = s.volume.startPartial(req.ID, who); err != nil {
		return "", err
	}
	if err := s.volume.makeRoom(ctx, need, req.Wanted, req.Base); err != nil {
		return "", err
	}
	s.assembly = &assembly{
		entries: entriesOf(next, steps), base: base.dir, whole: base.whole, spans: base.spans, copies: base.dir, who: who, copyAs: fromBase,
		lost: func(i int) { s.lost = append(s.lost, i) },
	}
	if recycled, err = s.assemble(ctx, req.Wanted, req.Base); err == nil {
		err = s.sendMore(req)
	}
	return recycled, err
}

// assemble makes what the volume has, of an old tree if there is one to spare, which it returns.
func (s *Staging) assemble(ctx context.Context, wanted gc.Wanted, base string) (recycled string, err error) {
	if wanted.Keep > 0 {
		if recycled, err = s.volume.recycle(ctx, s.id, s.assembly, wanted, base); err != nil {
			return "", err
		}
	}
	err = s.assembly.build(ctx, s.partial)
	if recycled != "" && errors.Is(err, fs.ErrPermission) { // what belongs to another user cannot be made into anything
		if err = s.startOver(s.id, recycled); err == nil {
			recycled, err = "", s.assembly.build(ctx, s.partial)
		}
	}
	return recycled, err
}

// mostMore is how many bytes of paths fit into an answer, with room to spare: see wire.MaxLine.
const mostMore = 512 << 10

// sendMore adds to what has to be sent what the base should have had.
func (s *Staging) sendMore(req StageRequest) error {
	slices.Sort(s.lost)
	size := 0
	for _, i := range s.lost {
		size += len(manifest.AppendEscaped(nil, s.next[i].Path)) + len(`"",`)
	}
	if size > 0 && !req.More || size > mostMore {
		return fmt.Errorf("%w: %s: %s and %d more %w",
			errBase, req.Base, manifest.Quote(s.next[s.lost[0]].Path), len(s.lost)-1, errOrigin)
	}
	s.missing = append(s.missing, s.lost...)
	return nil
}

// present says whether a release that is here is whole. One that somebody edited is removed and
// made anew, unless it is served or in use: then it stays.
func (s *Staging) present(ctx context.Context, req StageRequest) (bool, error) {
	if err := s.volume.checkRelease(req.ID, req.Digest); err != nil {
		return false, err
	}
	on, err := s.volume.inventory()
	if err != nil || req.ID == on.Current {
		return true, err
	}
	edited := s.volume.Untouched(ctx, req.ID)
	if edited == nil || ctx.Err() != nil {
		return true, ctx.Err()
	}
	if who := s.volume.inUse([]string{req.ID})[req.ID]; who != "" {
		return false, fmt.Errorf("%w; it cannot be made anew, as it is in use by %s", edited, who)
	}
	return false, s.volume.remove(ctx, req.ID)
}

// startOver makes the partial tree an empty one. What was recycled goes back under the name that it
// had when it stopped to be a release.
func (s *Staging) startOver(id, recycled string) error {
	_ = s.partial.Close()
	if err := s.volume.root.Rename(releasesDir+"/"+id+partialExt, releasesDir+"/"+recycled+partialExt); err != nil {
		return err
	}
	var err error
	s.partial, err = s.volume.startPartial(id, s.assembly.who)
	s.assembly.pendingModes = nil
	return err
}

// Receive takes the files that were missing, as Send sends them, compares each with its sha256 as
// it is written, and gives the release its name. The tree is then what the manifest says: whatever
// else is in it was looked at by Stage.
func (s *Staging) Receive(ctx context.Context, files io.Reader) error {
	err := s.receive(ctx, files)
	if err == nil {
		err = s.assembly.seal(s.partial)
	}
	if err == nil {
		err = s.volume.publish(s.id, s.assembly, s.text)
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
			err = s.volume.abandon(s.assembly)
		}
	}
	s.unlock()
	return err
}

// held lists the releases that can be a base. One whose manifest cannot be read cannot.
func (v *Volume) held() []Held {
	ids, err := v.Releases()
	if err != nil {
		return nil
	}
	var held []Held
	for _, id := range ids {
		if digest, err := v.ManifestDigest(id); err == nil {
			held = append(held, Held{id, digest})
		}
	}
	return held
}

// abandon removes a partial tree that is not to be completed. What it took and gave files in names
// was ours.
func (v *Volume) abandon(a *assembly) error {
	_, err := v.sweep()
	if err != nil || a == nil || a.hides || a.began == (unix.Timespec{}) {
		return err
	}
	_ = v.noteSpan(a.began) // the volume may be full: then more is hashed next time
	return nil
}

// publish gives a partial tree that is complete its name: manifest first, so that a release which
// is there has one; then everything to disk; then the rename. The manifest's time says since when
// nothing was written to the tree but what it names.
func (v *Volume) publish(id string, a *assembly, text []byte) error {
	if err := v.replaceFile(id+manifestExt, stateMode, func(file *os.File) error {
		if _, err := file.Write(text); err != nil {
			return err
		}
		tv := unix.NsecToTimeval(a.began.Nano())
		return unix.Futimes(int(file.Fd()), []unix.Timeval{tv, tv})
	}); err != nil {
		return err
	}
	return v.giveName(id, a)
}

// giveName is the end of publish.
func (v *Volume) giveName(id string, a *assembly) error {
	if !a.hides {
		if err := v.noteSpan(a.began); err != nil {
			return err
		}
	}
	if err := v.syncAll(); err != nil {
		return err
	}
	name := releasesDir + "/" + id
	if err := v.root.Rename(name+partialExt, name); err != nil {
		return fmt.Errorf("release %s: %w", id, err)
	}
	return errors.Join(v.syncDir(releasesDir), v.syncDir(stateDir))
}
