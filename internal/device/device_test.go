package device_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/device"

	"golang.org/x/sys/unix"
)

const volumeID = "vol-0123456789abcdef0"

// machine is a made-up /sys/block and /dev.
type machine struct {
	device.Finder
	t *testing.T
}

func newMachine(t *testing.T) machine {
	t.Helper()
	dir := t.TempDir()
	m := machine{t: t, Finder: device.Finder{Sys: filepath.Join(dir, "sys"), Dev: filepath.Join(dir, "dev"), Log: slog.New(slog.DiscardHandler)}}
	for _, dir := range []string{m.Sys, m.Dev} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// set writes an attribute the way sysfs shows it: padded, with a newline.
func (m machine) set(name, attribute, value string) {
	m.t.Helper()
	path := filepath.Join(m.Sys, name, attribute)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(value+"  \n"), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

func (m machine) node(name string, major, minor uint32) {
	m.t.Helper()
	path := filepath.Join(m.Dev, name)
	os.Remove(path)
	if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(major, minor))); err != nil {
		m.t.Fatal(err)
	}
}

func (m machine) disk(name, serial string, minor uint32) {
	m.t.Helper()
	m.set(name, "size", "2048")
	m.set(name, "dev", fmt.Sprintf("259:%d", minor))
	m.node(name, 259, minor)
	if serial != "" {
		m.set(name, "device/serial", serial)
	}
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

func TestFindByExactSerialInAnyOrder(t *testing.T) {
	m := newMachine(t)
	m.disk("nvme0n1", "vol0123456789abcdef", 0) // a prefix of the id is another volume
	m.disk("nvme1n1", "vol0123456789abcdef01", 1)
	m.disk("nvme2n1", "vol0123456789abcdef0", 2)
	m.disk("nvme2c2n1", "vol0123456789abcdef0", 3) // a hidden path of the same disk
	dev, err := m.Find(soon(t), volumeID, "/dev/xvdaa")
	if err != nil || dev.Name != "nvme2n1" || dev.Minor != 2 || dev.Bytes != 2048*512 {
		t.Fatalf("found %+v, %v", dev, err)
	}
	if err := m.Verify(dev, volumeID); err != nil {
		t.Fatal(err)
	}
	if name, serial, err := m.Which(259, 2); err != nil || name != "nvme2n1" || serial != device.Serial(volumeID) {
		t.Fatalf("Which = %s %s %v", name, serial, err)
	}
}

func TestFindWaitsUntilTheDiskIsReady(t *testing.T) {
	for _, tc := range []struct {
		name  string
		until func(m machine) // before
		then  func(m machine) // makes it ready
		why   string          // what an end of ctx says before
	}{
		{"no disk", func(m machine) {}, func(m machine) { m.disk("nvme1n1", device.Serial(volumeID), 1) }, "there is no NVMe disk"},
		{
			"another disk", func(m machine) { m.disk("nvme0n1", "vol0aaa", 9) },
			func(m machine) { m.disk("nvme1n1", device.Serial(volumeID), 1) }, "nvme0n1 is vol0aaa",
		},
		{
			"no serial yet", func(m machine) { m.disk("nvme1n1", "", 1) },
			func(m machine) { m.set("nvme1n1", "device/serial", device.Serial(volumeID)) }, "nvme1n1 with an unreadable serial",
		},
		{
			"size 0", func(m machine) { m.disk("nvme1n1", device.Serial(volumeID), 1); m.set("nvme1n1", "size", "0") },
			func(m machine) { m.set("nvme1n1", "size", "8") }, "its size is still 0",
		},
		{
			"no node", func(m machine) {
				m.disk("nvme1n1", device.Serial(volumeID), 1)
				os.Remove(filepath.Join(m.Dev, "nvme1n1"))
			},
			func(m machine) { m.node("nvme1n1", 259, 1) }, "nvme1n1 is not",
		},
		{
			"a stale node", func(m machine) {
				m.disk("nvme1n1", device.Serial(volumeID), 1)
				m.node("nvme1n1", 259, 77)
			},
			func(m machine) { m.node("nvme1n1", 259, 1) }, "is not a node of the disk",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newMachine(t)
			tc.until(m)
			_, err := m.Find(soon(t), volumeID, "/dev/xvdaa")
			if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), tc.why) {
				t.Fatalf("error = %v, want %q in it", err, tc.why)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			type result struct {
				dev device.Device
				err error
			}
			found := make(chan result, 1)
			go func() {
				dev, err := m.Find(ctx, volumeID, "/dev/xvdaa")
				found <- result{dev, err}
			}()
			tc.then(m)
			if r := <-found; r.err != nil || r.dev.Name != "nvme1n1" {
				t.Fatalf("found %+v, %v", r.dev, r.err)
			}
		})
	}
}

func TestTwoDisksWithOneSerialStop(t *testing.T) {
	m := newMachine(t)
	m.disk("nvme1n1", device.Serial(volumeID), 1)
	m.disk("nvme2n1", device.Serial(volumeID), 2)
	if _, err := m.Find(soon(t), volumeID, ""); err == nil || !strings.Contains(err.Error(), "same serial") {
		t.Fatalf("error = %v", err)
	}
}

func TestVerifyStopsWhenTheDiskIsAnotherOne(t *testing.T) {
	for name, change := range map[string]func(m machine){
		"reordered":         func(m machine) { m.set("nvme1n1", "device/serial", "vol0other") },
		"unreadable serial": func(m machine) { os.Remove(filepath.Join(m.Sys, "nvme1n1/device/serial")) },
		"another node":      func(m machine) { m.node("nvme1n1", 259, 9) },
		"another number":    func(m machine) { m.set("nvme1n1", "dev", "259:9"); m.node("nvme1n1", 259, 9) },
		"gone":              func(m machine) { os.RemoveAll(filepath.Join(m.Sys, "nvme1n1")) },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.disk("nvme1n1", device.Serial(volumeID), 1)
			dev, err := m.Find(soon(t), volumeID, "")
			if err != nil {
				t.Fatal(err)
			}
			change(m)
			if err := m.Verify(dev, volumeID); err == nil {
				t.Fatal("Verify has no complaint")
			}
		})
	}
}

func TestXenNameOnlyWithoutAnyNVMe(t *testing.T) {
	for _, attachedAs := range []string{"/dev/xvdf", "/dev/sdf"} {
		m := newMachine(t)
		m.disk("xvdf", "", 1)
		dev, err := m.Find(soon(t), volumeID, attachedAs)
		if err != nil || dev.Name != "xvdf" {
			t.Fatalf("found %+v, %v", dev, err)
		}
		if err := m.Verify(dev, volumeID); err != nil {
			t.Fatal(err)
		}
		m.disk("nvme0n1", "vol0other", 2)
		if dev, err := m.Find(soon(t), volumeID, attachedAs); err == nil {
			t.Fatalf("with an NVMe disk here: %+v, want an error", dev)
		}
	}
}

func TestLowTimeoutIsRaised(t *testing.T) {
	m := newMachine(t)
	m.disk("nvme1n1", device.Serial(volumeID), 1)
	for before, after := range map[string]string{"30000": "600000", "4294967295": "4294967295"} {
		m.set("nvme1n1", "queue/io_timeout", before)
		m.RaiseTimeout(device.Device{Name: "nvme1n1"})
		got, err := os.ReadFile(filepath.Join(m.Sys, "nvme1n1/queue/io_timeout"))
		if err != nil || strings.TrimSpace(string(got)) != after {
			t.Errorf("%s became %s (%v), want %s", before, got, err, after)
		}
	}
	m.RaiseTimeout(device.Device{Name: "nvme7n1"}) // without the setting: nothing happens
}

func TestInstanceStoreOnXenDoesNotHideTheDisk(t *testing.T) {
	m := newMachine(t)
	m.disk("xvdaa", "", 1)
	m.disk("nvme0n1", "AWS25D0C6F3A3A5A1F45", 2)
	m.set("nvme0n1", "device/model", "Amazon EC2 NVMe Instance Storage")
	if dev, err := m.Find(soon(t), volumeID, "/dev/xvdaa"); err != nil || dev.Name != "xvdaa" {
		t.Fatalf("found %+v, %v", dev, err)
	}
	m.disk("nvme1n1", "vol0aaa", 3) // the root volume of a Nitro machine: a disk by that name is none of EBS
	if dev, err := m.Find(soon(t), volumeID, "/dev/xvdaa"); err == nil {
		t.Fatalf("found %+v on Nitro", dev)
	}
}

func TestAllAreWholeDisksOfEBS(t *testing.T) {
	m := newMachine(t)
	m.disk("nvme0n1", "vol0123456789abcdef0", 0) // the root: it has partitions
	m.set("nvme0n1", "nvme0n1p1/dev", "259:9")
	m.disk("nvme1n1", "AWS0123456789ABCDEF0", 1) // instance store
	m.disk("nvme2n1", "vol0123456789abcdef2", 2)
	m.disk("nvme3n1", "vol../../etc", 3)
	m.disk("nvme4n1", "vol0123456789abcdef4", 4)
	m.set("nvme4n1", "size", "0")
	m.disk("xvdb", "", 5)
	all, err := m.All()
	if err != nil || len(all) != 1 || all[0].Name != "nvme2n1" || device.VolumeID(all[0].Serial) != "vol-0123456789abcdef2" {
		t.Errorf("%+v, %v", all, err)
	}
}
