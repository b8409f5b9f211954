package lab

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/disk"
	"ebs-release/internal/lab/host"
)

// shutdownGrace is how long a host may take to end its programs before its power is cut. EC2 gives
// minutes.
const shutdownGrace = 5 * time.Second

// hosts are the instances that are hosts of the network; their disks are loop devices.
type hosts struct {
	store   *disk.Store
	network *host.Network
	spec    func(cloud.InstanceSpec) (host.Spec, error) // what an instance is made of

	mu      sync.Mutex
	hosts   map[string]*host.Host // by instance id, terminated ones left out
	plugged map[string]*plugged   // by volume id
}

// plugged is a volume that is attached to a host.
type plugged struct {
	host   *host.Host
	device *disk.Device
	name   string // in the host: nvme1n1
}

func newHosts(store *disk.Store, network *host.Network, spec func(cloud.InstanceSpec) (host.Spec, error)) *hosts {
	return &hosts{store: store, network: network, spec: spec, hosts: map[string]*host.Host{}, plugged: map[string]*plugged{}}
}

// Attach implements machines, and so do the methods below.
func (hs *hosts) Attach(_ context.Context, a cloud.AttachSpec) error {
	h, err := hs.host(a.InstanceID)
	if err != nil {
		return err
	}
	p, err := hs.plug(a.VolumeID, h)
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
func (hs *hosts) plug(volumeID string, h *host.Host) (*plugged, error) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if p := hs.plugged[volumeID]; p != nil {
		if p.host != h {
			return nil, fmt.Errorf("attach %s to %s: it is attached to %s", volumeID, h.ID, p.host.ID)
		}
		return p, nil
	}
	device, err := hs.store.Attach(volumeID)
	if err != nil {
		return nil, err
	}
	p := &plugged{host: h, device: device}
	hs.plugged[volumeID] = p
	return p, nil
}

func (hs *hosts) Detach(ctx context.Context, volumeID, instanceID string, force bool) error {
	hs.mu.Lock()
	p := hs.plugged[volumeID]
	hs.mu.Unlock()
	if p == nil || p.host.ID != instanceID {
		return nil // it never showed up there, or went with the instance
	}
	if p.name != "" {
		if err := p.host.Unplug(ctx, p.name, force); err != nil {
			return err
		}
	}
	return hs.unplugged(volumeID, p)
}

// unplugged gives the device of a volume back, once.
func (hs *hosts) unplugged(volumeID string, p *plugged) error {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.plugged[volumeID] != p {
		return nil
	}
	delete(hs.plugged, volumeID)
	return p.device.Close()
}

func (hs *hosts) Launch(ctx context.Context, inst cloud.InstanceSpec) error {
	spec, err := hs.spec(inst)
	if err != nil {
		return err
	}
	h, err := hs.network.NewHost(ctx, spec)
	if err != nil {
		return err
	}
	hs.mu.Lock()
	hs.hosts[inst.ID] = h
	hs.mu.Unlock()
	for _, d := range inst.Disks {
		if err := hs.Attach(ctx, d); err != nil {
			return err
		}
	}
	return h.PowerOn() // Terminate follows a Launch that failed
}

func (hs *hosts) Stop(ctx context.Context, instanceID string) error {
	h, err := hs.host(instanceID)
	if err != nil {
		return err
	}
	return h.Shutdown(ctx, shutdownGrace)
}

func (hs *hosts) Start(ctx context.Context, instanceID string) error {
	h, err := hs.host(instanceID)
	if err != nil {
		return err
	}
	if !h.On() {
		return h.PowerOn()
	}
	if err := h.Wake(); err != nil { // it sleeps
		return err
	}
	_, err = h.Run(ctx, "sh", "-c", "test ! -e /usr/local/bin/agent-unit || setsid agent-unit wake >/proc/1/fd/2 2>&1 &")
	return err
}

// Hibernate does before that what systemd does (ebs-release-sleep.service). A boot that goes on is
// stopped where it is.
func (hs *hosts) Hibernate(ctx context.Context, instanceID string) error {
	h, err := hs.host(instanceID)
	if err != nil {
		return err
	}
	if _, err := h.Run(ctx, "sh", "-c", "test ! -e /usr/local/bin/agent-unit || agent-unit sleep"); err != nil {
		return err
	}
	return h.Sleep()
}

func (hs *hosts) ReplaceRoot(ctx context.Context, inst cloud.InstanceSpec) error {
	h, err := hs.host(inst.ID)
	if err != nil {
		return err
	}
	spec, err := hs.spec(inst)
	if err != nil {
		return err
	}
	if err := h.Shutdown(ctx, shutdownGrace); err != nil {
		return err
	}
	if err := h.NewRoot(spec); err != nil {
		return err
	}
	return h.PowerOn()
}

func (hs *hosts) Reboot(ctx context.Context, instanceID string) error {
	if err := hs.Stop(ctx, instanceID); err != nil {
		return err
	}
	return hs.Start(ctx, instanceID)
}

func (hs *hosts) Terminate(ctx context.Context, instanceID string) error {
	hs.mu.Lock()
	h := hs.hosts[instanceID]
	delete(hs.hosts, instanceID)
	disks := map[string]*plugged{}
	for id, p := range hs.plugged {
		if p.host == h {
			disks[id] = p
		}
	}
	hs.mu.Unlock()
	if h == nil {
		return nil // it never got power
	}
	errs := []error{h.Destroy(ctx)}
	for id, p := range disks {
		errs = append(errs, hs.unplugged(id, p))
	}
	return errors.Join(errs...)
}

func (hs *hosts) host(instanceID string) (*host.Host, error) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	h := hs.hosts[instanceID]
	if h == nil {
		return nil, fmt.Errorf("instance %s is no host, not launched yet, or terminated", instanceID)
	}
	return h, nil
}
