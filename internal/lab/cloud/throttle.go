package cloud

import (
	"net/http"
	"time"
)

// bucket is the state of one token bucket.
type bucket struct {
	tokens float64
	at     time.Time
}

// admit takes a token for a call, or says RequestLimitExceeded ("Request throttling for the Amazon
// EC2 API": each API has its own bucket, per account and Region; row 16). unfiltered is a
// DescribeInstances, DescribeSnapshots or DescribeVolumes call "without specifying either
// pagination or a filter": ids are neither.
func (a *Account) admit(service, name string, mutates, unfiltered bool) error {
	limits := a.opts.Latency.Limits
	limit, own := limits.Actions[name]
	key := service + "/" + name
	switch {
	case service == "sts":
		limit, key = limits.STS, service
	case service == "autoscaling":
		limit = limits.AutoScaling
	case service == "elasticloadbalancing":
		limit = limits.Balancing
	case own:
	case mutates:
		limit = limits.Write
	case unfiltered:
		limit, key = limits.Unfiltered, key+"/unfiltered"
	default:
		limit = limits.Read
	}
	if limit.Capacity <= 0 {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	b, ok := a.buckets[key]
	if !ok {
		b = &bucket{tokens: limit.Capacity, at: now}
		a.buckets[key] = b
	}
	b.tokens = min(limit.Capacity, b.tokens+now.Sub(b.at).Seconds()*limit.PerSecond)
	b.at = now
	if b.tokens < 1 {
		return throttled(service)
	}
	b.tokens--
	return nil
}

// throttled is the answer to a call too many: EC2's API reference ("Common client error codes":
// RequestLimitExceeded, answered with 503), and the "Common errors" of Auto Scaling and of Elastic
// Load Balancing (Throttling, 400), which STS says, too (AWS re:Post, "How do I resolve API
// throttling or Rate exceeded errors for IAM and AWS STS?").
func throttled(service string) *apiError {
	if service == "ec2" {
		return &apiError{"RequestLimitExceeded", "Request limit exceeded.", http.StatusServiceUnavailable}
	}
	if service == "s3" { // "Error responses", S3 API reference
		return &apiError{"SlowDown", "Please reduce your request rate.", http.StatusServiceUnavailable}
	}
	return &apiError{"Throttling", "Rate exceeded", http.StatusBadRequest}
}
