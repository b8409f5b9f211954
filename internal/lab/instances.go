package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/disk"
	"ebs-release/internal/lab/host"
)

// Group makes an Auto Scaling group of members. It may grow to max instances.
func (l *Lab) Group(name string, desired, max int32) error {
	return l.Account.CreateGroup(cloud.GroupSpec{Name: name, Desired: desired, Max: max, Launch: l.Member()})
}

// Member is what a member is launched from; RunInstance takes it, too.
func (l *Lab) Member() cloud.RunSpec {
	return cloud.RunSpec{ImageID: MemberImage, Role: "ebs-release-agent", Tags: map[string]string{"Name": "member"}}
}

// ReleaseServer is the host with the publisher. It waits until that has booted.
func (l *Lab) ReleaseServer(ctx context.Context) (*host.Host, error) { return l.Booted(ctx, l.server) }

// ReleaseServerID is the instance id of the release server.
func (l *Lab) ReleaseServerID() string { return l.server }

// Host is the machine of an instance, from its launch to its termination.
func (l *Lab) Host(instanceID string) (*host.Host, error) { return l.hardware.hosts.host(instanceID) }

// Hosts are all machines, in the order of launch.
func (l *Lab) Hosts() []*host.Host {
	var hosts []*host.Host
	for _, i := range l.Account.Instances() {
		if h, err := l.hardware.hosts.host(i.ID); err == nil {
			hosts = append(hosts, h)
		}
	}
	return hosts
}

// WaitHosts waits until ok says so; ok is asked again whenever a machine was switched on or went.
func (l *Lab) WaitHosts(ctx context.Context, ok func([]*host.Host) bool) error {
	return l.hardware.wait(ctx, func() bool { return ok(l.Hosts()) })
}

// Booted waits until the instance has power and its boot is through: the agent ended well and the
// application has started. It gives up when the boot fails, when the instance is terminated, or
// with ctx.
func (l *Lab) Booted(ctx context.Context, instanceID string) (*host.Host, error) {
	var h *host.Host
	err := l.hardware.wait(ctx, func() bool {
		h, _ = l.hardware.hosts.host(instanceID)
		return h != nil && h.On() || l.terminated(instanceID)
	})
	if err != nil {
		return nil, fmt.Errorf("wait for %s to have power: %w", instanceID, err)
	}
	if h == nil {
		return nil, fmt.Errorf("wait for %s to have power: it is terminated", instanceID)
	}
	return h, h.Booted(ctx)
}

// AllBooted waits until the group has n members in service whose boot is through, and returns their
// hosts in the order of launch.
func (l *Lab) AllBooted(ctx context.Context, group string, n int) ([]*host.Host, error) {
	if err := l.InService(ctx, group, n); err != nil {
		return nil, err
	}
	var hosts []*host.Host
	for _, m := range l.Members(group) {
		h, err := l.Booted(ctx, m.InstanceID)
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, h)
	}
	return hosts, nil
}

// InService waits until the group has n members, all of them in service.
func (l *Lab) InService(ctx context.Context, group string, n int) error {
	err := l.Account.Wait(ctx, func() bool {
		members := l.Members(group)
		return len(members) == n && !slices.ContainsFunc(members, func(m cloud.Member) bool { return m.State != "InService" })
	})
	if err != nil {
		return fmt.Errorf("wait for %d members of %s in service (now %s): %w", n, group, describe(l.Members(group)), err)
	}
	return nil
}

// Members are the members of a group, terminated ones left out.
func (l *Lab) Members(group string) []cloud.Member { return l.members(group, false) }

// Warmed are the instances of a group's warm pool.
func (l *Lab) Warmed(group string) []cloud.Member { return l.members(group, true) }

func (l *Lab) members(group string, warmed bool) (found []cloud.Member) {
	for _, g := range l.Account.Groups() {
		for _, m := range g.Members {
			if g.Name == group && strings.HasPrefix(m.State, "Warmed:") == warmed {
				found = append(found, m)
			}
		}
	}
	return found
}

// Reboot reboots the instance and waits until the new boot is through.
func (l *Lab) Reboot(ctx context.Context, instanceID string) error {
	return l.boot(ctx, instanceID, l.Account.RebootInstance)
}

// StopStart stops the instance, starts it again, and waits until the new boot is through.
func (l *Lab) StopStart(ctx context.Context, instanceID string) error {
	return l.boot(ctx, instanceID, func(id string) error {
		if err := l.Account.StopInstance(id); err != nil {
			return err
		}
		if err := l.waitState(ctx, id, "stopped"); err != nil {
			return err
		}
		return l.Account.StartInstance(id)
	})
}

// boot does something that boots the instance anew, and waits for that boot.
func (l *Lab) boot(ctx context.Context, instanceID string, do func(string) error) error {
	h, err := l.hardware.hosts.host(instanceID)
	if err != nil {
		return err
	}
	before := h.Boots()
	if err := do(instanceID); err != nil {
		return err
	}
	if err := l.hardware.wait(ctx, func() bool { return h.Boots() > before }); err != nil {
		return fmt.Errorf("wait for the next boot of %s: %w", instanceID, err)
	}
	return h.Booted(ctx)
}

func (l *Lab) waitState(ctx context.Context, instanceID, state string) error {
	err := l.Account.Wait(ctx, func() bool {
		i, err := l.instance(instanceID)
		return err == nil && i.State == state
	})
	if err != nil {
		return fmt.Errorf("wait for %s to be %s: %w", instanceID, state, err)
	}
	return nil
}

func (l *Lab) terminated(instanceID string) bool {
	i, err := l.instance(instanceID)
	return err != nil || i.State == "terminated"
}

func (l *Lab) instance(instanceID string) (cloud.Instance, error) {
	for _, i := range l.Account.Instances() {
		if i.ID == instanceID {
			return i, nil
		}
	}
	return cloud.Instance{}, errors.New("there is no instance " + instanceID)
}

func describe(members []cloud.Member) string {
	var words []string
	for _, m := range members {
		words = append(words, m.InstanceID+" "+m.State)
	}
	return fmt.Sprintf("%q", words)
}

// Disks are those of the machines.
func (l *Lab) Disks() *disk.Store { return l.hardware.store }

// initializationRate is a volume's VolumeInitializationRate.
func (l *Lab) initializationRate(volumeID string) int32 {
	for _, v := range l.Account.Volumes() {
		if v.ID == volumeID {
			return v.InitializationRate
		}
	}
	return 0
}
