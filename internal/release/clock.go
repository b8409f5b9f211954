package release

import (
	"time"

	"golang.org/x/sys/unix"
)

// justNow is a time that every later write to a file is after, and every earlier one before. The
// kernel stamps files with a clock that goes in steps of 1 to 10 ms (CONFIG_HZ): it waits for the
// next one. Futimes knows microseconds.
func justNow() (unix.Timespec, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME, &now); err != nil {
		return now, err
	}
	step, err := stepAfter(now)
	if err != nil {
		return step, err
	}
	return unix.NsecToTimespec((step.Nano()/1000 - 1) * 1000), nil
}

// stepAfter waits until the clock that files are stamped with is past a time that is now, and
// returns what it shows then.
func stepAfter(now unix.Timespec) (step unix.Timespec, err error) {
	for tries := 0; tries < 100; tries++ { // the clock may be put back meanwhile
		if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &step); err != nil || isAfter(step, now) {
			return step, err
		}
		time.Sleep(time.Millisecond)
	}
	return step, nil
}

func isAfter(t, than unix.Timespec) bool {
	return t.Sec > than.Sec || t.Sec == than.Sec && t.Nsec > than.Nsec
}
