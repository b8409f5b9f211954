// Package release holds the trees of a release volume: reading a source, taking it in on the
// release server, catching up and activating it on a member. Nothing here knows EC2 or ssh.
//
// Where to begin:
//
//	volume.go               a volume that is open; state.go: its lock
//	ingest.go               SOURCE becomes a tree; known.go: what of it is not read again
//	catchup.go, beside.go   a pack makes the next tree: of the old one, or beside one that is served
//	assemble.go             a tree becomes what a manifest says; recycle.go: out of the oldest tree
//	activate.go, fence.go   the flip; the fence and the mark
//	touched.go, settle.go   whose a ctime is, and so whether somebody has edited a file
//	verify.go, prove.go     all files are read; prove.go: from the disk, past the page cache
package release

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"ebs-release/internal/manifest"

	"golang.org/x/sys/unix"
)

// Where things are below the root of a release volume.
const (
	currentName  = "current"
	releasesDir  = "releases"
	stateDir     = ".ebs-release"
	lockPath     = stateDir + "/lock"
	manifestExt  = ".manifest"
	previousPath = stateDir + "/previous" // a symlink whose target is the release that was current before this one
	partialExt   = ".partial"             // a tree that is being made, or taken away
	incoming     = "incoming"             // where an rsync source arrives
)

// Volume is a release volume that is open. All that is done is done below the directory that was
// opened, whatever its path leads to meanwhile. It holds no other state: every call looks at the
// volume. An open one keeps its file system from being unmounted: whoever opens it closes it.
type Volume struct {
	path string
	root *os.Root
	dir  *os.File // the same directory: os.Root does not give its descriptor, and follows symlinks
}

// Open opens the release volume that is mounted at a path.
func Open(path string) (*Volume, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("release volume: %w", err)
	}
	dir, err := root.Open(".")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("release volume %s: %w", path, err), root.Close())
	}
	return &Volume{path, root, dir}, nil
}

// Close lets go of the volume.
func (v *Volume) Close() error { return errors.Join(v.dir.Close(), v.root.Close()) }

// Root is the path that the volume was opened at.
func (v *Volume) Root() string { return v.path }

// Path returns where the tree of a release is, on the volume that is mounted at a point.
func Path(point, id string) string { return point + "/" + releasesDir + "/" + id }

// Path returns where the tree of a release is.
func (v *Volume) Path(id string) string { return Path(v.path, id) }

// PartialPath returns where the tree of a release is made.
func (v *Volume) PartialPath(id string) string { return v.Path(id) + partialExt }

// Init makes the directories of a release volume for an owner, the user that pushes. What is there
// already stays.
func (v *Volume) Init(uid, gid int) error {
	for _, name := range []string{releasesDir, stateDir} {
		if err := v.root.Mkdir(name, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("release volume %s: %w", v.path, err)
		}
	}
	lock, err := v.openRegular(lockPath, unix.O_RDONLY|unix.O_CREAT, 0o600, maxFence)
	if err != nil {
		return fmt.Errorf("release volume %s: %w", v.path, err)
	}
	_ = lock.Close()
	// The root, too: `current` is replaced in it.
	for _, name := range []string{".", releasesDir, stateDir, lockPath} {
		mode := fs.FileMode(0o755)
		if name == lockPath {
			mode = 0o600 // whoever can open it can hold it
		}
		kind := uint64(unix.O_DIRECTORY)
		if name == lockPath {
			kind = 0
		}
		file, err := v.openIn(name, unix.O_RDONLY|kind, 0)
		if err == nil {
			err = errors.Join(file.Chmod(mode), file.Chown(uid, gid), file.Close())
		}
		if err != nil {
			return fmt.Errorf("release volume %s: %w", v.path, err)
		}
	}
	return nil
}

// Current returns the id of the release that `current` points to; "" when there is none yet.
func (v *Volume) Current() (string, error) {
	target, err := v.root.Readlink(currentName)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("%s/%s: %w", v.path, currentName, err)
	}
	id, ok := strings.CutPrefix(target, releasesDir+"/")
	if !ok || !manifest.ValidID(id) {
		return "", fmt.Errorf("%s/%s points to %q, which is no release", v.path, currentName, target)
	}
	return id, nil
}

// Previous returns the id of the release that was current before; "" when it is not known.
func (v *Volume) Previous() string {
	id, _ := v.root.Readlink(previousPath)
	if !manifest.ValidID(id) {
		return ""
	}
	return id
}

// Owner returns the user and the group that the trees belong to.
func (v *Volume) Owner() (uid, gid int, err error) {
	info, err := v.root.Lstat(releasesDir)
	if err != nil {
		return 0, 0, fmt.Errorf("release volume %s: %w", v.path, err)
	}
	st := info.Sys().(*syscall.Stat_t)
	return int(st.Uid), int(st.Gid), nil
}

// Releases returns the ids of the whole releases, oldest first.
func (v *Volume) Releases() ([]string, error) {
	entries, err := v.readDirectory(releasesDir)
	if err != nil {
		return nil, fmt.Errorf("release volume %s: %w", v.path, err)
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && manifest.ValidID(e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// Manifest reads the manifest of a release.
func (v *Volume) Manifest(id string) (manifest.Manifest, error) {
	file, err := v.openManifest(id)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	m, err := manifest.Parse(file)
	if err != nil {
		return nil, fmt.Errorf("release %s: %w", id, err)
	}
	return m, nil
}

// ManifestDigest returns the sha256 of a manifest as it is on the volume, without parsing it.
func (v *Volume) ManifestDigest(id string) (string, error) {
	file, err := v.openManifest(id)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, file); err != nil {
		return "", fmt.Errorf("manifest of %s: %w", id, err)
	}
	return hexSum(h), nil
}

func (v *Volume) openManifest(id string) (*os.File, error) {
	if err := manifest.CheckID(id); err != nil {
		return nil, err
	}
	file, err := v.openPlain(stateDir+"/"+id+manifestExt, manifest.MaxSize)
	if err != nil {
		return nil, fmt.Errorf("manifest of %s: %w", id, err)
	}
	return file, nil
}

// ErrMismatch is of Check: the volume was looked at, and is not what the pointer names.
var ErrMismatch = errors.New("the volume holds something else")

// mismatch is an ErrMismatch in words of its own.
type mismatch struct{ error }

func (mismatch) Is(target error) bool { return target == ErrMismatch }

func (m mismatch) Unwrap() error { return m.error }

// Check says whether the volume is what a pointer names: the manifest has that digest, `current` is
// that release, and nothing above that generation was ever activated here. It is cheap: contents
// are not read (Verify does). An ErrMismatch says what is there instead; any other error that it
// could not be looked at.
func (v *Volume) Check(id, digest string, wanted int64) error {
	err := v.check(id, digest, wanted)
	if errno, ok := errors.AsType[syscall.Errno](err); ok && !slices.Contains(wrongKind, errno) {
		return err // the disk, a missing right, no memory: nobody knows
	}
	if err == nil || errors.Is(err, ErrOldPointer) {
		return err
	}
	return mismatch{err}
}

// wrongKind is what the kernel says of a name that is not there, or is something else than a
// release volume has there.
var wrongKind = []syscall.Errno{syscall.ENOENT, syscall.ENOTDIR, syscall.ELOOP, syscall.EINVAL, syscall.EISDIR, syscall.ENXIO}

// ErrOldPointer is of Check: a higher generation was activated here. The pointer is what is wrong,
// not the volume.
var ErrOldPointer = errors.New("the pointer that was read is an old one")

func (v *Volume) check(id, digest string, wanted int64) error {
	if err := v.CheckFence(wanted); err != nil {
		return err
	}
	current, err := v.Current()
	if err != nil {
		return err
	}
	if current != id {
		return fmt.Errorf("%s: current is %q, the pointer says %s", v.path, current, id)
	}
	return v.checkRelease(id, digest)
}

// CheckFence is an ErrOldPointer when a higher generation than the wanted one was activated here. A
// lower one is right: after a rollback the pointer names an older snapshot with a new generation.
func (v *Volume) CheckFence(wanted int64) error {
	have, _, err := v.Fence()
	if err == nil && have > wanted {
		err = fmt.Errorf("%s: generation %d was activated here, the pointer says %d: %w", v.path, have, wanted, ErrOldPointer)
	}
	return err
}

// checkRelease says whether a release is here, with that digest.
func (v *Volume) checkRelease(id, digest string) error {
	dir, err := v.openDirectory(releasesDir + "/" + id)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("release %s is not on %s", id, v.path)
	case errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%s is not a directory", v.Path(id))
	case err != nil:
		return fmt.Errorf("release %s: %w", id, err)
	}
	_ = dir.Close()
	have, err := v.ManifestDigest(id)
	if err != nil {
		return err
	}
	if have != digest {
		return fmt.Errorf("release %s on %s has digest %s, want %s", id, v.path, have, digest)
	}
	return nil
}
