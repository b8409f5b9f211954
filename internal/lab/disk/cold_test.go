package disk

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// coldVolume is an attached volume that is made from a snapshot of some bytes.
func coldVolume(t *testing.T, s *Store, content []byte) *Device {
	t.Helper()
	do(t, s.CreateVolume("vol-warm", 1, ""))
	warm, err := s.OpenVolume(t.Context(), "vol-warm")
	do(t, err)
	_, err = warm.Write(content)
	do(t, err)
	do(t, warm.Close())
	do(t, s.CreateSnapshot("snap-1", "vol-warm"))
	do(t, s.CreateVolume("vol-cold", 1, "snap-1"))
	return attachTo(t, s, "vol-cold")
}

// readAll reads the device by some readers, past the page cache, each of them a part of it, and
// says how long that took.
func readAll(t *testing.T, d *Device, size int64, readers int) (content []byte, took time.Duration) {
	t.Helper()
	began := time.Now()
	content = make([]byte, size)
	var all sync.WaitGroup
	for reader := range readers {
		file, err := os.OpenFile(d.Path, os.O_RDONLY|unix.O_DIRECT, 0)
		do(t, err)
		all.Go(func() {
			defer file.Close()
			buffer, err := unix.Mmap(-1, 0, coldBlock, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
			if err != nil {
				t.Error(err)
				return
			}
			defer unix.Munmap(buffer)
			part := size / int64(readers)
			for at := int64(reader) * part; at < int64(reader+1)*part; at += coldBlock {
				if _, err := file.ReadAt(buffer, at); err != nil && err != io.EOF {
					t.Error(err)
				}
				copy(content[at:], buffer)
			}
		})
	}
	all.Wait()
	return content, time.Since(began)
}

// A block takes its time once, and several take it side by side.
func TestColdBlocks(t *testing.T) {
	s := openStore(t)
	const blocks = 16
	block := 200 * time.Millisecond
	s.Cool(Cold{Block: block, AtOnce: 8})
	content := bytes.Repeat([]byte("0123456789abcdef"), blocks*coldBlock/16)
	d := coldVolume(t, s, content)
	size := int64(blocks * coldBlock)
	one, slow := readAll(t, d, size/2, 1)
	rest, fast := readAll(t, d, size, 8)
	if !bytes.Equal(one, content[:size/2]) || !bytes.Equal(rest, content) {
		t.Error("it does not hold what the snapshot did")
	}
	if loads := s.Loads("vol-cold"); loads != blocks {
		t.Errorf("%d blocks were loaded", loads)
	}
	// 8 blocks by one reader; then the other 8 by four, each two of them.
	if slow < blocks/2*block || fast < 2*block || fast > 5*block {
		t.Errorf("one reader %s, eight %s", slow, fast)
	}
	if _, again := readAll(t, d, size, 1); again > slow/2 {
		t.Errorf("once more took %s", again)
	}
}

// The kernel's read-ahead makes one reader no faster: it is in the published figure.
func TestColdBlocksAndReadAhead(t *testing.T) {
	s := openStore(t)
	const blocks = 16
	cold := Cold{Block: 50 * time.Millisecond, AtOnce: 20}
	s.Cool(cold)
	d := coldVolume(t, s, bytes.Repeat([]byte("x"), blocks*coldBlock))
	file, err := os.Open(d.Path)
	do(t, err)
	defer file.Close()
	began := time.Now()
	n, err := io.CopyN(io.Discard, file, blocks*coldBlock)
	do(t, err)
	// The kernel has looked for a partition table in the first and the last block of the disk.
	if took, least := time.Since(began), (blocks-1)*cold.Block; took < least {
		t.Errorf("%d bytes in %s, want at least %s", n, took, least)
	}
}

func TestWritesAndInitializationWarm(t *testing.T) {
	s := openStore(t)
	s.Cool(Cold{Block: 5 * time.Second, AtOnce: 1})
	d := coldVolume(t, s, bytes.Repeat([]byte("x"), 8*coldBlock))
	file, err := os.OpenFile(d.Path, os.O_RDWR|unix.O_DIRECT, 0)
	do(t, err)
	defer file.Close()
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	do(t, err)
	defer unix.Munmap(page)
	copy(page, "written")
	_, err = file.WriteAt(page, coldBlock)
	do(t, err)
	_, err = file.ReadAt(page, coldBlock)
	do(t, err)
	if string(page[:7]) != "written" {
		t.Errorf("%q", page[:7])
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	go s.Initialize(ctx, "vol-cold", 300)
	for at := int64(0); at < 8*coldBlock; at += coldBlock {
		cold := s.coldOf("vol-cold")
		for ctx.Err() == nil {
			cold.mu.Lock()
			there := cold.has(at / coldBlock)
			cold.mu.Unlock()
			if there {
				break
			}
			time.Sleep(time.Millisecond)
		}
		_, err = file.ReadAt(page, at)
		do(t, err)
	}
	for s.Loaded("vol-cold") < 100 && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	if n := s.Loaded("vol-cold"); n != 100 {
		t.Errorf("%d percent were loaded", n)
	}
	if n := s.Loads("vol-cold"); n > 1 { // the kernel reads the first one, for a partition table
		t.Errorf("%d blocks were waited for", n)
	}
}

// A file system on a cold disk works as on any other.
func TestColdDiskHasAFileSystem(t *testing.T) {
	s := openStore(t)
	s.Cool(PublishedCold())
	do(t, s.CreateVolume("vol-1", 1, ""))
	d := attachTo(t, s, "vol-1")
	run(t, "mkfs.ext4", "-q", d.Path)
	mounted(t, d, "ext4", "", func(dir string) { do(t, os.WriteFile(dir+"/a", []byte("before"), 0o644)) })
	do(t, d.Close())
	do(t, d.Gone(t.Context()))
	do(t, s.CreateSnapshot("snap-1", "vol-1"))
	do(t, s.CreateVolume("vol-2", 1, "snap-1"))
	cold := attachTo(t, s, "vol-2")
	mounted(t, cold, "ext4", "", func(dir string) {
		text, err := os.ReadFile(dir + "/a")
		do(t, err)
		if string(text) != "before" {
			t.Errorf("%q", text)
		}
		do(t, os.WriteFile(dir+"/b", []byte("after"), 0o644))
	})
	do(t, cold.Close())
	do(t, cold.Gone(t.Context()))
	again := attachTo(t, s, "vol-2")
	mounted(t, again, "ext4", "", func(dir string) {
		text, err := os.ReadFile(dir + "/b")
		do(t, err)
		if string(text) != "after" {
			t.Errorf("%q", text)
		}
	})
	if s.Loads("vol-2") == 0 {
		t.Error("nothing was loaded")
	}
}

// killedWhile is the name of a file: its first argument's test binary reads a cold disk that never
// answers, which the test kills.
const killedWhile = "COLD_DISK_TEST"

// TestKilledWhileItReads: a lab that is killed while one of its own threads waits for a cold disk
// leaves no process, no device and no mount.
func TestKilledWhileItReads(t *testing.T) {
	if os.Getenv(killedWhile) != "" {
		s := openStore(t)
		s.Cool(Cold{Block: time.Hour, AtOnce: 1})
		d := coldVolume(t, s, bytes.Repeat([]byte("x"), 8*coldBlock))
		fmt.Println(d.Path)
		readAll(t, d, 8*coldBlock, 1)
		return
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestKilledWhileItReads$")
	cmd.Env = append(os.Environ(), killedWhile+"=yes", "TMPDIR="+t.TempDir()) // a killed test leaves its directory
	out, err := cmd.StdoutPipe()
	do(t, err)
	do(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	do(t, err)
	for { // until it waits
		text, err := os.ReadFile(fmt.Sprintf("/sys/block/%s/inflight", filepath.Base(strings.TrimSpace(line))))
		do(t, err)
		if strings.Fields(string(text))[0] != "0" {
			break
		}
		time.Sleep(time.Millisecond)
	}
	do(t, cmd.Process.Kill())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Fatal("it cannot be killed")
	}
	device := Device{Path: strings.TrimSpace(line)}
	for end := time.Now().Add(10 * time.Second); labelOf(device.Path) != "" && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if label := labelOf(device.Path); strings.Contains(label, "vol-cold") {
		t.Errorf("%s is left", label)
	}
}
