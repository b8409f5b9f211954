package release

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/manifest"
	"ebs-release/internal/test/scratch"

	"golang.org/x/sys/unix"
)

// onDisk is an empty release volume on a disk of its own.
func onDisk(t *testing.T, mkfs ...string) (v *Volume, image string) {
	t.Helper()
	image, point := scratch.Image(t, 256<<20, mkfs...)
	v = open(t, point)
	if err := v.Init(ordinary, ordinary); err != nil {
		t.Fatal(err)
	}
	return v, image
}

func prove(t *testing.T, v *Volume, id string, p *Proof) (bad []Damage, sum int) {
	t.Helper()
	bad, sum, err := v.Prove(t.Context(), id, p)
	if err != nil {
		t.Fatal(err)
	}
	return bad, sum
}

// Sizes around those of a read, a chunk and a disk's block; on file systems with direct reads and
// one without.
func TestProveReadsAllOfARelease(t *testing.T) {
	files := map[string]string{"link -> a": "", "dir/": ""}
	var bytes int64
	for _, size := range []int{0, 1, 511, 512, 4095, 4096, 4097, chunkSize - 1, chunkSize, chunkSize + 1, 20*chunkSize + 4096} {
		files[fmt.Sprintf("dir/%d", size)] = strings.Repeat("x", size)
		bytes += int64(size)
	}
	ext4, _ := onDisk(t, "mkfs.ext4", "-q")
	inline, _ := onDisk(t, "mkfs.ext4", "-q", "-O", "inline_data")
	memory := small(t, 64<<10)
	for name, v := range map[string]*Volume{"ext4": ext4, "ext4 with small files in inodes": inline, "tmpfs": memory} {
		one := publish(t, v, source(t, files), 1)
		p := NewProof()
		if bad, sum := prove(t, v, one.ID, p); sum > 0 {
			t.Errorf("%s: %v", name, bad)
		}
		if want := (Progress{11, 11, bytes, bytes}); p.Progress() != want {
			t.Errorf("%s: %+v, want %+v", name, p.Progress(), want)
		}
	}
}

// Few files and large ones, too, are spread over the readers.
func TestProveGivesEachReaderAPart(t *testing.T) {
	for name, tt := range map[string]struct{ files, size, parts int }{
		"small": {2 * partFiles, 1, 3}, "large": {9, partBytes / 2, 5}, // beside them is the line of the directory
	} {
		t.Run(name, func(t *testing.T) {
			v := small(t, 64<<10)
			files := map[string]string{"dir/": ""}
			for n := range tt.files {
				files[fmt.Sprintf("dir/%03d", n)] = strings.Repeat("x", tt.size)
			}
			one := publish(t, v, source(t, files), 1)
			parts, err := NewProof().begin(v, one.ID)
			if err != nil || len(parts) != tt.parts+1 {
				t.Errorf("%d files of %d bytes are in the parts %v (%v), want %d", tt.files, tt.size, parts, err, tt.parts)
			}
		})
	}
}

func TestProveNamesEachDamage(t *testing.T) {
	v, image := onDisk(t, "mkfs.ext4", "-q")
	src := source(t, map[string]string{
		"flipped": "what the disk will lose", "edited": "as it was", "gone": "gone", "longer": "long", "file": "file", "dir/in": "in", "right": "right",
		"link -> right": "", "0600 mode": "mode",
	})
	one := publish(t, v, src, 1)
	scratch.Flip(t, image, "what the disk will lose")
	at := v.Path(one.ID)
	fifo := filepath.Join(at, "file")
	outside := filepath.Join(t.TempDir(), "in")
	put(t, filepath.Dir(outside), "in", "in")
	if err := errors.Join(
		os.WriteFile(at+"/edited", []byte("As it was"), 0o644), os.Remove(at+"/gone"), os.WriteFile(at+"/longer", []byte("longer"), 0o644),
		os.Remove(fifo), unix.Mkfifo(fifo, 0o644), os.RemoveAll(at+"/dir"), os.Symlink(filepath.Dir(outside), at+"/dir"),
		os.Remove(at+"/link"), os.Symlink("elsewhere", at+"/link"), os.Chmod(at+"/mode", 0o644),
	); err != nil {
		t.Fatal(err)
	}
	bad, sum := prove(t, v, one.ID, NewProof())
	var said []string
	for _, d := range bad {
		said = append(said, fmt.Sprint(d, " ", d.CanHeal()))
	}
	got := strings.Join(said, "\n")
	for _, want := range []string{
		"dir: a symlink of mode", "dir/in: open: not a directory", "edited: its content has another sha256 false", "file: a fifo of mode", "flipped: its content has another sha256 true",
		"gone: no such file or directory", `link: a symlink to "elsewhere", want "right"`, "longer: a file of mode 0644 and 6 bytes, want a file of mode 0644 and 4 bytes",
		"mode: a file of mode 0644",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("it does not say %q", want)
		}
	}
	if sum != 9 || len(bad) != 9 {
		t.Errorf("%d are damaged:\n%s", sum, got)
	}
}

// Of the next release only what is new is read; what was damaged is read again.
func TestProveGoesOnWithTheNextRelease(t *testing.T) {
	v, image := onDisk(t, "mkfs.ext4", "-q")
	src := source(t, map[string]string{"same": "text that both have", "bad": "text that goes bad"})
	one := publish(t, v, src, 1)
	p := NewProof()
	prove(t, v, one.ID, p)
	put(t, src, "new", "text that is new")
	two := publish(t, v, src, 2)
	scratch.Flip(t, image, "text that both have") // who reads it again finds it
	scratch.Flip(t, image, "text that is new")
	bad, sum := prove(t, v, two.ID, p)
	if sum != 1 || bad[0].Path != "new" {
		t.Errorf("%d: %v", sum, bad)
	}
	if bad, sum := prove(t, v, two.ID, NewProof()); sum != 2 {
		t.Errorf("%d: %v", sum, bad)
	}
}

func TestProveWantsTheManifestOfTheID(t *testing.T) {
	v := volume(t)
	one := publish(t, v, source(t, first), 1)
	name := filepath.Join(v.Root(), stateDir, one.ID+manifestExt)
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	write(t, name, strings.Replace(string(text), "etc/conf", "etc/Conf", 1))
	if _, _, err := v.Prove(t.Context(), one.ID, NewProof()); err == nil || !strings.Contains(err.Error(), "manifest is damaged") {
		t.Error(err)
	}
}

func TestProveEndsWithItsContext(t *testing.T) {
	v := volume(t)
	one := publish(t, v, source(t, map[string]string{"large": strings.Repeat("x", 64<<20), "small": "x"}), 1)
	ctx, cancel := context.WithCancel(t.Context())
	p := NewProof()
	go func() {
		for p.Progress().Bytes == 0 {
			runtime.Gosched()
		}
		cancel()
	}()
	began := time.Now()
	_, _, err := v.Prove(ctx, one.ID, p)
	if !errors.Is(err, context.Canceled) || time.Since(began) > 10*time.Second {
		t.Errorf("%v after %s", err, time.Since(began))
	}
	if got := p.Progress(); got.Bytes >= 64<<20 {
		t.Errorf("%+v", got)
	}
	if bad, sum := prove(t, v, one.ID, p); sum > 0 { // and it can be begun again
		t.Error(bad)
	}
}

// TestProveMemory: a release of 300,000 files does not take more memory than the agent has.
func TestProveMemory(t *testing.T) {
	v := small(t, 4<<20)
	const files = 300_000
	id := manyFiles(t, v, files)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	peak := make(chan uint64)
	done := make(chan struct{})
	go func() {
		most := uint64(0)
		for {
			runtime.ReadMemStats(&after)
			most = max(most, after.HeapInuse+after.StackInuse)
			select {
			case <-done:
				peak <- most
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	bad, sum := prove(t, v, id, NewProof())
	close(done)
	if most := <-peak; most > before.HeapInuse+64<<20 {
		t.Errorf("%d MiB, and %d before", most>>20, before.HeapInuse>>20)
	}
	if sum > 0 {
		t.Errorf("%d damaged, the first: %v", sum, bad[0])
	}
}

// manyFiles makes a release of empty files, each an inode of its own, without a publish.
func manyFiles(t *testing.T, v *Volume, files int) (id string) {
	t.Helper()
	tree := v.Root() + "/" + releasesDir + "/tree"
	var m manifest.Manifest
	for i := range files {
		dir := fmt.Sprintf("a directory with a name %04d", i/1000)
		if i%1000 == 0 {
			m = append(m, manifest.Entry{Path: dir, Type: 'd', Mode: 0o755})
			if err := os.MkdirAll(tree+"/"+dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		e := manifest.Entry{Path: fmt.Sprintf("%s/a file with a longer name %06d", dir, i), Type: 'f', Mode: 0o644, SHA256: sha256.Sum256(nil)}
		m = append(m, e)
		if err := unix.Mknod(tree+"/"+e.Path, unix.S_IFREG|0o644, 0); err != nil {
			t.Fatal(err)
		}
	}
	id = "20261122T231500Z-" + m.Digest()[:12]
	if err := os.Rename(tree, v.Path(id)); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(v.Root(), stateDir), id+manifestExt, string(m.Text()))
	return id
}
