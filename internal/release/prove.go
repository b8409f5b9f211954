package release

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"ebs-release/internal/manifest"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// proofReaders is how many reads of a disk go on at once. A volume that EBS loads from a snapshot
// gives one reader about 5 MiB/s (row 71): these get 80, which leaves a third of gp3's 125 MiB/s to
// the application.
const proofReaders = 16

// mostBad is how many damaged files are kept, to be named and healed; all are counted.
const mostBad = 1000

// Proof reads releases of one volume, as Verify does, but from the disk itself, and goes on after
// what is damaged. It keeps what it has read: of the next release it reads only what is new. Its
// memory does not grow with the size of a manifest, but for 16 bytes for each file.
type Proof struct {
	allFiles, allBytes, files, bytes atomic.Int64 // of the release that is read now

	mu   sync.Mutex
	read map[sameFile]struct{}
	bad  []Damage
	sum  int // how many are damaged
}

// sameFile is an inode, and the beginning of the sha256 that was found in it.
type sameFile struct{ inode, content uint64 }

// Damage is a file that is not what its manifest says.
type Damage struct {
	Path     string
	Why      string
	Entry    manifest.Entry
	inode    uint64
	modified unix.Timespec
	ours     bool
}

func (d Damage) String() string { return manifest.Quote(d.Path) + ": " + d.Why }

// CanHeal says that it is a file that no program has changed since it was made: the disk has. One
// that somebody has edited is theirs, and keeps its trace.
func (d Damage) CanHeal() bool { return d.ours }

// NewProof is for a volume of which nothing was read.
func NewProof() *Proof { return &Proof{read: map[sameFile]struct{}{}} }

// Progress is how far the release is that is read now.
type Progress struct{ Files, AllFiles, Bytes, AllBytes int64 }

// Progress may be asked while Prove goes on.
func (p *Proof) Progress() Progress {
	return Progress{p.files.Load(), p.allFiles.Load(), p.bytes.Load(), p.allBytes.Load()}
}

// Prove reads the files of a release that p has not read yet, side by side, and compares all of its
// manifest with the tree. It returns what is damaged, the first ones by path, and how many that
// are. What else is in the tree, Verify finds. An error: it did not come to the end.
func (v *Volume) Prove(ctx context.Context, id string, p *Proof) (bad []Damage, sum int, err error) {
	parts, err := p.begin(v, id)
	if err != nil {
		return nil, 0, fmt.Errorf("read release %s: %w", id, err)
	}
	file, err := v.openManifest(id)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = file.Close() }()
	tree, err := v.openUnread(id, file)
	if err != nil {
		return nil, 0, err
	}
	defer tree.close()
	buffers := newBuffers(proofReaders)
	group, ctx := errgroup.WithContext(ctx)
	jobs := make(chan *io.SectionReader)
	for range proofReaders {
		group.Go(func() error {
			r := proofReader{proof: p, tree: tree, dirs: dirs{root: tree.dir}, buffers: buffers}
			defer r.dirs.close()
			for part := range jobs {
				if err := eachEntry(part, func(e manifest.Entry) error { return r.prove(ctx, &e) }); err != nil {
					return err
				}
			}
			return nil
		})
	}
	group.Go(func() error {
		defer close(jobs)
		for i := range parts[1:] {
			select {
			case jobs <- io.NewSectionReader(file, parts[i], parts[i+1]-parts[i]):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		return nil, 0, fmt.Errorf("read release %s: %w", id, err)
	}
	slices.SortFunc(p.bad, func(a, b Damage) int { return strings.Compare(a.Path, b.Path) })
	return p.bad, p.sum, nil
}

// partFiles is how many lines of a manifest one reader takes at once. Files that are beside each
// other in it are so on the disk, in one block of EBS: readers that shared them would all wait for
// that one block. But large ones are more than that block: where one reader had many of them, it
// would wait for each in turn.
const (
	partFiles = 256
	partBytes = 4 << 20
)

// begin counts what there is to read, and returns where the parts of the manifest begin and end, in
// bytes. The manifest must be that of the id, which has the beginning of its sha256.
func (p *Proof) begin(v *Volume, id string) (parts []int64, err error) {
	file, err := v.openManifest(id)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	h, files, bytes := sha256.New(), int64(0), int64(0)
	at, lines, size := int64(0), 0, int64(0) // the last two of the part that ends at at
	err = manifest.EachLine(io.TeeReader(file, h), func(number int, line []byte) error {
		if number == 1 || lines == partFiles || size >= partBytes {
			parts, lines, size = append(parts, at), 0, 0
		}
		at += int64(len(line)) + 1
		e, err := manifest.ParseEntry(string(line))
		lines++
		if e.Type == 'f' {
			files, bytes, size = files+1, bytes+e.Size, size+e.Size
		}
		return err
	})
	if sum := hexSum(h); err == nil && !strings.HasSuffix(id, "-"+sum[:12]) {
		err = fmt.Errorf("its manifest is damaged: it has the sha256 %s", sum)
	}
	if err != nil {
		return nil, err
	}
	p.bad, p.sum = nil, 0
	p.files.Store(0)
	p.bytes.Store(0)
	p.allFiles.Store(files)
	p.allBytes.Store(bytes)
	return append(parts, at), nil
}

// eachEntry reads a manifest line by line.
func eachEntry(from io.Reader, do func(manifest.Entry) error) error {
	return manifest.EachLine(from, func(number int, line []byte) error {
		e, err := manifest.ParseEntry(string(line))
		if err == nil {
			err = e.Check()
		}
		if err != nil {
			return fmt.Errorf("line %d of the manifest: %w", number, err)
		}
		return do(e)
	})
}

// proofReader is one of those that read files of a release.
type proofReader struct {
	proof   *Proof
	tree    *Tree
	dirs    dirs
	buffers buffers
}

// prove compares an entry with what is there. Its error is that of ctx.
func (r *proofReader) prove(ctx context.Context, e *manifest.Entry) error {
	d := Damage{Path: e.Path, Entry: *e}
	wrong := r.compare(ctx, e, &d)
	if err := ctx.Err(); err != nil {
		return err
	}
	p := r.proof
	if wrong != nil {
		d.Why = wrong.Error()
		p.mu.Lock()
		p.sum++
		if len(p.bad) < mostBad {
			p.bad = append(p.bad, d)
		}
		p.mu.Unlock()
	}
	if e.Type == 'f' {
		p.files.Add(1)
	}
	return nil
}

var errOther = errors.New("its content has another sha256")

func (r *proofReader) compare(ctx context.Context, e *manifest.Entry, d *Damage) error {
	dir, name, err := r.dirs.parent(e.Path)
	if err != nil {
		return plainError(err)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if !matches(e, &st) {
		return fmt.Errorf("a %s of mode %04o and %d bytes, want %s", kind(st.Mode), st.Mode&manifest.MaxMode, st.Size, describe(e))
	}
	switch e.Type {
	case 'l':
		if target := targetOf(dir, name); target != e.Target {
			return fmt.Errorf("a symlink to %q, want %q", target, e.Target)
		}
	case 'f':
		d.inode, d.modified, d.ours = st.Ino, st.Mtim, r.tree.ours(e, &st)
		return r.content(ctx, dir, name, e, &st)
	}
	return nil
}

func (r *proofReader) content(ctx context.Context, dir int, name string, e *manifest.Entry, st *unix.Stat_t) error {
	p, is := r.proof, sameFile{st.Ino, beginning(e.SHA256)}
	p.mu.Lock()
	_, known := p.read[is]
	p.mu.Unlock()
	if known {
		p.bytes.Add(e.Size)
		return nil
	}
	file, err := openFileAt(dir, name, e.Path)
	if err != nil {
		return plainError(err)
	}
	defer func() { _ = file.Close() }()
	var opened unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &opened); err != nil || opened.Ino != st.Ino {
		return errors.Join(err, errors.New("it was replaced while it was read"))
	}
	sum, err := r.buffers.sum(ctx, file, e.Size, func(n int) { p.bytes.Add(int64(n)) })
	switch {
	case err != nil:
		return plainError(err)
	case sum != e.SHA256:
		return errOther
	}
	p.mu.Lock()
	p.read[is] = struct{}{}
	p.mu.Unlock()
	return nil
}

// plainError is an error without the path, which its Damage has.
func plainError(err error) error {
	if e, ok := errors.AsType[*os.PathError](err); ok {
		return fmt.Errorf("%s: %w", e.Op, e.Err)
	}
	return err
}

func beginning(sum [sha256.Size]byte) (n uint64) {
	for _, b := range sum[:8] {
		n = n<<8 | uint64(b)
	}
	return n
}
