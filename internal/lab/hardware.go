package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/disk"
	"ebs-release/internal/lab/host"
	"ebs-release/internal/lab/vm"
)

// machines are the instances of one kind. Methods and rules are those of cloud.Hardware.
type machines interface {
	Attach(ctx context.Context, a cloud.AttachSpec) error
	Detach(ctx context.Context, volumeID, instanceID string, force bool) error
	Launch(ctx context.Context, inst cloud.InstanceSpec) error
	Stop(ctx context.Context, instanceID string) error
	Start(ctx context.Context, instanceID string) error
	Reboot(ctx context.Context, instanceID string) error
	Hibernate(ctx context.Context, instanceID string) error
	ReplaceRoot(ctx context.Context, inst cloud.InstanceSpec) error
	Terminate(ctx context.Context, instanceID string) error
}

// hardware is what the account switches. All disks are files of one store; an instance is a host or
// a virtual machine, as its image says.
type hardware struct {
	store   *disk.Store
	network *host.Network
	hosts   *hosts
	vms     *vm.Hardware
	kindOf  func(imageID string) machines
	rateOf  func(volumeID string) int32 // at which EBS loads a cold volume, in MiB/s; nil: no volume is cold

	life context.Context // of the lab
	end  func()

	mu        sync.Mutex
	instances map[string]machines // by instance id, terminated ones left out
	changed   chan struct{}       // closed and replaced when an instance was switched on or went
}

// CreateVolume implements cloud.Hardware, and so do the methods below.
func (hw *hardware) CreateVolume(_ context.Context, volumeID string, sizeGiB int32, snapshotID string) error {
	if err := hw.store.CreateVolume(volumeID, sizeGiB, snapshotID); err != nil || hw.rateOf == nil {
		return err
	}
	go hw.store.Initialize(hw.life, volumeID, hw.rateOf(volumeID))
	return nil
}

func (hw *hardware) Initialized(volumeID string) int { return hw.store.Loaded(volumeID) }

func (hw *hardware) DeleteVolume(_ context.Context, volumeID string) error {
	return hw.store.DeleteVolume(volumeID)
}

// CreateSnapshot: all that a disk has acknowledged is in its file by now.
func (hw *hardware) CreateSnapshot(_ context.Context, snapshotID, volumeID string) error {
	return hw.store.CreateSnapshot(snapshotID, volumeID)
}

func (hw *hardware) DeleteSnapshot(_ context.Context, snapshotID string) error {
	return hw.store.DeleteSnapshot(snapshotID)
}

func (hw *hardware) Attach(ctx context.Context, a cloud.AttachSpec) error {
	kind, err := hw.kind(a.InstanceID)
	if err != nil {
		return err
	}
	return kind.Attach(ctx, a)
}

func (hw *hardware) Detach(ctx context.Context, volumeID, instanceID string, force bool) error {
	kind, err := hw.kind(instanceID)
	if err != nil {
		return nil // it went with the instance
	}
	return kind.Detach(ctx, volumeID, instanceID, force)
}

func (hw *hardware) Launch(ctx context.Context, inst cloud.InstanceSpec) error {
	kind := hw.kindOf(inst.ImageID)
	hw.mu.Lock()
	hw.instances[inst.ID] = kind
	hw.mu.Unlock()
	defer hw.notify()
	return kind.Launch(ctx, inst)
}

func (hw *hardware) Stop(ctx context.Context, instanceID string) error {
	kind, err := hw.kind(instanceID)
	if err != nil {
		return err
	}
	return kind.Stop(ctx, instanceID)
}

func (hw *hardware) Start(ctx context.Context, instanceID string) error {
	kind, err := hw.kind(instanceID)
	if err != nil {
		return err
	}
	defer hw.notify()
	return kind.Start(ctx, instanceID)
}

func (hw *hardware) Reboot(ctx context.Context, instanceID string) error {
	kind, err := hw.kind(instanceID)
	if err != nil {
		return err
	}
	defer hw.notify()
	return kind.Reboot(ctx, instanceID)
}

func (hw *hardware) Hibernate(ctx context.Context, instanceID string) error {
	kind, err := hw.kind(instanceID)
	if err != nil {
		return err
	}
	return kind.Hibernate(ctx, instanceID)
}

func (hw *hardware) ReplaceRoot(ctx context.Context, inst cloud.InstanceSpec) error {
	kind, err := hw.kind(inst.ID)
	if err != nil {
		return err
	}
	defer hw.notify()
	return kind.ReplaceRoot(ctx, inst)
}

func (hw *hardware) Terminate(ctx context.Context, instanceID string) error {
	hw.mu.Lock()
	kind := hw.instances[instanceID]
	delete(hw.instances, instanceID)
	hw.mu.Unlock()
	if kind == nil {
		return nil // it never got power
	}
	defer hw.notify()
	return kind.Terminate(ctx, instanceID)
}

func (hw *hardware) kind(instanceID string) (machines, error) {
	hw.mu.Lock()
	defer hw.mu.Unlock()
	if kind := hw.instances[instanceID]; kind != nil {
		return kind, nil
	}
	return nil, fmt.Errorf("instance %s has no machine: it is not launched yet, or terminated", instanceID)
}

// close takes all down: instances side by side, then the network and the disks.
func (hw *hardware) close(ctx context.Context) error {
	hw.end()
	hw.mu.Lock()
	ids := slices.Collect(maps.Keys(hw.instances))
	hw.mu.Unlock()
	errs := make([]error, len(ids), len(ids)+2)
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Go(func() { errs[i] = hw.Terminate(ctx, id) })
	}
	wg.Wait()
	if hw.network != nil {
		errs = append(errs, hw.network.Close())
	}
	if hw.store != nil {
		errs = append(errs, hw.store.Close(ctx))
	}
	return errors.Join(errs...)
}

// notify wakes everyone who waits for a machine.
func (hw *hardware) notify() {
	hw.mu.Lock()
	defer hw.mu.Unlock()
	close(hw.changed)
	hw.changed = make(chan struct{})
}

// wait returns when ok says so; ok is asked again whenever a machine was switched on or went.
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
