package cloud

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Instance is an EC2 instance. Values are never changed: the account puts new ones.
type Instance struct {
	ID           string
	State        string // pending, running, stopping, stopped, shutting-down, terminated
	Reason       string // why it is not running: a state reason's code, "" while it is
	Reservation  string
	Zone         string
	Type         string
	ImageID      string
	KeyName      string
	Role         string
	Address      netip.Addr // invalid once it is terminated
	Launched     time.Time
	Ended        time.Time // when it was terminated
	Group        string    // Auto Scaling group
	UserData     []byte
	Tags         map[string]string
	Hibernation  bool // HibernationOptions, Configured
	MetadataTags bool // MetadataOptions, InstanceMetadataTags
}

// RunSpec says what to launch.
type RunSpec struct {
	ImageID      string // ami-0123456789abcdef0
	Type         string // m5.large
	Zone         string // the account's first
	Role         string // IAM role of the instance profile, "" for none
	KeyName      string
	UserData     []byte
	Tags         map[string]string
	Hibernation  bool // HibernationOptions, Configured
	MetadataTags bool // MetadataOptions, InstanceMetadataTags: enabled. Default: disabled

	Mappings   []Mapping         // EBS volumes that come with it
	VolumeTags map[string]string // of all its volumes: a TagSpecification has a kind of resource, and names no device

	group string
}

// machine is what goes on with an instance.
type machine struct {
	lane   lane
	ctx    context.Context // ends when the instance is terminated
	cancel context.CancelFunc
	exists bool // Hardware has it; only touched in the lane
	tokens map[string]time.Time
	role   Credentials // the last ones that the metadata service handed out
}

// Codes of state reasons (StateReason, Code).
const (
	reasonUser     = "Client.UserInitiatedShutdown"
	reasonInternal = "Server.InternalError"
	reasonSpot     = "Server.SpotInstanceTermination"
)

// setInstance changes an instance. mu is held.
func (a *Account) setInstance(id string, change func(*Instance)) {
	i, ok := a.instances.get(id)
	if !ok {
		return
	}
	change(&i)
	a.instances.put(id, i)
	a.notify()
}

// forgotten says whether a terminated instance is not shown any more. mu is held.
func (a *Account) forgotten(i Instance) bool {
	visible := a.opts.Latency.Terminated
	if visible == 0 {
		visible = time.Hour
	}
	return i.State == "terminated" && time.Since(i.Ended) > visible
}

// RunInstance launches one instance and returns its id as EC2 does: while the instance is pending.
func (a *Account) RunInstance(_ context.Context, spec RunSpec) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i, err := a.launch(spec, a.newID("r-"))
	return i.ID, err
}

// launch makes an instance and lets it come up. mu is held.
func (a *Account) launch(spec RunSpec, reservation string) (Instance, error) {
	if spec.Zone == "" {
		spec.Zone = a.opts.Zones[0]
	}
	if spec.Type == "" {
		spec.Type = "m5.large"
	}
	if spec.ImageID == "" {
		spec.ImageID = "ami-00000000000000001"
	}
	if !slices.Contains(a.opts.Zones, spec.Zone) {
		return Instance{}, fail("InvalidParameterValue", "Invalid availability zone: [%s]", spec.Zone)
	}
	address, ok := a.freeAddress()
	if !ok {
		return Instance{}, fail("InsufficientFreeAddressesInSubnet",
			"There are not enough free addresses in subnet '%s' to satisfy the requested number of instances.", a.opts.Subnet)
	}
	i := Instance{
		ID: a.newID("i-"), State: "pending",
		Reservation: reservation, Zone: spec.Zone, Type: spec.Type, ImageID: spec.ImageID, KeyName: spec.KeyName,
		Role: spec.Role, Address: address, Launched: time.Now(), Group: spec.group, UserData: spec.UserData, Tags: maps.Clone(spec.Tags),
		Hibernation: spec.Hibernation, MetadataTags: spec.MetadataTags,
	}
	volumes, err := a.mapped(spec, i)
	if err != nil {
		return Instance{}, err
	}
	ctx, cancel := context.WithCancel(a.ctx)
	a.machines[i.ID] = &machine{lane: newLane(), ctx: ctx, cancel: cancel, tokens: map[string]time.Time{}}
	a.instances.put(i.ID, i)
	for _, v := range volumes {
		a.volumes.put(v.ID, v)
		a.disks[v.ID] = &disk{lane: newLane(), unmade: true}
	}
	a.notify()
	a.launched(i, volumes[1:])
	return i, nil
}

// launched gives a new instance its disks, and then power. mu is held.
func (a *Account) launched(i Instance, brought []Volume) {
	if a.keyMissing(brought) {
		a.spawn(func(context.Context) {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.terminate(i.ID, reasonLaunch)
		})
		return
	}
	m, made := a.machines[i.ID], sync.OnceFunc(a.lockImages(brought))
	a.spawn(func(context.Context) { // terminated before it had power
		<-m.ctx.Done()
		_ = m.lane.do(context.Background(), func() error { made(); return nil })
	})
	a.boot(i, func(ctx context.Context) error {
		defer made()
		spec := a.spec(i)
		var err error
		if spec.Disks, err = a.bring(ctx, brought); err != nil {
			m.exists = false // there is nothing to terminate
			return err
		}
		if err := a.opts.Hardware.Launch(ctx, spec); err != nil {
			return err
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, v := range brought {
			a.setAttachment(v.ID, i.ID, "attaching", "attached")
		}
		return nil
	})
}

func (a *Account) spec(i Instance) InstanceSpec {
	return InstanceSpec{
		ID: i.ID, Address: i.Address, Subnet: a.opts.Subnet, Zone: i.Zone, Type: i.Type, ImageID: i.ImageID, KeyName: i.KeyName,
		Role: i.Role, UserData: i.UserData, Group: i.Group,
	}
}

// freeAddress returns the lowest address that no instance has: addresses are used again, as in a
// small subnet. The first four and the last one are reserved (VPC User Guide, "Subnet CIDR
// reservations": .0 network, .1 router, .2 DNS, .3 future use, the broadcast address). mu is held.
func (a *Account) freeAddress() (netip.Addr, bool) {
	taken := map[netip.Addr]bool{}
	for _, e := range a.instances.list(time.Now()) {
		taken[e.value.Address] = true
	}
	next := a.opts.Subnet.Masked().Addr().Next().Next().Next().Next()
	for ; a.opts.Subnet.Contains(next.Next()); next = next.Next() {
		if !taken[next] {
			return next, true
		}
	}
	return netip.Addr{}, false
}

// boot gives a pending instance power, and later calls it running: the machine boots while EC2
// still says pending (row 1). mu is held.
func (a *Account) boot(i Instance, power func(context.Context) error) {
	m := a.machines[i.ID]
	powerAfter, runningAfter := a.sample(a.opts.Latency.Power), a.sample(a.opts.Latency.Running)
	a.spawn(func(context.Context) {
		start := time.Now()
		if !pause(m.ctx, powerAfter) {
			return
		}
		err := m.lane.do(m.ctx, func() error {
			m.exists = true
			return power(m.ctx)
		})
		if m.ctx.Err() != nil {
			return // terminated meanwhile; terminate cleans up
		}
		if err != nil {
			a.hardwareTrouble("power on", i.ID, err)
			a.mu.Lock()
			defer a.mu.Unlock()
			a.terminate(i.ID, reasonInternal) // "the instance goes from the pending state directly to the terminated state"
			return
		}
		if !pause(m.ctx, runningAfter-time.Since(start)) {
			return
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		if now, _ := a.instances.get(i.ID); now.State == "pending" {
			a.setInstance(i.ID, func(i *Instance) { i.State, i.Reason = "running", "" })
		}
	})
}

// terminate lets an instance go. It is always allowed; a terminated one stays so. mu is held.
func (a *Account) terminate(id, reason string) {
	i, _ := a.instances.get(id)
	if i.State == "shutting-down" || i.State == "terminated" {
		return
	}
	m, latency := a.machines[id], a.sample(a.opts.Latency.Shutdown)
	a.setInstance(id, func(i *Instance) { i.State, i.Reason = "shutting-down", reason })
	m.cancel()
	a.spawn(func(ctx context.Context) {
		if !pause(ctx, latency) {
			return
		}
		err := m.lane.do(ctx, func() error {
			if !m.exists {
				return nil
			}
			m.exists = false
			return a.opts.Hardware.Terminate(ctx, id)
		})
		if err != nil {
			a.hardwareTrouble("terminate instance", id, err)
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.release(id)
		a.setInstance(id, func(i *Instance) { i.State, i.Ended, i.Address = "terminated", time.Now(), netip.Addr{} })
	})
}

// release frees the volumes of an instance that is off for good: those with DeleteOnTermination are
// deleted, the others become available ("Preserve data when an instance is terminated", EC2 User
// Guide). mu is held.
func (a *Account) release(instanceID string) {
	for _, v := range a.attachedTo(instanceID, time.Now()) {
		if run := a.disks[v.ID].attach; run != nil {
			run.cancel()
		}
		if v.Attachment.DeleteOnTermination {
			a.erase(v.ID)
			continue
		}
		a.setVolume(v.ID, func(v *Volume) { v.State, v.Attachment = "available", nil })
	}
}

// errState says that an instance is in the wrong state for what is asked (error code
// IncorrectInstanceState).
func errState(id, asked string) error {
	return fail("IncorrectInstanceState", "The instance '%s' is not in a state from which it can be %s.", id, asked)
}

// stopInstance, startInstance and rebootInstance move an instance. mu is held.
func (a *Account) stopInstance(id string) error { return a.halt(id, a.opts.Hardware.Stop) }

func (a *Account) halt(id string, halt func(context.Context, string) error) error {
	switch i, _ := a.instances.get(id); i.State {
	case "stopped", "stopping":
		return nil
	case "running":
	default:
		return errState(id, "stopped")
	}
	m, latency := a.machines[id], a.sample(a.opts.Latency.Shutdown)
	a.setInstance(id, func(i *Instance) { i.State, i.Reason = "stopping", reasonUser })
	a.spawn(func(context.Context) {
		if !pause(m.ctx, latency) {
			return
		}
		if err := m.lane.do(m.ctx, func() error { return halt(m.ctx, id) }); err != nil && m.ctx.Err() == nil {
			a.hardwareTrouble("stop instance", id, err)
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		if i, _ := a.instances.get(id); i.State == "stopping" {
			a.setInstance(id, func(i *Instance) { i.State = "stopped" })
		}
	})
	return nil
}

func (a *Account) startInstance(id string) error {
	switch i, _ := a.instances.get(id); i.State {
	case "running", "pending":
		return nil
	case "stopped":
	default:
		return errState(id, "started")
	}
	a.setInstance(id, func(i *Instance) { i.State, i.Reason, i.Launched = "pending", "", time.Now() })
	i, _ := a.instances.get(id)
	a.boot(i, func(ctx context.Context) error { return a.opts.Hardware.Start(ctx, id) })
	return nil
}

func (a *Account) rebootInstance(id string) error {
	if i, _ := a.instances.get(id); i.State != "running" {
		return errState(id, "rebooted")
	}
	m := a.machines[id]
	a.spawn(func(context.Context) {
		if err := m.lane.do(m.ctx, func() error { return a.opts.Hardware.Reboot(m.ctx, id) }); err != nil && m.ctx.Err() == nil {
			a.hardwareTrouble("reboot instance", id, err)
		}
	})
	return nil
}

// TerminateInstance does what the API call of that name does, for tests and demos. So do
// StopInstance, StartInstance and RebootInstance.
func (a *Account) TerminateInstance(id string) error {
	return a.direct(id, func(id string) error { a.terminate(id, reasonUser); return nil })
}

// InterruptInstance is a spot interruption whose two minutes are over ("Spot Instance
// interruptions", EC2 User Guide): EC2 terminates the instance, and asks nobody.
func (a *Account) InterruptInstance(id string) error {
	return a.direct(id, func(id string) error { a.terminate(id, reasonSpot); return nil })
}

// StopInstance stops an instance.
func (a *Account) StopInstance(id string) error { return a.direct(id, a.stopInstance) }

// StartInstance starts a stopped instance.
func (a *Account) StartInstance(id string) error { return a.direct(id, a.startInstance) }

// RebootInstance reboots an instance.
func (a *Account) RebootInstance(id string) error { return a.direct(id, a.rebootInstance) }

func (a *Account) direct(id string, f func(string) error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.instances.get(id); !ok {
		return notFound("instance", id)
	}
	return f(id)
}
