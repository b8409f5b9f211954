package cloud

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
)

const endpoint = "http://ec2.lab"

// lab is an account in a synctest bubble, its hardware in memory, and AWS's own SDK as the client.
type lab struct {
	*testing.T
	ctx context.Context
	*Account
	hw  *memory
	ec2 *ec2.Client // the account's owner, without retries
	asg *autoscaling.Client
	sts *sts.Client
}

// inLab runs a test in a bubble of its own: time passes at once, and all goroutines must end.
func inLab(t *testing.T, opts Options, test func(l *lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		hw := &memory{volumes: map[string]string{}, machines: map[string]string{}, busy: map[string]bool{}, mounted: map[string]int{}}
		if opts.Hardware == nil {
			opts.Hardware = hw
		}
		if opts.Seed == 0 {
			opts.Seed = 7
		}
		a, err := New(opts)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		l := &lab{T: t, ctx: t.Context(), Account: a, hw: hw}
		admin := a.Admin()
		l.ec2, l.asg, l.sts = l.client(admin), l.scaling(admin), l.identity(admin)
		test(l)
		for _, problem := range hw.problems {
			t.Errorf("hardware was misused: %s", problem)
		}
	})
}

func static(c Credentials) aws.CredentialsProvider {
	return credentials.NewStaticCredentialsProvider(c.AccessKeyID, c.SecretAccessKey, c.SessionToken)
}

func (l *lab) http() *http.Client { return &http.Client{Transport: Transport{l.EC2Handler()}} }

func (l *lab) client(c Credentials, change ...func(*ec2.Options)) *ec2.Client {
	return ec2.New(ec2.Options{
		Region: l.Region(), BaseEndpoint: aws.String(endpoint), Credentials: static(c), HTTPClient: l.http(), Retryer: aws.NopRetryer{},
	}, change...)
}

func (l *lab) scaling(c Credentials) *autoscaling.Client {
	return autoscaling.New(autoscaling.Options{
		Region: l.Region(), BaseEndpoint: aws.String(endpoint), Credentials: static(c), HTTPClient: l.http(), Retryer: aws.NopRetryer{},
	})
}

func (l *lab) identity(c Credentials) *sts.Client {
	return sts.New(sts.Options{
		Region: l.Region(), BaseEndpoint: aws.String(endpoint), Credentials: static(c), HTTPClient: l.http(), Retryer: aws.NopRetryer{},
	})
}

// ok ends the test on an error.
func (l *lab) ok(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

// wantCode checks an AWS error code as the SDK sees it.
func (l *lab) wantCode(err error, code string) {
	l.Helper()
	if got := codeOf(err); got != code {
		l.Errorf("got error %q (%v), want %q", got, err, code)
	}
}

func codeOf(err error) string {
	var known smithy.APIError
	if errors.As(err, &known) {
		return known.ErrorCode()
	}
	if err != nil {
		return "not an API error"
	}
	return ""
}

// volume makes a volume and waits until it is available.
func (l *lab) volume(change ...func(*ec2.CreateVolumeInput)) string {
	l.Helper()
	in := &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(2), VolumeType: types.VolumeTypeGp3}
	for _, f := range change {
		f(in)
	}
	out, err := l.ec2.CreateVolume(l.ctx, in)
	l.ok(err)
	l.reaches(*out.VolumeId, "available")
	return *out.VolumeId
}

// instance runs an instance and waits until it is running.
func (l *lab) instance(spec RunSpec) string {
	l.Helper()
	id, err := l.RunInstance(l.ctx, spec)
	l.ok(err)
	l.reaches(id, "running")
	return id
}

func (l *lab) attached() (volume, instance string) {
	l.Helper()
	volume, instance = l.volume(), l.instance(RunSpec{})
	l.ok(l.attach(volume, instance, "/dev/xvdaa"))
	l.reaches(volume, "attached")
	return volume, instance
}

func (l *lab) attach(volume, instance, device string) error {
	_, err := l.ec2.AttachVolume(l.ctx, &ec2.AttachVolumeInput{VolumeId: &volume, InstanceId: &instance, Device: &device})
	return err
}

// snapshot makes a snapshot and waits until it is completed.
func (l *lab) snapshot(volume string) string {
	l.Helper()
	out, err := l.ec2.CreateSnapshot(l.ctx, &ec2.CreateSnapshotInput{VolumeId: &volume})
	l.ok(err)
	l.reaches(*out.SnapshotId, "completed")
	return *out.SnapshotId
}

// state returns the true state of a resource: for a volume that is attached, that of the
// attachment; "" when it is gone.
func (l *lab) state(id string) string {
	for _, v := range l.Volumes() {
		if v.ID == id && v.Attachment != nil {
			return v.Attachment.State
		}
		if v.ID == id {
			return v.State
		}
	}
	for _, s := range l.Snapshots() {
		if s.ID == id {
			return s.State
		}
	}
	for _, i := range l.Instances() {
		if i.ID == id {
			return i.State
		}
	}
	return ""
}

// reaches waits, at most an hour of the bubble's time, until a resource is in a state.
func (l *lab) reaches(id, state string) {
	l.Helper()
	ctx, cancel := context.WithTimeout(l.ctx, time.Hour)
	defer cancel()
	if l.Wait(ctx, func() bool { return l.state(id) == state }) != nil {
		l.Fatalf("%s is %q, want %q", id, l.state(id), state)
	}
}

// memory is Hardware in memory. It checks that calls make sense and that those for one resource do
// not overlap.
type memory struct {
	mu       sync.Mutex
	volumes  map[string]string // id -> instance that has it
	machines map[string]string // id -> on, off
	busy     map[string]bool
	mounted  map[string]int // volume -> how many detaches still find it mounted
	loaded   map[string]int // volume -> percent
	events   []string
	problems []string
	fail     error
	launch   func(InstanceSpec) error
	specs    []InstanceSpec
}

func (h *memory) enter(event string, ids ...string) (leave func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, event+" "+strings.Join(ids, " "))
	for _, id := range ids {
		if h.busy[id] {
			h.problems = append(h.problems, event+": another call for "+id+" is going on")
		}
		h.busy[id] = true
	}
	return func() {
		time.Sleep(time.Millisecond)
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, id := range ids {
			delete(h.busy, id)
		}
	}
}

// loads makes a volume be loaded so far.
func (h *memory) loads(id string, percent int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.loaded = map[string]int{id: percent}
}

func (h *memory) Initialized(id string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.loaded[id]
}

func (h *memory) must(ok bool, format string, args ...any) {
	if !ok {
		h.problems = append(h.problems, fmt.Sprintf(format, args...))
	}
}

func (h *memory) seen(event string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Contains(h.events, event)
}

// log returns what was called so far.
func (h *memory) log() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.events)
}

// launches makes Launch end in f.
func (h *memory) launches(f func(InstanceSpec) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.launch = f
}

func (h *memory) CreateVolume(_ context.Context, id string, _ int32, snapshot string) error {
	defer h.enter("create", id)()
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ok := h.volumes[snapshot]
	h.must(snapshot == "" || ok, "create %s: no snapshot %s", id, snapshot)
	h.volumes[id] = ""
	return h.fail
}

func (h *memory) DeleteVolume(_ context.Context, id string) error {
	defer h.enter("delete", id)()
	h.mu.Lock()
	defer h.mu.Unlock()
	owner, ok := h.volumes[id]
	h.must(ok && owner == "", "delete %s: attached to %q", id, owner)
	delete(h.volumes, id)
	return nil
}

func (h *memory) CreateSnapshot(_ context.Context, id, volume string) error {
	defer h.enter("snapshot", volume)()
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ok := h.volumes[volume]
	h.must(ok, "snapshot of %s: not there", volume)
	h.volumes[id] = ""
	return nil
}

func (h *memory) DeleteSnapshot(_ context.Context, id string) error {
	defer h.enter("delete", id)()
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.volumes, id)
	return nil
}

func (h *memory) Attach(_ context.Context, s AttachSpec) error {
	event := "attach"
	if s.SizeZero {
		event = "attach-empty"
	}
	defer h.enter(event, s.VolumeID, s.InstanceID)()
	h.mu.Lock()
	defer h.mu.Unlock()
	owner, ok := h.volumes[s.VolumeID]
	h.must(ok && (owner == "" || owner == s.InstanceID), "attach %s: attached to %q", s.VolumeID, owner)
	h.must(h.machines[s.InstanceID] != "", "attach %s: no machine %s", s.VolumeID, s.InstanceID)
	h.volumes[s.VolumeID] = s.InstanceID
	return nil
}

func (h *memory) Detach(_ context.Context, id, instance string, force bool) error {
	defer h.enter("detach", id, instance)()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mounted[id] > 0 && !force {
		h.mounted[id]--
		return ErrBusy
	}
	h.volumes[id] = ""
	return nil
}

func (h *memory) Launch(ctx context.Context, i InstanceSpec) error {
	leave := h.enter("launch", i.ID)
	defer leave()
	h.mu.Lock()
	launch := h.launch
	h.machines[i.ID] = "on"
	for _, d := range i.Disks {
		owner, ok := h.volumes[d.VolumeID]
		h.must(ok && owner == "" && d.InstanceID == i.ID, "launch %s with %+v: attached to %q", i.ID, d, owner)
		h.volumes[d.VolumeID] = i.ID
	}
	h.specs = append(h.specs, i)
	h.mu.Unlock()
	if launch != nil {
		return launch(i)
	}
	return ctx.Err()
}

func (h *memory) set(event, id, from, to string) error {
	defer h.enter(event, id)()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.must(h.machines[id] == from, "%s %s: it is %q", event, id, h.machines[id])
	h.machines[id] = to
	return nil
}

func (h *memory) Stop(_ context.Context, id string) error   { return h.set("stop", id, "on", "off") }
func (h *memory) Start(_ context.Context, id string) error  { return h.set("start", id, "off", "on") }
func (h *memory) Reboot(_ context.Context, id string) error { return h.set("reboot", id, "on", "on") }

func (h *memory) Hibernate(_ context.Context, id string) error {
	return h.set("hibernate", id, "on", "off")
}
func (h *memory) ReplaceRoot(_ context.Context, i InstanceSpec) error {
	return h.set("replace root", i.ID, "on", "on")
}

func (h *memory) Terminate(_ context.Context, id string) error {
	defer h.enter("terminate", id)()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.must(h.machines[id] != "", "terminate %s: no such machine", id)
	delete(h.machines, id)
	for v, owner := range h.volumes {
		if owner == id {
			h.volumes[v] = ""
		}
	}
	return nil
}
