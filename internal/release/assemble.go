package release

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"ebs-release/internal/manifest"

	"golang.org/x/sys/unix"
)

var (
	// errOrigin: a file that was to be copied is not what its manifest says.
	errOrigin = errors.New("is not what its manifest says")
	// errBase: the base release is damaged or not the one that the delta was made for.
	errBase = errors.New("base release cannot be used")
)

// assembly makes a tree what a manifest says, out of whatever is in it: nothing, or an older
// release that nobody needs any more. What is the base's own file already stays, so that a tree
// which is much like the base costs a look at each file, not a new name for each. What does not
// belong there goes. Nothing is ever written in place: a file may be a hard link to a release that
// is in use.
type assembly struct {
	manifest manifest.Manifest
	text     []byte // the same, encoded
	steps    []step
	base     *os.File      // tree to link from; nil: there is none
	whole    unix.Timespec // when the base was whole. A file of it that was written to later is not taken for what its manifest says
	spans    spans         // see noteSpan. A file of the base whose ctime is in none of them is hashed before it is taken
	copies   *os.File      // tree to copy from
	// copyAs says whether entry i is to be copied, and from which path below copies. What is not is
	// left out.
	copyAs func(i int) (path string, ok bool)
	// lost is told which entries cannot be made, as their files in the base are not what its
	// manifest says; nil: that is an error.
	lost  func(i int)
	who   owner
	began unix.Timespec // see justNow. What is written to a file of the new tree from here on is told by its time

	// While build runs:
	to, from, elsewhere, original *dirs // the tree, the same place in the base, another one in it, copies
	names                         lister
	hand                          func(job) error
	mu                            sync.Mutex
	again                         []place // of jobs that could not be done; guarded by mu
	// After it:
	pendingModes []int // directories whose mode is not yet that of the manifest
	hides        bool  // an edit of somebody else may have lost its trace here: no noteSpan
}

// job is a file to copy or, without to, one of the base to link if it is what the manifest says.
type job struct {
	from, to *os.File
	place
}

// directory is a directory of a manifest, with what is right in it: indices, in the order of the
// names.
type directory struct {
	path  string
	entry int // -1: the root
	below []int
}

// directories come before those that are in them.
func directoriesOf(m manifest.Manifest) []directory {
	all := []directory{{entry: -1}}
	at := map[string]int{"": 0}
	before, in := "", 0 // the parent of the entry before is mostly that of the next, too
	for i := range m {
		if parent, _ := manifest.Split(m[i].Path); parent != before {
			before, in = parent, at[parent]
		}
		all[in].below = append(all[in].below, i)
		if m[i].Type == 'd' {
			at[m[i].Path] = len(all)
			all = append(all, directory{path: m[i].Path, entry: i})
		}
	}
	return all
}

// build does all but the modes of directories, which stay open to their owner: see seal.
func (a *assembly) build(ctx context.Context, partial *os.File) error {
	var err error
	if a.began, err = justNow(); err != nil {
		return err
	}
	a.to, a.from, a.elsewhere, a.original = &dirs{root: partial}, &dirs{root: a.base}, &dirs{root: a.base}, &dirs{root: a.copies}
	defer func() {
		for _, d := range []*dirs{a.to, a.from, a.elsewhere, a.original} {
			d.close()
		}
	}()
	if err = a.work(ctx, func() error { return a.all(ctx) }); err == nil && len(a.again) > 0 {
		err = a.tryAgain(ctx)
	}
	return whatIsFull(partial, err)
}

// all goes through the manifest.
func (a *assembly) all(ctx context.Context) error {
	for _, f := range directoriesOf(a.manifest) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := a.directory(f); err != nil {
			return err
		}
	}
	return nil
}

// tryAgain copies what could not be linked. What is not right even so is lost.
func (a *assembly) tryAgain(ctx context.Context) error {
	again := a.again
	a.again = nil
	slices.SortFunc(again, func(x, y place) int { return x.index - y.index })
	err := a.work(ctx, func() error {
		for _, p := range again {
			if err := errors.Join(ctx.Err(), a.vacate(&p)); err != nil {
				return err
			}
			if err := a.copy(p); err != nil {
				return pathError("make", p.entry.Path, err)
			}
		}
		return nil
	})
	for _, p := range a.again {
		err = errors.Join(err, a.vacate(&p))
		a.lose(p)
	}
	return err
}

// vacate opens the directory of a place once more, and takes away what is there.
func (a *assembly) vacate(p *place) (err error) {
	if p.dir, p.name, err = a.to.parent(p.entry.Path); err != nil {
		return err
	}
	if err := removeAt(p.dir, p.name); err != nil {
		return pathError("remove", p.entry.Path, err)
	}
	return nil
}

// lose gives up on an entry.
func (a *assembly) lose(p place) {
	a.hides = true
	a.lost(p.index)
}

// work lets produce hand out jobs.
func (a *assembly) work(ctx context.Context, produce func() error) error {
	return parallel(ctx, func(hand func(job) error) error {
		a.hand = hand
		return produce()
	}, func() func(job) error {
		h := newHasher()
		return func(j job) error {
			if err := a.do(h, j); err != nil {
				return pathError("write", j.entry.Path, err)
			}
			return nil
		}
	})
}

// do ends a job. One that cannot be done is tried in another way.
func (a *assembly) do(h *hasher, j job) error {
	defer j.close()
	if j.to == nil {
		if linked, err := a.linkIfRight(h, j); linked || err != nil {
			return err
		}
	} else if err := errors.Join(a.fill(h, j), j.to.Close()); a.lost == nil || !errors.Is(err, errOrigin) {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.again = append(a.again, j.place)
	return nil
}

func (j *job) close() {
	_ = j.from.Close()
	if j.to == nil {
		_ = unix.Close(j.dir)
	}
}

// linkIfRight hashes a file of the base before it gives it a name in the tree, so that one which is
// wrong keeps its ctime.
func (a *assembly) linkIfRight(h *hasher, j job) (bool, error) {
	sum, size, err := h.sum(j.from, nil)
	if err != nil {
		return false, err
	}
	if sum != j.entry.SHA256 || size != j.entry.Size {
		return false, nil
	}
	if j.is != nil { // it has that name already
		return true, nil
	}
	err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", j.from.Fd()), j.dir, j.name, unix.AT_SYMLINK_FOLLOW)
	if cannotLink(err) {
		return false, nil
	}
	return err == nil, err
}

// directory makes one directory right, not what is below its own directories.
func (a *assembly) directory(f directory) error {
	fd, err := a.to.directory(f.path)
	if err != nil {
		return err
	}
	if err := a.openUp(fd, f); err != nil {
		return pathError("make", f.path, err)
	}
	have, err := a.names.list(fd)
	if err != nil {
		return pathError("read directory", f.path, err)
	}
	base, held, err := a.inBase(f.path)
	if err != nil {
		return err
	}
	for _, i := range f.below {
		_, name := manifest.Split(a.manifest[i].Path)
		for len(have) > 0 && have[0].name < name {
			if err := removeAt(fd, have[0].name); err != nil {
				return pathError("remove", f.path+"/"+have[0].name, err)
			}
			have = have[1:]
		}
		for len(held) > 0 && held[0].name < name {
			held = held[1:]
		}
		p := place{index: i, entry: &a.manifest[i], dir: fd, name: name, base: base}
		if len(have) > 0 && have[0].name == name {
			p.is, have = &have[0], have[1:]
		}
		if len(held) > 0 && held[0].name == name {
			p.held = &held[0]
		}
		if err := a.put(p); err != nil {
			return pathError("make", p.entry.Path, err)
		}
	}
	for _, n := range have {
		if err := removeAt(fd, n.name); err != nil {
			return pathError("remove", f.path+"/"+n.name, err)
		}
	}
	return nil
}

// openUp lets the owner write to a directory that it may not write to as a part of a release.
func (a *assembly) openUp(fd int, f directory) error {
	if f.entry < 0 {
		return nil // startPartial made it
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	mode := st.Mode & manifest.MaxMode
	if mode&0o700 == 0o700 && mode == a.manifest[f.entry].Mode {
		return nil
	}
	a.pendingModes = append(a.pendingModes, f.entry)
	if mode&0o700 == 0o700 {
		return nil
	}
	return unix.Fchmod(fd, mode|0o700)
}

// inBase lists the same directory of the base; one that is not there is empty.
func (a *assembly) inBase(path string) (fd int, names []name, err error) {
	if a.base == nil {
		return -1, nil, nil
	}
	if fd, err = a.from.directory(path); err == nil {
		names, err = a.names.list(fd)
	}
	if otherShape(err) {
		return -1, nil, nil
	}
	return fd, names, err
}

// place is where an entry has to be.
type place struct {
	index int // in the manifest
	entry *manifest.Entry
	dir   int // its directory
	name  string
	is    *name // what is there; nil: nothing
	base  int   // the directory of the same path in the base
	held  *name // what is there; nil: nothing
}

// clear takes away what is there.
func (p *place) clear() error {
	if p.is == nil {
		return nil
	}
	p.is = nil
	return removeAt(p.dir, p.name)
}

func (a *assembly) put(p place) error {
	switch {
	case p.entry.Type == 'd':
		if p.is != nil && p.is.kind == unix.DT_DIR {
			return nil
		}
		if err := p.clear(); err != nil {
			return err
		}
		if err := unix.Mkdirat(p.dir, p.name, 0o700); err != nil {
			return err
		}
		return a.own(p)
	case p.entry.Type == 'l':
		if p.is != nil && p.is.kind == unix.DT_LNK && targetOf(p.dir, p.name) == p.entry.Target {
			return nil
		}
		if err := p.clear(); err != nil {
			return err
		}
		if err := unix.Symlinkat(p.entry.Target, p.dir, p.name); err != nil {
			return err
		}
		return a.own(p)
	case a.steps[p.index].how == byLink:
		linked, err := a.link(&p)
		if linked || err != nil {
			return err
		}
	}
	if err := p.clear(); err != nil {
		return err
	}
	return a.copy(p)
}

func (a *assembly) own(p place) error {
	if a.who == asIs {
		return nil
	}
	return unix.Fchownat(p.dir, p.name, a.who.uid, a.who.gid, unix.AT_SYMLINK_NOFOLLOW)
}

// link says whether the file is now the base's own. When not, a copy may do, which is compared with
// its sha256: the base's file has all the links that a file can have (ext4: 65,000), or is not what
// it should be.
func (a *assembly) link(p *place) (bool, error) {
	from, old := p.base, p.name
	path := a.steps[p.index].from
	if path == p.entry.Path {
		if p.held == nil {
			return false, nil
		}
	} else {
		var err error
		if from, old, err = a.elsewhere.parent(path); otherShape(err) {
			return false, nil
		} else if err != nil {
			return false, err
		}
	}
	// Before it gets one more name, which moves its ctime.
	var st unix.Stat_t
	if err := unix.Fstatat(from, old, &st, unix.AT_SYMLINK_NOFOLLOW); otherShape(err) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if !matches(p.entry, &st) || !untouched(p.entry, &st, a.whole) {
		return false, nil
	}
	if p.is != nil && p.is.inode != st.Ino {
		if err := p.clear(); err != nil {
			return false, err
		}
	}
	if !a.spans.has(st.Ctim) { // nor does what got another name just now: it is hashed for the next
		return a.linkLater(p, from, old, path, &st)
	}
	if p.is != nil {
		return true, nil
	}
	err := unix.Linkat(from, old, p.dir, p.name, 0)
	if cannotLink(err) {
		return false, nil
	}
	return err == nil, err
}

// linkLater has a file hashed that somebody may have touched, and then linked. What has attributes
// that no manifest knows is copied instead.
func (a *assembly) linkLater(p *place, from int, old, path string, st *unix.Stat_t) (bool, error) {
	file, err := openFileAt(from, old, path)
	if otherShape(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var is unix.Stat_t
	j := job{from: file, place: *p}
	if err = unix.Fstat(int(file.Fd()), &is); err == nil && (is.Ino != st.Ino || hasAttributes(file)) {
		return false, file.Close()
	}
	if err == nil {
		j.dir, err = unix.FcntlInt(uintptr(p.dir), unix.F_DUPFD_CLOEXEC, 0) // it lasts longer than the producer's
	}
	if err != nil {
		return false, errors.Join(err, file.Close())
	}
	if err := a.hand(j); err != nil {
		j.close()
		return false, err
	}
	return true, nil
}

// cannotLink says that a file cannot have another name: it has as many as there can be (ext4:
// 65,000), is another user's, or no file.
func cannotLink(err error) bool {
	return otherShape(err) || errors.Is(err, unix.EMLINK) || errors.Is(err, unix.EPERM)
}

// untouched says that a file of a tree that was whole at some time was not written to since.
func untouched(e *manifest.Entry, st *unix.Stat_t, whole unix.Timespec) bool {
	if e.Modified != 0 {
		return st.Mtim == unix.Timespec{Sec: e.Modified}
	}
	return !isAfter(st.Mtim, whole)
}

func isAfter(t, than unix.Timespec) bool {
	return t.Sec > than.Sec || t.Sec == than.Sec && t.Nsec > than.Nsec
}

// otherShape says that a path could not be opened because the tree is not of the shape that its
// manifest says.
func otherShape(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// matches compares what lstat can see.
func matches(e *manifest.Entry, st *unix.Stat_t) bool {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return e.Type == 'f' && st.Mode&manifest.MaxMode == e.Mode && st.Size == e.Size
	case unix.S_IFDIR:
		return e.Type == 'd' && st.Mode&manifest.MaxMode == e.Mode
	case unix.S_IFLNK:
		return e.Type == 'l'
	default:
		return false
	}
}

func (a *assembly) copy(p place) error {
	path, ok := a.copyAs(p.index)
	if !ok {
		return nil
	}
	from, err := a.original.openFile(path)
	if otherShape(err) && a.lost != nil {
		a.lose(p)
		return nil
	}
	if otherShape(err) {
		return fmt.Errorf("%w: %w", errOrigin, err)
	}
	if err != nil {
		return err
	}
	to, err := create(p.dir, p.name)
	if err != nil {
		_ = from.Close()
		return err
	}
	if err := a.hand(job{from, to, p}); err != nil {
		_, _ = from.Close(), to.Close()
		return err
	}
	return nil
}

// create makes a file that nobody else has a name for.
func create(dir int, name string) (*os.File, error) {
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), manifest.Quote(name)), nil
}

// fill copies a file, hashes what it copies, and wants that to be what the manifest says.
func (a *assembly) fill(h *hasher, j job) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(j.from.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errOrigin
	}
	sum, size, err := h.sum(j.from, j.to)
	if err != nil {
		return err
	}
	if sum != j.entry.SHA256 || size != j.entry.Size {
		return errOrigin
	}
	return a.complete(j.to, j.entry, st.Mtim)
}

// justNow is a time that every later write to a file is after, and every earlier one before. The
// kernel stamps files with a clock that goes in steps of 1 to 10 ms (CONFIG_HZ): it waits for the
// next one. Futimes knows microseconds.
func justNow() (unix.Timespec, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME, &now); err != nil {
		return now, err
	}
	step, err := stepAfter(now)
	if err != nil {
		return step, err
	}
	return unix.NsecToTimespec((step.Nano()/1000 - 1) * 1000), nil
}

// stepAfter waits until the clock that files are stamped with is past a time that is now, and
// returns what it shows then.
func stepAfter(now unix.Timespec) (step unix.Timespec, err error) {
	for tries := 0; tries < 100; tries++ { // the clock may be put back meanwhile
		if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &step); err != nil || isAfter(step, now) {
			return step, err
		}
		time.Sleep(time.Millisecond)
	}
	return step, nil
}

// complete gives a file that was written what the manifest says.
func (a *assembly) complete(file *os.File, e *manifest.Entry, modified unix.Timespec) error {
	return finishFile(file, e, a.who, a.began, modified)
}

// finishFile gives a file that was written its owner, mode and time. A file that is written to in
// place, even while the rest of its tree is still on the way, is told by its time: it is that of
// the manifest, or, where that has none, not later than the tree was begun.
func finishFile(file *os.File, e *manifest.Entry, who owner, began, modified unix.Timespec) error {
	fd := int(file.Fd())
	if who != asIs {
		if err := unix.Fchown(fd, who.uid, who.gid); err != nil {
			return err
		}
	}
	// After chown, which takes set-id bits away.
	if err := unix.Fchmod(fd, e.Mode); err != nil {
		return err
	}
	switch {
	case e.Modified != 0:
		modified = unix.Timespec{Sec: e.Modified}
	case isAfter(modified, began):
		modified = began
	}
	tv := unix.NsecToTimeval(modified.Nano())
	return unix.Futimes(fd, []unix.Timeval{tv, tv})
}

// seal gives directories the modes of the manifest, once nothing more has to be put into them.
func (a *assembly) seal(partial *os.File) error {
	directories := &dirs{root: partial}
	defer directories.close()
	for n := len(a.pendingModes) - 1; n >= 0; n-- { // what is below a directory before itself
		e := &a.manifest[a.pendingModes[n]]
		fd, err := directories.directory(e.Path)
		if err != nil {
			return err
		}
		if err := unix.Fchmod(fd, e.Mode); err != nil {
			return pathError("chmod", e.Path, err)
		}
	}
	return nil
}

func targetOf(dir int, name string) string {
	target := make([]byte, manifest.MaxTarget+1)
	n, err := unix.Readlinkat(dir, name, target)
	if err != nil {
		return ""
	}
	return string(target[:n])
}

func pathError(op, path string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	// An error that has a path already says enough.
	if _, ok := errors.AsType[*os.PathError](err); ok {
		return err
	}
	return fmt.Errorf("%s %s: %w", op, manifest.Quote(path), err)
}
