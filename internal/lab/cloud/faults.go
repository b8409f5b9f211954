package cloud

import (
	"net/http"
	"strings"
	"time"
)

// Fault makes matching calls go wrong. Empty patterns match everything; * and ? are wildcards.
// Several faults may be armed: each counts the calls that match it, the one armed first that is due
// takes the call.
type Fault struct {
	Action    string // "CreateVolume", "Describe*", "PUT /latest/api/token", "GET /latest/*" (metadata requests have method and path)
	Principal string // instance id, or "admin"
	Resource  string // the id that the call is about (Call.Resource)
	Skip      int    // let this many matching calls pass first
	Times     int    // then take this many; 0: all
	Effect    Effect
}

// Failure says how a call fails.
type Failure int

// The failures. What they look like depends on the service and the action.
const (
	Succeed      Failure = iota
	Throttle             // RequestLimitExceeded, Throttling, SlowDown; metadata: 503
	ServerError          // InternalError, 500
	NotFound             // the InvalidX.NotFound that the action has; metadata: 404
	Unauthorized         // UnauthorizedOperation, AccessDenied; metadata: 401
	Reset                // the connection breaks without an answer
	Hang                 // no answer until the client leaves
	Answer               // the error in Effect.Code, Message and Status
)

// Effect is what a Fault does: first Delay, then Do, then Fail.
type Effect struct {
	Delay   time.Duration
	Do      func(Call) // called in the middle of the request, for instance to kill a process or to change the world
	Fail    Failure
	After   bool // Do and Fail come after the call took effect: the answer is lost. Not for Succeed
	Code    string
	Message string
	Status  int // default 400
	Disk    DiskFault

	// Reply answers a call of S3, which the policies allow, in its own way, instead of all that is
	// above but Delay.
	Reply func(http.ResponseWriter)
}

// DiskFault is what goes wrong behind a call that was answered well. A call that was refused does
// not count.
type DiskFault struct {
	// Vanish: the volume that CreateVolume made is gone after this time, as encrypted ones without
	// the right to their key (row 3). 0: does not.
	Vanish time.Duration
	// Error: the volume that CreateVolume made, or the snapshot that CreateSnapshot made, ends in
	// state error (rows 2 and 19).
	Error bool

	Stuck    bool          // AttachVolume: the API says attaching for ever (row 6); the device does not come either
	Late     time.Duration // AttachVolume: the device comes so much later; the API says attached in time (row 9)
	Never    bool          // AttachVolume: the device never comes; the API says attached
	SizeZero time.Duration // AttachVolume: the device has size 0 for so long (row 9)
	Serial   string        // AttachVolume: the device has this serial; "-" an empty one (row 8)
}

type armed struct {
	Fault
	seen int
}

// Fault arms a fault; call the function that it returns to disarm it.
func (a *Account) Fault(f Fault) (disarm func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	it := &armed{Fault: f}
	a.faults = append(a.faults, it)
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		for i, other := range a.faults {
			if other == it {
				a.faults = append(a.faults[:i:i], a.faults[i+1:]...)
				return
			}
		}
	}
}

// fault finds what is to happen to a call: nothing without an armed fault.
func (a *Account) fault(c Call) (Effect, *armed) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var found *armed
	for _, f := range a.faults {
		if !(like(f.Action, c.Action) && like(f.Principal, c.Principal) && like(f.Resource, c.Resource)) {
			continue
		}
		f.seen++
		if found == nil && f.seen > f.Skip && (f.Times == 0 || f.seen <= f.Skip+f.Times) {
			found = f
		}
	}
	if found == nil {
		return Effect{}, nil
	}
	return found.Effect, found
}

// refused takes back that a call was counted, whose disk was to be faulty.
func (a *Account) refused(f *armed) {
	if f == nil || f.Effect.Disk == (DiskFault{}) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	f.seen--
}

func like(pattern, s string) bool { return pattern == "" || wildcard(pattern, s) }

// strike applies the failing part of an effect. It returns the error to answer with, nil to go on,
// or does not return: a broken connection ends the handler by http.ErrAbortHandler.
func (e Effect) strike(r *http.Request, a *Account, c Call) *apiError {
	if e.Do != nil {
		e.Do(c)
	}
	switch e.Fail {
	case Succeed:
		return nil
	case Reset:
		panic(http.ErrAbortHandler)
	case Hang:
		select {
		case <-r.Context().Done():
		case <-a.ctx.Done():
		}
		panic(http.ErrAbortHandler)
	case Throttle:
		if c.Service == "imds" {
			return &apiError{"", "", http.StatusServiceUnavailable}
		}
		return throttled(c.Service)
	case ServerError:
		return &apiError{"InternalError", "An internal error has occurred", http.StatusInternalServerError}
	case NotFound:
		if c.Service == "imds" {
			return &apiError{"", "", http.StatusNotFound}
		}
		return missing(c)
	case Unauthorized:
		if c.Service == "imds" {
			return &apiError{"", "", http.StatusUnauthorized}
		}
		return unauthorized(c.Service, c.Principal, c.Service+":"+c.Action, "*")
	}
	status := e.Status
	if status == 0 {
		status = http.StatusBadRequest
	}
	return &apiError{e.Code, e.Message, status}
}

// missing is the not-found error that fits the call.
func missing(c Call) *apiError {
	switch {
	case c.Service == "s3":
		return &apiError{"NoSuchKey", "The specified key does not exist.", http.StatusNotFound}
	case c.Service != "ec2":
		return fail("ValidationError", "AutoScalingGroup name not found - null")
	case strings.HasPrefix(c.Resource, "vol-"):
		return notFound("volume", c.Resource)
	case strings.HasPrefix(c.Resource, "snap-"):
		return notFound("snapshot", c.Resource)
	case strings.HasPrefix(c.Resource, "i-"):
		return notFound("instance", c.Resource)
	case strings.Contains(c.Action, "Instance"):
		return notFound("instance", "i-0000000000000dead")
	case strings.Contains(c.Action, "Snapshot"):
		return notFound("snapshot", "snap-0000000000000dead")
	}
	return notFound("volume", "vol-0000000000000dead")
}
