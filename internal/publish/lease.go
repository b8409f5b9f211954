package publish

import (
	"time"

	"ebs-release/internal/pointer"
)

// leaseTime is how long a driver may be silent before another may take its place. It writes again
// when less than leaseLeft of that is left: in between come a look at all members and EC2's worst.
const (
	leaseTime = 5 * time.Minute
	leaseLeft = 3 * time.Minute
)

// mostAhead is how much later than ours the clock of a driver may be: more than that S3 takes from
// nobody (its error RequestTimeTooSkewed, 15 minutes). Without a limit, one that was wrong by days
// when its server died would keep everybody else off for days.
const mostAhead = 15 * time.Minute

// Driven says whether somebody is at work on a rollout: anybody else leaves it alone.
func Driven(ro pointer.Rollout, now time.Time) bool {
	left := ro.Until.Sub(now)
	return ro.Paused == "" && left > 0 && left <= leaseTime+mostAhead
}

func lease(now time.Time) (until time.Time) { return second(now).Add(leaseTime) }
