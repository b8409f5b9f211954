package disk

import (
	"context"
	"fmt"
	"math/bits"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// coldBlock is what EBS loads of a snapshot at once ("EBS direct APIs": blocks of 512 KiB).
const coldBlock = 512 << 10

// Cold is how volumes from a snapshot behave: a block is loaded when it is first read, and is there
// from then on ("Initialize Amazon EBS volumes": "storage blocks must be downloaded from Amazon S3
// … before you can access them", "a significant increase in the latency of I/O operations the first
// time each block is accessed").
type Cold struct {
	Block  time.Duration // to load one
	AtOnce int           // that are loaded side by side
}

// PublishedCold is 5 MiB/s for one reader (terraform-aws-github-runner #5163), and 100 MiB/s for
// twenty.
func PublishedCold() Cold { return Cold{Block: 100 * time.Millisecond, AtOnce: 20} }

// coldDisk is a volume that is loaded from its snapshot. It outlives attachments.
type coldDisk struct {
	cold    Cold
	blocks  int64
	loading chan struct{} // has room for AtOnce

	mu    sync.Mutex
	file  *os.File                // of the attachment
	there []uint64                // a bit for each block
	on    map[int64]chan struct{} // blocks that are on their way, closed when they are there
	loads int64
	held  chan struct{} // not nil: nothing is answered until it is closed
}

func newColdDisk(c Cold, size int64) *coldDisk {
	blocks := (size + coldBlock - 1) / coldBlock
	return &coldDisk{
		cold: c, blocks: blocks, loading: make(chan struct{}, c.AtOnce), there: make([]uint64, (blocks+63)/64), on: map[int64]chan struct{}{},
	}
}

func (d *coldDisk) has(block int64) bool { return d.there[block/64]&(1<<(block%64)) != 0 }

func (d *coldDisk) set(block int64) { d.there[block/64] |= 1 << (block % 64) }

// load waits until a block is there.
func (d *coldDisk) load(block int64) {
	d.mu.Lock()
	if d.has(block) {
		d.mu.Unlock()
		return
	}
	if on := d.on[block]; on != nil {
		d.mu.Unlock()
		<-on
		return
	}
	on := make(chan struct{})
	d.on[block] = on
	d.mu.Unlock()
	d.loading <- struct{}{}
	time.Sleep(d.cold.Block)
	<-d.loading
	d.mu.Lock()
	defer d.mu.Unlock()
	d.loads++
	d.set(block)
	delete(d.on, block)
	close(on)
}

// initialize is EBS's own loading, at a rate in MiB/s (CreateVolume, VolumeInitializationRate). It
// ends with ctx.
func (d *coldDisk) initialize(ctx context.Context, rate int32) {
	tick := time.NewTicker(time.Second / time.Duration(2*rate))
	defer tick.Stop()
	for block := range d.blocks {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		d.mu.Lock()
		if d.on[block] == nil {
			d.set(block)
		}
		d.mu.Unlock()
	}
}

func (d *coldDisk) wait() *os.File {
	d.mu.Lock()
	held, file := d.held, d.file
	d.mu.Unlock()
	if held != nil {
		<-held
	}
	return file
}

// ReadAt waits for the blocks that it touches, one after the other.
func (d *coldDisk) ReadAt(p []byte, at int64) (int, error) {
	file := d.wait()
	for block := at / coldBlock; block*coldBlock < at+int64(len(p)); block++ {
		d.load(block)
	}
	return file.ReadAt(p, at)
}

// WriteAt makes the blocks be there that it touches.
func (d *coldDisk) WriteAt(p []byte, at int64) (int, error) {
	file := d.wait()
	d.mu.Lock()
	for block := at / coldBlock; block*coldBlock < at+int64(len(p)); block++ {
		d.set(block)
	}
	d.mu.Unlock()
	return file.WriteAt(p, at)
}

func (d *coldDisk) Sync() error { return d.wait().Sync() }

// attachCold shows a volume through its cold disk.
func (s *Store) attachCold(volume *os.File, id string, d *coldDisk) (*Device, error) {
	info, err := volume.Stat()
	if err != nil {
		return nil, err
	}
	own, err := unix.FcntlInt(volume.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	d.file = os.NewFile(uintptr(own), id)
	d.mu.Unlock()
	f, err := newFuse(d, info.Size())
	if err != nil {
		return nil, err
	}
	defer f.close() // the device holds it from here on
	go func(file *os.File) {
		<-f.ended
		_ = file.Close()
	}(d.file)
	shown, err := f.open()
	if err != nil {
		return nil, fmt.Errorf("open a cold disk: %w", err)
	}
	defer shown.Close()
	return attach(shown, s.label+"/"+id, unix.LO_FLAGS_DIRECT_IO)
}

// Cool makes the volumes that are made from snapshots from now on cold ones.
func (s *Store) Cool(c Cold) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cold = &c
}

// Initialize loads the blocks of a cold volume at a rate in MiB/s, until ctx ends.
func (s *Store) Initialize(ctx context.Context, volumeID string, rate int32) {
	if d := s.coldOf(volumeID); d != nil && rate > 0 {
		d.initialize(ctx, rate)
	}
}

// Loaded is how much of a volume is there, in percent.
func (s *Store) Loaded(volumeID string) int {
	d := s.coldOf(volumeID)
	if d == nil {
		return 100
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	there := int64(0)
	for _, part := range d.there {
		there += int64(bits.OnesCount64(part))
	}
	return int(min(100, there*100/d.blocks))
}

// Loads is how many blocks of a cold volume were loaded for somebody who waited for them.
func (s *Store) Loads(volumeID string) int64 {
	d := s.coldOf(volumeID)
	if d == nil {
		return 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.loads
}

// Hold makes a cold volume answer nothing until the function that it returns is called.
func (s *Store) Hold(volumeID string) (release func()) {
	d := s.coldOf(volumeID)
	held := make(chan struct{})
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held = held
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.held = nil
		close(held)
	}
}

func (s *Store) coldOf(volumeID string) *coldDisk {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.colds[volumeID]
}

// cool makes a new volume from a snapshot a cold one, where the store is.
func (s *Store) cool(volumeID string, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cold != nil {
		s.colds[volumeID] = newColdDisk(*s.cold, size)
	}
}
