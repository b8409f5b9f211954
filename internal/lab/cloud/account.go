// Package cloud is the account of the lab: what EC2, Auto Scaling, Elastic Load Balancing and the
// instance metadata service know, the rules they follow, and the wire protocols they speak. It is
// meant to be harder than EC2, never kinder; each rule says where it comes from: a page of the AWS
// documentation, or a row of failures.md (cited as "row N").
//
// Start reading with query.go (how a request is served), then volumes.go, attachments.go,
// instances.go, groups.go and targets.go (one state machine each). store.go explains why a Describe
// may go back in time, faults.go how a test makes a call fail.
package cloud

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Options describe an account. Zero values get the defaults named beside them.
type Options struct {
	Region    string       // us-east-1
	Zones     []string     // the Region's a and b
	AccountID string       // 123456789012
	Subnet    netip.Prefix // 10.0.0.0/16: instances get addresses from its fifth one up, as in a VPC (.1 is the router)
	Latency   LatencyTable // zero: every state is left as soon as Hardware is done
	Hardware  Hardware     // required
	Policy    Policy       // nil: everything is allowed
	// AttachLimits says how many volumes an instance type takes, root volume included. 27 for types
	// that are not listed: a Nitro instance has 28 attachments, one of which is its network
	// interface (EC2 User Guide, "Amazon EBS volume limits for Amazon EC2 instances"; row 17).
	AttachLimits map[string]int
	// KMSKeys are the keys that callers may use. A volume with any other key is answered with 200
	// and vanishes: keys are authenticated asynchronously (CreateVolume, KmsKeyId; row 3).
	KMSKeys []string
	// RequiredTags are keys that a service control policy of the organization demands on every new
	// volume and snapshot (row 47; AWS Organizations User Guide, "Require a tag on specified
	// created resources").
	RequiredTags []string
	// Dial connects to an instance's address, for health checks and for load balancers; nil: there
	// are no target groups.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	Seed uint64 // of ids, latencies and lags; 0: from the clock
	Log  *slog.Logger
}

// Account is one AWS account in one Region. It is safe for use by many goroutines. Close it.
type Account struct {
	opts    Options
	log     *slog.Logger
	actions map[string]action
	ctx     context.Context // ends with Close; the context of all that goes on between requests
	stop    context.CancelFunc
	tasks   sync.WaitGroup

	mu           sync.Mutex // guards all below; never held while waiting or while Hardware works
	closed       bool
	rng          *rand.Rand
	defaultKey   string        // of EncryptByDefault
	changed      chan struct{} // closed and replaced at every change of state
	oldAt        time.Time     // what Old said
	oldReads     int
	volumes      store[Volume]
	snapshots    store[Snapshot]
	instances    store[Instance]
	groups       store[Group]
	templates    store[Template]
	targetGroups store[TargetGroup]
	checks       map[string]context.CancelFunc // of targets, by targetKey
	inFlight     map[string]int                // requests of load balancers, by targetKey
	disks        map[string]*disk
	machines     map[string]*machine
	images       map[string]*sync.WaitGroup // snapshot id -> volumes that are being filled from it
	cancelled    map[string]string          // snapshot id -> volume id: deleted while pending, and still uploaded
	tokens       map[string]clientToken
	keys         map[string]accessKey
	buckets      map[string]*bucket
	faults       []*armed
	calls        []Call
	admin        Credentials
	clocks       map[string]time.Duration // by instance: how far its clock is ahead
	lifecycle    string                   // of the buckets in S3
}

// New makes an account.
func New(opts Options) (*Account, error) {
	if opts.Hardware == nil {
		return nil, errors.New("new account: Options.Hardware is missing")
	}
	if opts.Region == "" {
		opts.Region = "us-east-1"
	}
	if len(opts.Zones) == 0 {
		opts.Zones = []string{opts.Region + "a", opts.Region + "b"}
	}
	if opts.AccountID == "" {
		opts.AccountID = "123456789012"
	}
	if !opts.Subnet.IsValid() {
		opts.Subnet = netip.MustParsePrefix("10.0.0.0/16")
	}
	if opts.Subnet.Bits() > 28 || !opts.Subnet.Addr().Is4() {
		// "The allowed block size is between a /28 netmask and /16 netmask" (VPC User Guide,
		// "Subnet CIDR blocks").
		return nil, fmt.Errorf("new account: subnet %s: want an IPv4 prefix of /28 or wider", opts.Subnet)
	}
	if opts.Seed == 0 {
		opts.Seed = uint64(time.Now().UnixNano())
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	a := &Account{
		opts:      opts,
		log:       opts.Log,
		actions:   actions(),
		rng:       rand.New(rand.NewPCG(opts.Seed, 0xeb5)),
		changed:   make(chan struct{}),
		disks:     map[string]*disk{},
		machines:  map[string]*machine{},
		images:    map[string]*sync.WaitGroup{},
		cancelled: map[string]string{},
		tokens:    map[string]clientToken{},
		keys:      map[string]accessKey{},
		buckets:   map[string]*bucket{},
		clocks:    map[string]time.Duration{},
		checks:    map[string]context.CancelFunc{},
		inFlight:  map[string]int{},
	}
	keep := opts.Latency.Lag.Max
	a.volumes, a.snapshots = newStore[Volume](keep), newStore[Snapshot](keep)
	a.instances, a.groups = newStore[Instance](keep), newStore[Group](keep)
	a.templates = newStore[Template](keep)
	a.targetGroups = newStore[TargetGroup](max(keep, opts.Latency.Routing))
	a.ctx, a.stop = context.WithCancel(context.Background())
	a.admin = a.mint("AKIA", Principal{
		ARN:     fmt.Sprintf("arn:aws:iam::%s:user/admin", opts.AccountID),
		UserID:  "AIDA" + a.token(17),
		Account: opts.AccountID,
	}, time.Time{})
	a.log.Debug("account made", "region", opts.Region, "seed", opts.Seed)
	return a, nil
}

// Close ends everything that goes on in the account and waits for it. It terminates no instance and
// deletes no volume: Hardware's owner does.
func (a *Account) Close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.stop()
	a.tasks.Wait()
}

// Region returns the account's Region.
func (a *Account) Region() string { return a.opts.Region }

// Admin returns the long-term access key of the account's owner.
func (a *Account) Admin() Credentials { return a.admin }

// Changed returns a channel that is closed at the next change of any state: look at the state after
// taking it, then wait for it.
func (a *Account) Changed() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.changed
}

// Wait returns when ok says so; ok is asked again after every change of state. The error is ctx's.
func (a *Account) Wait(ctx context.Context, ok func() bool) error {
	for {
		changed := a.Changed()
		if ok() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Volumes returns the true state of the account, as Snapshots, Instances and Groups do: in the
// order of creation, no lag, no filters.
func (a *Account) Volumes() []Volume { return all(a, &a.volumes) }

// Snapshots returns all snapshots.
func (a *Account) Snapshots() []Snapshot { return all(a, &a.snapshots) }

// Instances returns all instances, terminated ones included.
func (a *Account) Instances() []Instance { return all(a, &a.instances) }

// Groups returns all Auto Scaling groups.
func (a *Account) Groups() []Group { return all(a, &a.groups) }

func all[T any](a *Account, s *store[T]) []T {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []T
	for _, e := range s.list(time.Now()) {
		out = append(out, e.value)
	}
	return out
}

// notify wakes everyone who waits for a change. mu is held.
func (a *Account) notify() {
	close(a.changed)
	a.changed = make(chan struct{})
}

// spawn runs task beside the request that caused it; Close waits for it. mu is held.
func (a *Account) spawn(task func(ctx context.Context)) {
	if a.closed {
		return
	}
	a.tasks.Go(func() { task(a.ctx) })
}

// sample draws a duration. mu is held.
func (a *Account) sample(d Dist) time.Duration { return d.draw(a.rng) }

// Old has the next reads of volumes served as of a moment (row 5: EC2's answers go back in time).
// Lag.Max is how long ago that may be: so much is kept.
func (a *Account) Old(at time.Time, reads int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.oldAt, a.oldReads = at, reads
}

// asOf draws the time that an action is served as of. mu is held.
func (a *Account) asOf(action string) time.Time {
	now := time.Now()
	if action == "DescribeVolumes" && a.oldReads > 0 {
		a.oldReads--
		return a.oldAt
	}
	lag := a.opts.Latency.Lag
	if lag.Max > 0 && a.rng.Float64() < lag.Chance {
		return now.Add(-time.Duration(a.rng.Int64N(int64(lag.Max))))
	}
	return now
}

// newID makes a resource id in the long form: 17 hexadecimal digits (EC2 User Guide, "Resource
// IDs"). mu is held.
func (a *Account) newID(prefix string) string { return prefix + fmt.Sprintf("0%016x", a.rng.Uint64()) }

// token makes n characters of an AWS unique id: capital letters and digits. mu is held.
func (a *Account) token(n int) string {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
	out := make([]byte, n)
	for i := range out {
		out[i] = letters[a.rng.IntN(len(letters))]
	}
	return string(out)
}

func (a *Account) requestID() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.uuid()
}

// uuid makes an id in the form of a UUID. mu is held.
func (a *Account) uuid() string {
	hi, lo := a.rng.Uint64(), a.rng.Uint64()
	return fmt.Sprintf("%08x-%04x-%04x-%04x-%012x", hi>>32, hi>>16&0xffff, hi&0xffff, lo>>48, lo&0xffffffffffff)
}

// pause waits for d or for ctx's end; it says whether d has passed.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// lane lets Hardware calls for one resource follow one another. (A channel, not a sync.Mutex:
// waiting for it lets the clock of a synctest bubble go on.)
type lane chan struct{}

func newLane() lane { return make(lane, 1) }

// do runs f when no one else is in the lane. The error is ctx's.
func (l lane) do(ctx context.Context, f func() error) error {
	select {
	case l <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-l }()
	if err := ctx.Err(); err != nil {
		return err
	}
	return f()
}
