package vm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"ebs-release/internal/lab/cloud"
)

// shutdownGrace is how long a machine may take to switch itself off before its power is cut. EC2
// gives minutes.
const shutdownGrace = 4 * time.Minute

// Store holds the volumes; *disk.Store does.
type Store interface {
	OpenVolume(ctx context.Context, volumeID string) (*os.File, error)
}

// Hardware is an account's virtual machines. Its methods are those of cloud.Hardware that are about
// instances.
type Hardware struct {
	store Store
	spec  func(cloud.InstanceSpec) (Spec, error)

	mu       sync.Mutex
	machines map[string]*Machine // by instance id, terminated ones left out
}

// NewHardware makes it, without a machine yet. spec says what an instance is made of; it need not
// set ID and Address. Close ends it.
func NewHardware(store Store, spec func(cloud.InstanceSpec) (Spec, error)) *Hardware {
	return &Hardware{store: store, spec: spec, machines: map[string]*Machine{}}
}

// Attach plugs the volume's disk. A disk of size zero is not possible here, only with a host.
func (hw *Hardware) Attach(ctx context.Context, a cloud.AttachSpec) error {
	if a.SizeZero {
		return fmt.Errorf("attach %s to %s with size zero: %w", a.VolumeID, a.InstanceID, errors.ErrUnsupported)
	}
	m, err := hw.machine(a.InstanceID)
	if err != nil {
		return err
	}
	file, err := hw.store.OpenVolume(ctx, a.VolumeID)
	if err != nil {
		return fmt.Errorf("attach %s to %s: %w", a.VolumeID, a.InstanceID, err)
	}
	serial := cloud.SerialOf(a.VolumeID)
	if a.Serial != "" {
		serial = strings.TrimPrefix(a.Serial, "-")
	}
	if err := m.Plug(ctx, Disk{Name: a.VolumeID, Serial: serial, File: file}); err != nil {
		return errors.Join(err, file.Close())
	}
	return nil
}

// Detach unplugs the volume's disk, mounted or not: a virtual machine's kernel lets go of a
// controller that goes, whatever is on it.
func (hw *Hardware) Detach(ctx context.Context, volumeID, instanceID string, _ bool) error {
	m, err := hw.machine(instanceID)
	if err != nil {
		return nil // it went with the instance
	}
	return m.Unplug(ctx, volumeID)
}

// Launch makes a machine and switches it on. Terminate follows, also when Launch failed.
func (hw *Hardware) Launch(ctx context.Context, inst cloud.InstanceSpec) error {
	spec, err := hw.spec(inst)
	if err != nil {
		return err
	}
	spec.ID, spec.Address = inst.ID, inst.Address
	m, err := New(ctx, spec)
	if err != nil {
		return err
	}
	hw.mu.Lock()
	hw.machines[inst.ID] = m
	hw.mu.Unlock()
	for _, d := range inst.Disks {
		if err := hw.Attach(ctx, d); err != nil {
			return err
		}
	}
	return m.PowerOn(ctx)
}

// Stop shuts a machine down, and cuts its power when that takes longer than shutdownGrace.
func (hw *Hardware) Stop(ctx context.Context, instanceID string) error {
	m, err := hw.machine(instanceID)
	if err != nil {
		return err
	}
	err = m.Shutdown(ctx, shutdownGrace)
	if ctx.Err() == nil {
		return nil // off, if not by itself: EC2 does the same
	}
	return err
}

// Start switches a stopped machine on again.
func (hw *Hardware) Start(ctx context.Context, instanceID string) error {
	m, err := hw.machine(instanceID)
	if err != nil {
		return err
	}
	return m.PowerOn(ctx)
}

// Reboot stops a machine and starts it again.
func (hw *Hardware) Reboot(ctx context.Context, instanceID string) error {
	if err := hw.Stop(ctx, instanceID); err != nil {
		return err
	}
	return hw.Start(ctx, instanceID)
}

// Hibernate has a machine suspend to its disk, as the EC2 hibernation agent does when the sleep
// button is pressed (amazon-ec2-hibinit-agent, packaging/rhel/acpid.sleep.sh).
func (hw *Hardware) Hibernate(ctx context.Context, instanceID string) error {
	m, err := hw.machine(instanceID)
	if err != nil {
		return err
	}
	return m.Hibernate(ctx)
}

// ReplaceRoot boots a machine from a new disk of its image.
func (hw *Hardware) ReplaceRoot(ctx context.Context, inst cloud.InstanceSpec) error {
	m, err := hw.machine(inst.ID)
	if err != nil {
		return err
	}
	spec, err := hw.spec(inst)
	if err != nil {
		return err
	}
	if err := hw.Stop(ctx, inst.ID); err != nil {
		return err
	}
	if err := m.newRoot(ctx, spec.Image); err != nil {
		return err
	}
	return m.PowerOn(ctx)
}

// Terminate destroys a machine; nil when there is none.
func (hw *Hardware) Terminate(_ context.Context, instanceID string) error {
	hw.mu.Lock()
	m := hw.machines[instanceID]
	delete(hw.machines, instanceID)
	hw.mu.Unlock()
	if m == nil {
		return nil // it was never made
	}
	return m.Destroy()
}

// Close destroys all machines.
func (hw *Hardware) Close() error {
	hw.mu.Lock()
	ids := slices.Collect(maps.Keys(hw.machines))
	hw.mu.Unlock()
	var errs []error
	for _, id := range ids {
		errs = append(errs, hw.Terminate(context.Background(), id))
	}
	return errors.Join(errs...)
}

// Get is the machine of an instance, nil when there is none.
func (hw *Hardware) Get(instanceID string) *Machine {
	hw.mu.Lock()
	defer hw.mu.Unlock()
	return hw.machines[instanceID]
}

// MetadataOf picks the metadata service of the machine with this address, for Switch.ServeMetadata;
// of is the account's IMDSHandler.
func (hw *Hardware) MetadataOf(of func(instanceID string) http.Handler) func(netip.Addr) http.Handler {
	return func(address netip.Addr) http.Handler {
		hw.mu.Lock()
		defer hw.mu.Unlock()
		for id, m := range hw.machines {
			if m.Address == address {
				return of(id)
			}
		}
		return nil
	}
}

func (hw *Hardware) machine(instanceID string) (*Machine, error) {
	if m := hw.Get(instanceID); m != nil {
		return m, nil
	}
	return nil, fmt.Errorf("instance %s has no virtual machine: it is not launched yet, or terminated", instanceID)
}
