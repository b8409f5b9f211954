package release

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// StageState says how far a release is on a member.
type StageState string

// What Stage answers.
const (
	Staged   StageState = "staged"    // the partial tree waits for what has to be sent; then Finish
	Present  StageState = "present"   // the release is there, whole
	NeedBase StageState = "need-base" // the base is not there or can't be used: choose one of Releases, or none
)

// StageRequest asks for a release to be prepared on a member.
type StageRequest struct {
	ID     string
	Digest string    // of the manifest that base and delta must give
	Base   string    // release that the delta starts from; "": from nothing
	Delta  io.Reader // see Delta.Encode
}

// StageResult is the answer. Its JSON form is what the agent prints (with a schema).
type StageResult struct {
	State    StageState `json:"state"`
	Release  string     `json:"release"`
	Releases []Held     `json:"releases,omitempty"` // with NeedBase
	Partial  string     `json:"partial,omitempty"`  // with Staged: where the files have to go
	Reason   string     `json:"reason,omitempty"`   // with NeedBase
}

// Held is a release that a volume holds.
type Held struct {
	ID     string `json:"id"`
	Digest string `json:"digest"`
}

// Stage makes releases/<id>.partial of what the volume has already: hard links into the base, copies where only the mode changed, all
// directories and symlinks. Then Missing(base, next) has to be sent into it. It needs no root. On an error nothing is left behind.
func (t Tree) Stage(ctx context.Context, req StageRequest) (StageResult, error) {
	if err := checkID(req.ID); err != nil {
		return StageResult{}, err
	}
	if req.Base != "" {
		if err := checkID(req.Base); err != nil {
			return StageResult{}, err
		}
	}
	// All of it is read before the answer, or the sender would get a broken pipe instead.
	delta, err := ParseDelta(req.Delta)
	if err != nil {
		return StageResult{}, fmt.Errorf("stage %s: %w", req.ID, err)
	}
	result := StageResult{Release: req.ID}
	err = t.locked(ctx, func(root *os.Root) error {
		if _, err := root.Lstat(releasesDir + "/" + req.ID); err == nil {
			result.State = Present
			return t.checkRelease(root, req.ID, req.Digest)
		}
		err := t.stage(ctx, root, req, delta)
		if errors.Is(err, errBase) {
			result.State, result.Reason = NeedBase, err.Error()
			result.Releases = t.held(root)
			return nil
		}
		result.State, result.Partial = Staged, t.PartialPath(req.ID)
		return err
	})
	if err != nil {
		return StageResult{}, fmt.Errorf("stage %s: %w", req.ID, err)
	}
	return result, nil
}

func (t Tree) stage(ctx context.Context, root *os.Root, req StageRequest, delta Delta) (err error) {
	var base Manifest
	var tree *os.File
	if req.Base != "" {
		if base, err = t.manifest(root, req.Base); err != nil {
			return fmt.Errorf("%w: %w", errBase, err)
		}
		if tree, err = root.Open(releasesDir + "/" + req.Base); err != nil {
			return fmt.Errorf("%w: %w", errBase, err)
		}
		defer func() { _ = tree.Close() }()
	}
	next, err := delta.Apply(base)
	if err == nil && next.Digest() != req.Digest {
		err = fmt.Errorf("delta gives digest %s, want %s", next.Digest(), req.Digest)
	}
	if err != nil && req.Base != "" {
		return fmt.Errorf("%w: %s: %w", errBase, req.Base, err)
	}
	if err != nil {
		return err
	}
	steps := plan(base, next)
	var need int64
	for i := range next {
		if next[i].Type == 'f' && steps[i].how != byLink {
			need += next[i].Size
		}
	}
	who, err := t.owner(root)
	if err != nil {
		return err
	}
	partial, err := t.startPartial(root, req.ID, who)
	if err != nil {
		return err
	}
	defer func() {
		_ = partial.Close()
		if err != nil {
			_ = t.sweep(root)
		}
	}()
	if err := t.room(need); err != nil {
		return err
	}
	b := builder{manifest: next, steps: steps, base: tree, copies: tree, who: who, copyAs: func(i int) (string, bool) {
		return steps[i].from, steps[i].how != fromAfar
	}}
	if err := b.build(ctx, partial); err != nil {
		if errors.Is(err, errOrigin) {
			return fmt.Errorf("%w: %w", errBase, err)
		}
		return err
	}
	return t.replaceFile(root, req.ID+stagedExt, func(w io.Writer) error {
		if _, err := fmt.Fprintf(w, "base %s\n", req.Base); err != nil {
			return err
		}
		return next.Encode(w)
	})
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

// Finish ends what Stage began, after the files were sent: the tree has to be what the manifest says. What is the base's own file is
// compared by lstat, everything else is read. Then the release gets its name. After an error the partial tree is still there.
func (t Tree) Finish(ctx context.Context, id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	err := t.locked(ctx, func(root *os.Root) error { return t.finish(ctx, root, id) })
	if err != nil {
		return fmt.Errorf("finish %s: %w", id, err)
	}
	return nil
}

func (t Tree) finish(ctx context.Context, root *os.Root, id string) error {
	staged, err := openPlain(root, stateDir+"/"+id+stagedExt, maxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := root.Lstat(releasesDir + "/" + id); err == nil {
			return nil // done before; the answer was lost
		}
		return errors.New("it is not staged")
	}
	if err != nil {
		return err
	}
	defer func() { _ = staged.Close() }()
	lines := bufio.NewReader(staged)
	head, err := lines.ReadString('\n')
	if err != nil {
		return fmt.Errorf("%s: %w", staged.Name(), err)
	}
	baseID, ok := strings.CutPrefix(strings.TrimSuffix(head, "\n"), "base ")
	if !ok {
		return fmt.Errorf("%s begins with %q", staged.Name(), head)
	}
	next, err := ParseManifest(lines)
	if err != nil {
		return err
	}
	partial, err := root.Open(releasesDir + "/" + id + partialExt)
	if err != nil {
		return err
	}
	defer func() { _ = partial.Close() }()

	in := inspection{manifest: next, seal: true, unshared: baseID == ""}
	if base, tree, err := t.base(root, baseID); err == nil {
		in.unshared = true
		defer func() { _ = tree.Close() }()
		folders := &dirs{root: tree}
		defer folders.close()
		steps := plan(base, next)
		in.held = func(i int, st *unix.Stat_t) bool {
			if steps[i].how != byLink {
				return false
			}
			var old unix.Stat_t
			return folders.stat(steps[i].from, &old) == nil && old.Dev == st.Dev && old.Ino == st.Ino
		}
	}
	if err := in.run(ctx, partial); err != nil {
		return err
	}
	if err := t.publish(root, id, next); err != nil {
		return err
	}
	return root.Remove(stateDir + "/" + id + stagedExt)
}

// base opens the release that Stage linked from. Without it, everything is read: slower, as right.
func (t Tree) base(root *os.Root, id string) (Manifest, *os.File, error) {
	if id == "" {
		return nil, nil, errors.New("there was no base")
	}
	m, err := t.manifest(root, id)
	if err != nil {
		return nil, nil, err
	}
	tree, err := root.Open(releasesDir + "/" + id)
	return m, tree, err
}
