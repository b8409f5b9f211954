package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/disk"
	"ebs-release/internal/lab/host"
)

// shutdownGrace is how long a host may take to end its programs before its power is cut. EC2 gives minutes.
const shutdownGrace = 5 * time.Second

// hardware is what the account switches: disks are files and loop devices, machines are hosts of a rack.
type hardware struct {
	store   *disk.Store
	rack    *host.Rack
	machine func(cloud.InstanceSpec) (host.Spec, error) // what an instance is made of

	mu      sync.Mutex
	hosts   map[string]*host.Host // by instance id, terminated ones left out
	plugged map[string]*plugged   // by volume id
	changed chan struct{}         // closed and replaced when hosts changes
}

// plugged is a volume that is attached to a host.
type plugged struct {
	host   *host.Host
	device *disk.Device
	name   string // in the host: nvme1n1
}

func newHardware(machine func(cloud.InstanceSpec) (host.Spec, error)) *hardware {
	return &hardware{machine: machine, hosts: map[string]*host.Host{}, plugged: map[string]*plugged{}, changed: make(chan struct{})}
}

// CreateVolume implements cloud.Hardware, and so do the methods below.
func (hw *hardware) CreateVolume(_ context.Context, volumeID string, sizeGiB int32, snapshotID string) error {
	return hw.store.CreateVolume(volumeID, sizeGiB, snapshotID)
}

func (hw *hardware) DeleteVolume(_ context.Context, volumeID string) error {
	return hw.store.DeleteVolume(volumeID)
}

func (hw *hardware) CreateSnapshot(_ context.Context, snapshotID, volumeID string) error {
	return hw.store.CreateSnapshot(snapshotID, volumeID)
}

func (hw *hardware) DeleteSnapshot(_ context.Context, snapshotID string) error {
	return hw.store.DeleteSnapshot(snapshotID)
}

func (hw *hardware) Attach(_ context.Context, a cloud.AttachSpec) error {
	h, err := hw.host(a.InstanceID)
	if err != nil {
		return err
	}
	p, err := hw.plug(a.VolumeID, h)
	if err != nil {
		return err
	}
	d := diskOf(p)
	d.Serial = cloud.SerialOf(a.VolumeID)
	if a.SizeZero {
		d.Bytes = 0
	}
	if a.Serial != "" {
		d.Serial = a.Serial
	}
	if a.Serial == "-" {
		d.Serial = ""
	}
	if p.name, err = h.Plug(d); err != nil {
		return err
	}
	return p.device.Announce("add") // the kernel's own word on a new disk: an agent that listens need not wait for its next look
}

func diskOf(p *plugged) host.Disk {
	return host.Disk{Name: p.name, Major: p.device.Major, Minor: p.device.Minor, Bytes: p.device.Bytes}
}

// plug makes the volume a device, unless it is one already.
func (hw *hardware) plug(volumeID string, h *host.Host) (*plugged, error) {
	hw.mu.Lock()
	defer hw.mu.Unlock()
	if p := hw.plugged[volumeID]; p != nil {
		if p.host != h {
			return nil, fmt.Errorf("attach %s to %s: it is attached to %s", volumeID, h.ID, p.host.ID)
		}
		return p, nil
	}
	device, err := hw.store.Attach(volumeID)
	if err != nil {
		return nil, err
	}
	p := &plugged{host: h, device: device}
	hw.plugged[volumeID] = p
	return p, nil
}

func (hw *hardware) Detach(ctx context.Context, volumeID, instanceID string, force bool) error {
	hw.mu.Lock()
	p := hw.plugged[volumeID]
	hw.mu.Unlock()
	if p == nil || p.host.ID != instanceID {
		return nil // it never showed up there, or went with the instance
	}
	if p.name != "" {
		if err := p.host.Unplug(ctx, p.name, force); err != nil {
			return err
		}
	}
	return hw.unplugged(volumeID, p)
}

// unplugged gives the device of a volume back, once.
func (hw *hardware) unplugged(volumeID string, p *plugged) error {
	hw.mu.Lock()
	defer hw.mu.Unlock()
	if hw.plugged[volumeID] != p {
		return nil
	}
	delete(hw.plugged, volumeID)
	return p.device.Close()
}

func (hw *hardware) Launch(ctx context.Context, inst cloud.InstanceSpec) error {
	spec, err := hw.machine(inst)
	if err != nil {
		return err
	}
	h, err := hw.rack.NewHost(ctx, spec)
	if err != nil {
		return err
	}
	hw.mu.Lock()
	hw.hosts[inst.ID] = h
	hw.mu.Unlock()
	if err := h.PowerOn(); err != nil {
		return errors.Join(err, hw.Terminate(context.WithoutCancel(ctx), inst.ID))
	}
	hw.notify()
	return nil
}

func (hw *hardware) Stop(ctx context.Context, instanceID string) error {
	h, err := hw.host(instanceID)
	if err != nil {
		return err
	}
	return h.Shutdown(ctx, shutdownGrace)
}

func (hw *hardware) Start(_ context.Context, instanceID string) error {
	h, err := hw.host(instanceID)
	if err != nil {
		return err
	}
	defer hw.notify()
	return h.PowerOn()
}

func (hw *hardware) Reboot(ctx context.Context, instanceID string) error {
	if err := hw.Stop(ctx, instanceID); err != nil {
		return err
	}
	return hw.Start(ctx, instanceID)
}

func (hw *hardware) Terminate(ctx context.Context, instanceID string) error {
	hw.mu.Lock()
	h := hw.hosts[instanceID]
	delete(hw.hosts, instanceID)
	disks := map[string]*plugged{}
	for id, p := range hw.plugged {
		if p.host == h {
			disks[id] = p
		}
	}
	hw.mu.Unlock()
	if h == nil {
		return nil // it never got power
	}
	defer hw.notify()
	errs := []error{h.Destroy(ctx)}
	for id, p := range disks {
		errs = append(errs, hw.unplugged(id, p))
	}
	return errors.Join(errs...)
}

// close takes all down: hosts side by side, then the rack and the disks.
func (hw *hardware) close(ctx context.Context) error {
	hw.mu.Lock()
	ids := slices.Collect(maps.Keys(hw.hosts))
	hw.mu.Unlock()
	errs := make([]error, len(ids), len(ids)+2)
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Go(func() { errs[i] = hw.Terminate(ctx, id) })
	}
	wg.Wait()
	if hw.rack != nil {
		errs = append(errs, hw.rack.Close())
	}
	if hw.store != nil {
		errs = append(errs, hw.store.Close(ctx))
	}
	return errors.Join(errs...)
}

func (hw *hardware) host(instanceID string) (*host.Host, error) {
	hw.mu.Lock()
	defer hw.mu.Unlock()
	h := hw.hosts[instanceID]
	if h == nil {
		return nil, fmt.Errorf("instance %s has no machine: it is not launched yet, or terminated", instanceID)
	}
	return h, nil
}

// notify wakes everyone who waits for a host.
func (hw *hardware) notify() {
	hw.mu.Lock()
	defer hw.mu.Unlock()
	close(hw.changed)
	hw.changed = make(chan struct{})
}

// wait returns when ok says so; ok is asked again whenever a host was switched on or went.
func (hw *hardware) wait(ctx context.Context, ok func() bool) error {
	for {
		hw.mu.Lock()
		changed := hw.changed
		hw.mu.Unlock()
		if ok() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
