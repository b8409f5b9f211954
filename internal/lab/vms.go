package lab

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"

	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/vm"
)

// Register makes instances of an image virtual machines. spec says what they are made of; the lab
// adds what each has of its own, its place in the network, and where EC2 is. The image must let the
// release server's key in.
func (l *Lab) Register(imageID string, spec vm.Spec) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.vms[imageID] = spec
}

// Machine is the virtual machine of an instance. It waits until that has power.
func (l *Lab) Machine(ctx context.Context, instanceID string) (*vm.Machine, error) {
	var m *vm.Machine
	err := l.hardware.wait(ctx, func() bool {
		m = l.hardware.vms.Get(instanceID)
		return m != nil && m.On() || l.terminated(instanceID)
	})
	if err != nil {
		return nil, fmt.Errorf("wait for %s to have power: %w", instanceID, err)
	}
	if m == nil {
		return nil, fmt.Errorf("wait for %s to have power: it is terminated, or no virtual machine", instanceID)
	}
	return m, nil
}

func (l *Lab) kindOf(imageID string) machines {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.vms[imageID]; ok {
		return l.hardware.vms
	}
	return l.hardware.hosts
}

func (l *Lab) vmSpec(inst cloud.InstanceSpec) (vm.Spec, error) {
	l.mu.Lock()
	spec := l.vms[inst.ImageID]
	l.mu.Unlock()
	spec.Dir, spec.Switch = filepath.Join(l.dir.path, "vm"), l.vmSwitch()
	spec.KeyFile = l.serverKey
	spec.Environment = append(slices.Clone(spec.Environment), fmt.Sprintf("AWS_ENDPOINT_URL=http://%s", l.hardware.network.Gateway()))
	return spec, nil
}

func (l *Lab) vmSwitch() vm.Switch {
	namespace, bridge := l.hardware.network.Namespace()
	return vm.Switch{Namespace: namespace, Bridge: bridge, Gateway: netip.PrefixFrom(l.hardware.network.Gateway(), subnet.Bits())}
}
