package cloud

import (
	"context"
	"time"
)

// replaceRoot gives a member a new root volume of an image, and nothing else: it "preserves all
// other instance resources including: network interfaces and IP addresses, non-root EBS volumes"
// (Auto Scaling User Guide, "Replace root volumes during instance refresh"). The instance boots
// from it. Its states:
//
//	ReplacingRootVolume -> ReplacingRootVolume:Proceed -> RootVolumeReplaced -> InService
//
// No hook waits between them: the page does not say which transition a hook needs for that. mu is
// held.
func (a *Account) replaceRoot(group, id, imageID string) {
	m := a.machines[id]
	a.setMember(group, id, func(m *Member) { m.enter("ReplacingRootVolume") })
	a.spawn(func(context.Context) {
		a.mu.Lock()
		a.setMember(group, id, func(m *Member) { m.enter("ReplacingRootVolume:Proceed") })
		a.setInstance(id, func(i *Instance) { i.ImageID = imageID })
		i, _ := a.instances.get(id)
		a.mu.Unlock()
		err := m.lane.do(m.ctx, func() error { return a.opts.Hardware.ReplaceRoot(m.ctx, a.spec(i)) })
		a.mu.Lock()
		defer a.mu.Unlock()
		if m.ctx.Err() != nil {
			return
		}
		if err != nil {
			// "If root volume replacement fails for an instance, Auto Scaling marks that instance
			// for termination and replaces it with a new instance."
			a.hardwareTrouble("replace the root volume", id, err)
			a.setMember(group, id, func(m *Member) { m.Healthy = false; m.leave("Terminating") })
			return
		}
		for _, v := range a.attachedTo(id, time.Now()) {
			if v.Root {
				a.erase(v.ID) // "Original root volumes are automatically deleted"
			}
		}
		root := a.newRoot(i)
		a.volumes.put(root.ID, root)
		a.disks[root.ID] = &disk{lane: newLane()}
		a.setMember(group, id, func(m *Member) { m.enter("RootVolumeReplaced") })
	})
}

// hibernateInstance is StopInstances with Hibernate: what is in memory is there after the next
// start, "processes that were previously running on the instance are resumed", and "previously
// attached data volumes are reattached" (EC2 User Guide, "Hibernate your Amazon EC2 instance"). mu
// is held.
func (a *Account) hibernateInstance(id string) error {
	if i, _ := a.instances.get(id); !i.Hibernation {
		return fail("UnsupportedHibernationConfiguration", "The instance %s is not configured for hibernation", id)
	}
	return a.halt(id, a.opts.Hardware.Hibernate)
}

// HibernateInstance does what StopInstances with Hibernate does.
func (a *Account) HibernateInstance(id string) error { return a.direct(id, a.hibernateInstance) }
