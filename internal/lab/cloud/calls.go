package cloud

import (
	"slices"
	"time"
)

// Call is one request that reached the account, metadata requests included.
type Call struct {
	N         int    // from 1, in order of arrival
	Service   string // ec2, autoscaling, elasticloadbalancing, sts, s3, imds
	Action    string // DescribeVolumes; for imds "GET /latest/meta-data/instance-id"
	Principal string // the instance's id, "admin", or "" when the signature was no good
	Resource  string // the id that the call was about, "" for none; for a create call that succeeded, what it made
	DryRun    bool
	Unpaged   bool // a Describe of EC2 that names no ids, and has no MaxResults (row 42)
	Mutates   bool // of a kind that changes something
	Start     time.Time
	Duration  time.Duration
	Status    int    // HTTP status; 0 when no answer was sent (yet)
	Code      string // AWS error code, "" for success
	Faulted   bool   // a Fault took part
}

// Calls returns all requests so far.
func (a *Account) Calls() []Call {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.calls)
}

// CallsBy returns the requests of one principal (an instance's id, or "admin"), without the
// metadata requests.
func (a *Account) CallsBy(principal string) []Call {
	var out []Call
	for _, c := range a.Calls() {
		if c.Principal == principal && c.Service != "imds" {
			out = append(out, c)
		}
	}
	return out
}

// arrive records a request and returns its number.
func (a *Account) arrive(c Call) Call {
	a.mu.Lock()
	defer a.mu.Unlock()
	c.N, c.Start = len(a.calls)+1, time.Now()
	a.calls = append(a.calls, c)
	return c
}

// finish records how a request ended.
func (a *Account) finish(c Call) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c.Duration = time.Since(c.Start)
	a.calls[c.N-1] = c
}
