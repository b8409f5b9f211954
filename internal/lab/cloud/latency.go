package cloud

import (
	"math"
	"math/rand/v2"
	"time"
)

// Dist is how long something takes: log-normal, given by its median and its 99th percentile. Median
// alone is a fixed time.
type Dist struct{ Median, P99 time.Duration }

// Fixed is a time that never varies.
func Fixed(d time.Duration) Dist { return Dist{Median: d} }

// draw samples d; a sample is never longer than twice the 99th percentile, so that a run ends.
func (d Dist) draw(rng *rand.Rand) time.Duration {
	if d.P99 <= d.Median || d.Median <= 0 {
		return d.Median
	}
	const z99 = 2.326 // the 99th percentile of the normal distribution, in sigmas
	sigma := math.Log(float64(d.P99)/float64(d.Median)) / z99
	return min(time.Duration(float64(d.Median)*math.Exp(sigma*rng.NormFloat64())), 2*d.P99)
}

// LatencyTable says how long EC2 takes. The zero table takes no time, has no lag and no request
// limits; states are still passed one by one.
type LatencyTable struct {
	Read  Dist // until a Describe call is answered
	Write Dist // until a call that changes something is answered; it takes effect half way
	IMDS  Dist
	S3    Dist // until a request of S3 is answered

	Volume       Dist // CreateVolume -> available
	Device       Dist // AttachVolume -> the disk is in the instance's kernel
	Attached     Dist // AttachVolume -> the API says attached
	Detach       Dist // DetachVolume -> available
	DeleteVolume Dist // DeleteVolume -> not found
	Snapshot     Dist // CreateSnapshot -> completed

	Initialized time.Duration // EBS has loaded blocks -> DescribeVolumeStatus says so, at most

	Power    Dist // RunInstances, StartInstances -> the machine has power
	Running  Dist // RunInstances, StartInstances -> the API says running
	Shutdown Dist // Stop- or TerminateInstances -> stopped, terminated
	Scaling  Dist // Auto Scaling: a difference from the desired capacity -> acting on it
	Replace  Dist // Auto Scaling: an unhealthy member -> its way out begins

	Register Dist          // registration in a target group -> the first health check
	Routing  time.Duration // a target's new state -> the load balancer goes by it
	Hook     Dist          // Auto Scaling: an instance runs -> it waits for the launch hook (row 37)

	// Terminated is how long a terminated instance stays visible; 0 means an hour ("approximately
	// one hour", TerminateInstances).
	Terminated time.Duration
	Lag        Lag
	Limits     Limits
}

// Lag makes reads old: with this chance, a call is served as of a moment up to Max ago (row 5). AWS
// publishes no figures.
type Lag struct {
	Chance float64 // 0 to 1
	Max    time.Duration
}

// Limits are the token buckets of request throttling; a zero bucket does not limit.
type Limits struct {
	Read, Unfiltered, Write Bucket
	Actions                 map[string]Bucket // by action, before the three above
	AutoScaling, Balancing  Bucket
	STS                     Bucket // all its actions take from one
}

// Bucket is a token bucket: this many calls at once, then this many a second.
type Bucket struct{ Capacity, PerSecond float64 }

// Realistic is the published timing of EC2 (failures.md, last paragraph), where there is any.
func Realistic() LatencyTable {
	return LatencyTable{
		Read:  Dist{200 * time.Millisecond, 500 * time.Millisecond}, // DescribeVolumes 0.2 s
		Write: Dist{300 * time.Millisecond, 800 * time.Millisecond}, // AttachVolume answers in about 0.3 s
		IMDS:  Fixed(time.Millisecond),
		// "small object latencies … of roughly 100-200 milliseconds" (S3 User Guide, "Best practices
		// design patterns: optimizing Amazon S3 performance").
		S3: Dist{150 * time.Millisecond, 200 * time.Millisecond},

		Volume:       Dist{1500 * time.Millisecond, 4 * time.Second}, // CSI: median 1.5 s, p99 4 s
		Device:       Dist{1200 * time.Millisecond, 3 * time.Second}, // below the next line: the kernel sees it first (NVMe probe about 0.1 s)
		Attached:     Dist{2 * time.Second, 4 * time.Second},         // kubernetes #56974: 1 to 4 s
		Detach:       Dist{2 * time.Second, 6 * time.Second},         // no figure published
		DeleteVolume: Dist{time.Second, 4 * time.Second},             // no figure published
		Snapshot:     Dist{15 * time.Second, 60 * time.Second},       // no figure published: by the number of blocks changed

		Initialized: 5 * time.Minute, // VolumeStatusItem, "up to 5 minutes"

		Power:    Dist{2 * time.Second, 5 * time.Second},   // no figure published
		Running:  Dist{8 * time.Second, 20 * time.Second},  // no figure published; longer than Power and the agent's start together (row 1)
		Shutdown: Dist{10 * time.Second, 40 * time.Second}, // no figure published
		Scaling:  Dist{2 * time.Second, 10 * time.Second},  // no figure published
		Hook:     Dist{2 * time.Second, 15 * time.Second},  // no figure published; longer than a short boot (row 37)

		Replace:  Dist{5 * time.Second, 30 * time.Second}, // no figure published
		Register: Dist{3 * time.Second, 10 * time.Second}, // no figure published
		Routing:  time.Second,                             // no figure published

		Lag:    Lag{Chance: 0.1, Max: time.Second},
		Limits: AWSLimits(),
	}
}

// AWSLimits are the examples of "Request throttling for the Amazon EC2 API", table "Request token
// bucket sizes and refill rates": per account and Region, each API on its own.
func AWSLimits() Limits {
	return Limits{
		Read:       Bucket{100, 20}, // "Non-mutating actions"
		Unfiltered: Bucket{50, 10},  // "Unfiltered and unpaginated non-mutating actions"
		Write:      Bucket{50, 5},   // "Mutating actions"
		Actions: map[string]Bucket{
			"CreateVolume":       {100, 5}, // the same table
			"CreateSnapshot":     {100, 5},
			"DeleteSnapshot":     {100, 5},
			"DeleteVolume":       {100, 5},
			"CreateTags":         {100, 10},
			"DeleteTags":         {100, 10},
			"RunInstances":       {5, 2},
			"StartInstances":     {5, 2},
			"TerminateInstances": {100, 5},
		},
		AutoScaling: Bucket{100, 10},  // Auto Scaling publishes none ("API request rate": throttled per account); ours
		Balancing:   Bucket{40, 10},   // nor does Elastic Load Balancing; ours
		STS:         Bucket{600, 600}, // 600 a second, per account and Region (IAM User Guide, "IAM and AWS STS quotas")
	}
}
