package release

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sort"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// What was read of SOURCE once is not read again while its inode has the same number, ctime, mtime
// and size: the kernel moves a ctime with every change of content, mode and extended attributes,
// and nobody can set it. So that no change is missed, a file is only remembered
//
//   - whose ctime is before the clock of when the scan began: one that is changed after it was read
//     has a later ctime then (git calls the others racy);
//   - that nobody had open for writing when it was read: a page of a shared mapping that is written
//     to once more, and a write that is under way, move no ctime. Whoever opens it later moves it;
//   - whose ctime has nanoseconds: one without is of a file system that keeps seconds, or came with
//     an image;
//   - that lies on the file system of SOURCE's own directory, one of those in trusted.
//
// And what was remembered counts only in the same boot, as a power cut may keep new content and
// lose the ctime that came with it, and only while nobody has set the clock, as ctimes could come
// again. Which path led to the file does not matter.
const (
	knownName   = "known" // a line that says of what, the files by inode, sha256 of all that
	knownPath   = stateDir + "/" + knownName
	knownFormat = "ebs-release known 1"
	maxLine     = 200 // bytes
	mostKnown   = 1_000_000
	maxKnown    = maxLine + mostKnown*sizeOfKnown + sha256.Size

	// Of a file: inode, size, mtime and ctime in seconds, 8 bytes each, their nanoseconds, 4 bytes
	// each; sha256; what is left behind, one bit for each kind. The highest byte is the first.
	// 300,000 files are 22 MB.
	sizeOfMark  = 40
	sizeOfKnown = sizeOfMark + sha256.Size + 1
)

// trusted are file systems of this machine's own disks whose inodes keep their number, whose ctimes
// move with every change, also of a page that is mapped, and have nanoseconds. Others are read
// each time, such as
//
//   - overlayfs: another inode after the first write to a file, and whatever happens below it is
//     undefined (kernel, Documentation/filesystems/overlayfs.rst, "Changes to underlying
//     filesystems");
//   - NFS: attributes may be a minute old (nfs(5), acregmax), by the clock of another machine;
//   - FUSE, virtiofs, 9p: attributes are what another program says, and as old as it likes
//     (mount.fuse3(8), attr_timeout);
//   - tmpfs: a mapped page that was read first is written to without a fault, and so without a new
//     ctime (kernel, mm/vma.c, vma_wants_writenotify).
var trusted = [...]int64{unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC} // ext2 and ext3 have that of ext4

// known is what is remembered of SOURCE, and what a scan of it adds. nil: nothing is, or shall be.
type known struct {
	on     fileSystem
	began  unix.Timespec // when the scan began, by the clock that files are stamped with
	sorted []byte        // files, sizeOfKnown each
}

// fileSystem is where and when inodes are what they are.
type fileSystem struct {
	boot   string
	device uint64
	id     [2]int32 // statfs(2): of the UUID, with ext4 and btrfs
	clock  int64    // the time of day when this machine booted, nanoseconds: it moves when somebody sets the clock
}

// mostDrift is by how much the two clocks may differ that are read one after the other.
const mostDrift = 100_000_000

// knownOf prepares a scan of a SOURCE; nil when its file system is not trusted. all: what is
// remembered is not used.
func (v *Volume) knownOf(root *os.File, all bool) *known {
	k := &known{}
	at, err := fileSystemOf(root)
	if err == nil {
		err = unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &k.began)
	}
	if err != nil {
		return nil
	}
	k.on = at
	if !all {
		k.sorted = v.readKnown(at)
	}
	return k
}

var errNotTrusted = errors.New("its inodes may change without a sign")

func fileSystemOf(root *os.File) (at fileSystem, err error) {
	var system unix.Statfs_t
	var st unix.Stat_t
	var day, up unix.Timespec
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err = errors.Join(err, unix.Fstatfs(int(root.Fd()), &system), unix.Fstat(int(root.Fd()), &st),
		unix.ClockGettime(unix.CLOCK_REALTIME, &day), unix.ClockGettime(unix.CLOCK_BOOTTIME, &up)); err != nil {
		return at, err
	}
	if !slices.Contains(trusted[:], int64(system.Type)) { // the type differs between architectures
		return at, errNotTrusted
	}
	return fileSystem{strings.TrimSpace(string(boot)), st.Dev, system.Fsid.Val, day.Nano() - up.Nano()}, nil
}

func (p fileSystem) line() string {
	return fmt.Sprintln(knownFormat, p.boot, p.device, p.id[0], p.id[1], p.clock)
}

// same says whether a line is of the same place.
func (p fileSystem) same(line string) bool {
	var was fileSystem
	_, err := fmt.Sscanf(line, knownFormat+" %s %d %d %d %d", &was.boot, &was.device, &was.id[0], &was.id[1], &was.clock)
	drift := max(p.clock-was.clock, was.clock-p.clock)
	was.clock = p.clock
	return err == nil && p == was && drift >= 0 && drift < mostDrift
}

// readKnown returns the files that are known at a place. What is not right, or not our own user's,
// is nothing.
func (v *Volume) readKnown(at fileSystem) []byte {
	file, err := v.openPlain(knownPath, maxKnown)
	if err != nil {
		return nil
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil || int(info.Sys().(*syscall.Stat_t).Uid) != os.Geteuid() || info.Mode() != 0o600 {
		return nil
	}
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(file, data); err != nil || len(data) < sha256.Size {
		return nil
	}
	data, sum := data[:len(data)-sha256.Size], data[len(data)-sha256.Size:]
	line, files, _ := bytes.Cut(data[:len(data):len(data)], []byte("\n"))
	if is := sha256.Sum256(data); !bytes.Equal(is[:], sum) || !at.same(string(line)) || len(files)%sizeOfKnown != 0 {
		return nil
	}
	return files
}

// mark is what tells that a file is as it was.
func (s *scanned) mark() (m [sizeOfMark]byte) {
	b := binary.BigEndian.AppendUint64(m[:0], s.inode)
	for _, n := range []int64{s.size, s.modified.Sec, s.changed.Sec} {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	for _, n := range []int64{s.modified.Nsec, s.changed.Nsec} {
		b = binary.BigEndian.AppendUint32(b, uint32(n))
	}
	return m
}

// tell says whether a file is known, and then what it is.
func (k *known) tell(s *scanned) bool {
	if k == nil || s.device != k.on.device {
		return false
	}
	mark, count := s.mark(), len(k.sorted)/sizeOfKnown
	at := sort.Search(count, func(i int) bool { return bytes.Compare(k.sorted[i*sizeOfKnown:][:sizeOfMark], mark[:]) >= 0 })
	if at == count {
		return false
	}
	file := k.sorted[at*sizeOfKnown:][:sizeOfKnown]
	if !bytes.Equal(file[:sizeOfMark], mark[:]) {
		return false
	}
	copy(s.SHA256[:], file[sizeOfMark:])
	for i, kind := range kinds {
		if file[sizeOfKnown-1]&(1<<i) != 0 {
			s.leftBehind = append(s.leftBehind, kind)
		}
	}
	s.settled = true
	return true
}

// settles says whether a file that is about to be read may be remembered.
func (k *known) settles(s *scanned, file *os.File) bool {
	return k != nil && s.device == k.on.device && s.changed.Nsec != 0 && isAfter(k.began, s.changed) && nobodyWrites(file)
}

// nobodyWrites says that a file is not open for writing, nor mapped: the kernel gives a lease to
// read it only then (fcntl(2), F_SETLEASE). Whoever opens it just now waits until it is given back.
func nobodyWrites(file *os.File) bool {
	if _, err := unix.FcntlInt(file.Fd(), unix.F_SETLEASE, unix.F_RDLCK); err != nil {
		return false
	}
	_, err := unix.FcntlInt(file.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
	return err == nil
}

// remember writes down what a scan saw. It does not have to last over a power cut, and where it
// cannot be written all is read the next time.
func (v *Volume) remember(k *known, seen []*scanned) {
	if k == nil {
		return
	}
	files := make([][sizeOfKnown]byte, 0, len(seen))
	for _, s := range seen {
		if !s.settled || len(files) == mostKnown {
			continue
		}
		var file [sizeOfKnown]byte
		mark := s.mark()
		copy(file[copy(file[:], mark[:]):], s.SHA256[:])
		for i, kind := range kinds {
			if slices.Contains(s.leftBehind, kind) {
				file[sizeOfKnown-1] |= 1 << i
			}
		}
		files = append(files, file)
	}
	slices.SortFunc(files, func(a, b [sizeOfKnown]byte) int { return bytes.Compare(a[:], b[:]) })
	_ = v.writeKnown(k.on.line(), slices.Compact(files)) // hard links
}

// writeKnown leaves the file to our own user: who owns the tree must not say what is unchanged.
func (v *Volume) writeKnown(line string, files [][sizeOfKnown]byte) (err error) {
	temporary := stateDir + "/." + knownName // sweep removes it
	if err := v.removeTree(temporary); err != nil {
		return err
	}
	file, err := v.openRegular(temporary, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600, 0)
	if err != nil {
		return err
	}
	sum := sha256.New()
	to := bufio.NewWriterSize(io.MultiWriter(file, sum), 256<<10)
	_, _ = to.WriteString(line) // Flush has the first error
	for i := range files {
		_, _ = to.Write(files[i][:])
	}
	err = to.Flush()
	if err == nil {
		_, err = file.Write(sum.Sum(nil))
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = v.root.Rename(temporary, knownPath)
	}
	if err != nil {
		return errors.Join(err, v.removeTree(temporary))
	}
	return nil
}

// Forget has all of SOURCE read by the next Ingest.
func (v *Volume) Forget(ctx context.Context) error { return v.locked(ctx, v.forget) }

func (v *Volume) forget() error {
	if err := v.root.Remove(knownPath); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget what is known of SOURCE: %w", err)
	}
	return nil
}
