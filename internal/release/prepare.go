package release

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"

	"ebs-release/internal/advice"
	"ebs-release/internal/manifest"
	"ebs-release/internal/words"

	"golang.org/x/sys/unix"
)

// prepare is the first part. hides: see assembly.
func (v *Volume) prepare(ctx context.Context, s Step, pack PackReader, began unix.Timespec) (hides bool, err error) {
	// What would stand in the way of a rename later.
	if _, err := v.sweep(); err != nil {
		return false, err
	}
	if err := v.removeTree(stateDir + "/" + s.To + manifestExt); err != nil {
		return false, err
	}
	if err := v.root.Mkdir(catchUpDir, 0o700); err != nil {
		return false, err
	}
	need, err := v.merge(ctx, catchUpDir, s, pack)
	if err != nil { // is it the pack, or what it was for? To ask first would read the manifest once more
		return false, cmp.Or(v.checkRelease(s.From, s.FromDigest), err)
	}
	free, err := v.free()
	if err != nil {
		return false, err
	}
	if need > free {
		return false, advice.Try(fmt.Errorf("%s has %s free, the release needs %s more: %w",
			v.path, words.Bytes(free), words.Bytes(need), unix.ENOSPC),
			"a larger volume, or keep fewer releases")
	}
	if hides, err = v.bring(ctx, s, pack, began); err != nil {
		return false, err
	}
	if err := pack.End(); err != nil {
		return false, err
	}
	return hides, v.writeJournal(journal{From: s.From, To: s.To})
}

// writeJournal gives the journal its name when it is on disk, and all that was prepared. finish
// brings the name to disk.
func (v *Volume) writeJournal(j journal) error {
	const unnamed = catchUpDir + "/journal"
	if err := v.writeNew(unnamed, func(w io.Writer) error { return json.NewEncoder(w).Encode(j) }); err != nil {
		return err
	}
	if err := v.syncAll(); err != nil {
		return err
	}
	return v.root.Rename(unnamed, journalPath)
}

// merge makes the new manifest in a directory, and writes the changes down there. need is how many
// bytes there must be room for.
func (v *Volume) merge(ctx context.Context, into string, s Step, pack PackReader) (need int64, err error) {
	var base io.ReadSeeker = bytes.NewReader(nil)
	if s.From != "" {
		file, err := v.openManifest(s.From)
		if err != nil {
			return 0, err
		}
		defer func() { _ = file.Close() }()
		base = file
	}
	sum := sha256.New()
	err = v.writeNew(into+changesFile, func(changes io.Writer) error {
		var line []byte
		written := int64(0)
		told := func(yield func(manifest.Change, error) bool) {
			for c, err := range pack.Changes() {
				if err == nil {
					line = c.AppendLine(line[:0])
					written += int64(len(line))
					_, err = changes.Write(line)
				}
				if err == nil && (c.How == manifest.Copy || c.HasContent()) {
					if c.Entry.Size > math.MaxInt64-need {
						err = fmt.Errorf("%s: no volume has %d bytes", manifest.Quote(c.Entry.Path), c.Entry.Size)
					}
					need += c.Entry.Size
				}
				if written > maxChanges {
					err = fmt.Errorf("the pack has more than %s of changes", words.Bytes(maxChanges))
				}
				if !yield(c, err) || err != nil {
					return
				}
			}
		}
		return v.writeNew(into+mergedFile, func(merged io.Writer) error {
			return manifest.Merge(ctx, io.MultiWriter(&bounded{merged, manifest.MaxSize}, sum), base, told)
		})
	})
	if err == nil && hexSum(sum) != s.ToDigest {
		err = fmt.Errorf("the pack gives digest %s, want %s", hexSum(sum), s.ToDigest)
	}
	return need, err
}

// bring makes what goes into the tree, beside it.
func (v *Volume) bring(ctx context.Context, s Step, pack PackReader, began unix.Timespec) (hides bool, err error) {
	tree, err := v.openDirectory(releasesDir + "/" + s.From)
	if err != nil {
		return false, err
	}
	defer func() { _ = tree.Close() }()
	into, err := v.openDirectory(catchUpDir)
	if err != nil {
		return false, err
	}
	defer func() { _ = into.Close() }()
	who, err := v.owner()
	if err != nil {
		return false, err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(tree.Fd()), &st); err != nil {
		return false, err
	}
	p := provider{
		block: int64(st.Bsize), room: minBallast, ended: ctx.Err,
		who: who, began: began, into: int(into.Fd()), hash: newHasher(), pack: pack, spans: v.spans(),
		base: &dirs{root: tree}, source: &dirs{root: tree},
	}
	defer p.base.close()
	defer p.source.close()
	if err := v.eachChange(ctx, catchUpDir, p.provide); err != nil {
		return false, err
	}
	return p.hides, errors.Join(v.setAside(ballastPath, p.room), v.stampMerged(mergedPath, who, began))
}

// stampMerged gives the new manifest what every manifest has: see publish.
func (v *Volume) stampMerged(name string, who owner, began unix.Timespec) error {
	file, err := v.openPlain(name, manifest.MaxSize)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	return finishFile(file, &manifest.Entry{Mode: 0o644}, who, began, began)
}

// eachChange reads the changes that were written down.
func (v *Volume) eachChange(ctx context.Context, in string, do func(number int, c *manifest.Change) error) error {
	file, err := v.openPlain(in+changesFile, maxChanges)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	return manifest.EachLine(file, func(number int, line []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		c, err := manifest.ParseChange(string(line))
		if err == nil {
			err = do(number-1, &c)
		}
		if err != nil {
			return pathError("make", c.Entry.Path, err)
		}
		return nil
	})
}

// bounded fails when more is written than is left.
type bounded struct {
	to   io.Writer
	left int64
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= int64(len(p)); b.left < 0 {
		return 0, errors.New("the pack makes a manifest that is too large")
	}
	return b.to.Write(p)
}

// setAside takes room that nobody else can use until the file is gone.
func (v *Volume) setAside(name string, bytes int64) error {
	file, err := v.openRegular(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600, 0)
	if err != nil {
		return err
	}
	err = unix.Fallocate(int(file.Fd()), 0, 0, bytes)
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = nil
	} else if err != nil {
		err = fmt.Errorf("set %s aside: %w", words.Bytes(bytes), err)
	}
	return errors.Join(err, file.Close())
}

// writeNew makes a file. The caller brings it to disk, with all else that is new.
func (v *Volume) writeNew(name string, write func(io.Writer) error) error {
	file, err := v.openRegular(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600, 0)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(file, 64<<10)
	if err = write(w); err == nil {
		err = w.Flush()
	}
	return errors.Join(err, file.Close())
}
