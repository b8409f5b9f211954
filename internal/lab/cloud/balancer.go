package cloud

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"
)

// Balancer stands for an Application Load Balancer with one target group: an HTTP proxy that sends
// each request to the next of the targets that are healthy and not draining, as it knows them
// (LatencyTable.Routing). It is stricter than the real one, which sends requests to all targets
// when none is healthy: here such a request fails.
type Balancer struct {
	account *Account
	arn     string
	proxy   *httputil.ReverseProxy

	mu    sync.Mutex
	turn  int
	count BalancerCount
}

// BalancerCount is what a load balancer has done so far. A request has failed when no target
// answered it whole, or one did with a status of 500 or above.
type BalancerCount struct {
	Requests, Failed int
	ByTarget         map[string]int // by instance id
	Why              []string       // the first failures
}

const failuresKept = 20

type targetOfRequest struct{} // key of a request's context

// Balancer makes a load balancer for a target group.
func (a *Account) Balancer(arn string) *Balancer {
	b := &Balancer{account: a, arn: arn, count: BalancerCount{ByTarget: map[string]int{}}}
	b.proxy = &httputil.ReverseProxy{
		// A new connection for each request: what an idle one that its target closed does to a
		// request is no question of rollouts.
		Transport: &http.Transport{DialContext: a.opts.Dial, DisableKeepAlives: true, ResponseHeaderTimeout: time.Minute},
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(r.In.Context().Value(targetOfRequest{}).(*url.URL))
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			b.failed(err)
			w.WriteHeader(http.StatusBadGateway)
		},
		ModifyResponse: func(r *http.Response) error {
			if r.StatusCode >= http.StatusInternalServerError {
				b.failed(errors.New(r.Status))
			}
			return nil
		},
	}
	return b
}

// Count returns what it has done so far.
func (b *Balancer) Count() BalancerCount {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := b.count
	out.ByTarget = map[string]int{}
	for id, n := range b.count.ByTarget {
		out.ByTarget[id] = n
	}
	out.Why = append([]string(nil), b.count.Why...)
	return out
}

func (b *Balancer) failed(why error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count.Failed++
	if len(b.count.Why) < failuresKept {
		b.count.Why = append(b.count.Why, time.Now().Format("15:04:05.000 ")+why.Error())
	}
}

// ServeHTTP sends a request to a target.
func (b *Balancer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	turn := b.turn
	b.turn++
	b.count.Requests++
	b.mu.Unlock()
	id, place, done := b.account.route(b.arn, turn)
	if id == "" {
		b.failed(errors.New("no target is healthy"))
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	defer done()
	b.mu.Lock()
	b.count.ByTarget[id]++
	b.mu.Unlock()
	defer func() { // the proxy ends so when an answer breaks off
		if p := recover(); p != nil {
			b.failed(fmt.Errorf("the answer of %s broke off", id))
			panic(p)
		}
	}()
	b.proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), targetOfRequest{}, place)))
}

// route chooses a target by turns, and counts the request in flight until done is called.
func (a *Account) route(arn string, turn int) (instanceID string, place *url.URL, done func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	g, _ := a.targetGroups.getAsOf(arn, time.Now().Add(-a.opts.Latency.Routing))
	var open []string
	for _, t := range g.Targets {
		if g.shown(t.InstanceID).State == targetHealthy {
			open = append(open, t.InstanceID)
		}
	}
	if len(open) == 0 {
		return "", nil, nil
	}
	id := open[turn%len(open)]
	i, _ := a.instances.get(id)
	key := targetKey(arn, id)
	a.inFlight[key]++
	return id, &url.URL{Scheme: "http", Host: fmt.Sprintf("%s:%d", i.Address, g.Port)}, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.inFlight[key]--; a.inFlight[key] == 0 {
			delete(a.inFlight, key)
			if now, _ := a.targetGroups.get(arn); now.shown(id).State == targetDraining {
				a.notify() // who waits for its end
			}
		}
	}
}
