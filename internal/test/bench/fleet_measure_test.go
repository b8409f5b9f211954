package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"ebs-release/internal/lab/host"
)

// figures are what one way to bring a change to all members cost.
type figures struct {
	wall      time.Duration
	pusher    time.Duration // CPU of all processes that the method ran on the release server
	members   time.Duration // CPU of all processes of all members
	bytes     int64         // that went over the release server's network card, both ways
	converged time.Duration // of that wall: P3 and P5
}

// measure runs a script on the release server, between two readings of the meters. The script's CPU
// is what bash says it and all its children took, ssh and rsync included (times: getrusage(2),
// which counts a child when it was waited for; all of them are).
func (f *fleet) measure(script string) (figures, string) {
	f.Helper()
	bytes, members := f.bytes(), f.membersCPU()
	start := time.Now()
	out, err := f.server.Run(within(f, 30*time.Minute), "bash", "-uc", script+"\ncode=$?; times >&2; exit $code")
	var got figures
	got.wall = time.Since(start)
	if err != nil {
		f.Fatalf("%v\n%s", err, out.Stdout)
	}
	got.bytes, got.members = f.bytes()-bytes, f.membersCPU()-members
	lines := strings.Split(strings.TrimSpace(out.Stderr), "\n")
	for _, line := range lines[len(lines)-2:] {
		for word := range strings.FieldsSeq(line) {
			d, err := time.ParseDuration(word)
			must(f, err)
			got.pusher += d
		}
	}
	return got, out.Stdout
}

// bytes are what the release server's network card has received and sent. Its calls of EC2 and the
// pointer are in it.
func (f *fleet) bytes() int64 {
	f.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", f.server.PID()))
	must(f, err)
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); fields[0] == "eth0:" {
			received, err1 := strconv.ParseInt(fields[1], 10, 64)
			sent, err2 := strconv.ParseInt(fields[9], 10, 64)
			must(f, err1)
			must(f, err2)
			return received + sent
		}
	}
	f.Fatalf("no eth0 in\n%s", data)
	return 0
}

func (f *fleet) membersCPU() (sum time.Duration) {
	f.Helper()
	for _, h := range f.members {
		sum += cpuOf(h)
	}
	return sum
}

// cpuOf adds up what the processes of a host and their children that are gone have taken; in steps
// of 10 ms for each process.
func cpuOf(h *host.Host) (sum time.Duration) {
	stats, _ := filepath.Glob(h.Path("/proc/[0-9]*/stat"))
	for _, name := range stats {
		data, err := os.ReadFile(name)
		if err != nil {
			continue // it ended meanwhile; its parent has its figures
		}
		_, rest, _ := strings.Cut(string(data), ") ")
		fields := strings.Fields(rest)
		for _, field := range fields[11:15] { // utime stime cutime cstime
			ticks, _ := strconv.ParseInt(field, 10, 64)
			sum += time.Duration(ticks) * 10 * time.Millisecond
		}
	}
	return sum
}
