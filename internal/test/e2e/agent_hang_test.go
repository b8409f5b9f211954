package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/host"

	"golang.org/x/sys/unix"
)

// hangPoint is something that a boot waits for, and that does not come.
type hangPoint struct {
	name  string
	setup func(ctx context.Context, r *rig, s *supervised, c *host.Command) (disarm func() error, err error)
}

const (
	hangDeadline = 6 * time.Second
	// hangSlack is what a boot that is late may take beyond its deadline: to give up a process that
	// hangs, on a busy machine.
	hangSlack = 15 * time.Second
)

// stageLine is the line that a boot ends with when it fails.
var stageLine = regexp.MustCompile(`^(<3>)?ebs-release-agent: [a-z -]+: .*Try: `)

// TestAgentHangMatrix blocks each thing that a boot waits for, in turn, for as long as the boot
// lives: every request, every system call of the child that touches the disk, every output, and the
// locks of others. The points are recorded from a run, as those of the crash matrix. Every boot
// ends within its deadline, ready or with the line of a stage, and lets go of its lock: the next
// one is ready.
func TestAgentHangMatrix(t *testing.T) {
	r := published(t, func(o *lab.Options) { o.AgentSettings["deadline"] = "60s" })
	p := r.pointerNow()
	started := time.Now()
	points := append(r.recordHangPoints(), outputPoints()...)
	each(t, len(points), 12, func(i int) error {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		h, err := r.launch(ctx, r.idle())
		if err != nil {
			return err
		}
		if err := r.hang(ctx, h, points[i], func(readies int) error { return r.served(h, p, "one", readies) }); err != nil {
			return fmt.Errorf("point %d, %s: %w", i+1, points[i].name, err)
		}
		return nil
	})
	fmt.Printf("hang matrix: %d points\n", len(points))
	t.Logf("%d points, %s", len(points), time.Since(started).Round(time.Second))
}

// recordHangPoints runs the agent once.
func (r *rig) recordHangPoints() (points []hangPoint) {
	r.Helper()
	h := r.machine()
	trace := diskTracer(0)
	out := (&supervised{host: h, start: trace.attach}).up(within(r, 60*time.Second))
	must(r, <-trace.done)
	if out.Code != 0 {
		r.Fatalf("the recorded run: exit %d\n%s", out.Code, out.Stderr)
	}
	for i, what := range trace.seen {
		points = append(points, hangPoint{"at " + what, func(_ context.Context, _ *rig, s *supervised, _ *host.Command) (func() error, error) {
			trace := diskTracer(i + 1)
			s.start = trace.attach
			return func() error { return <-trace.done }, nil
		}})
	}
	for n, c := range r.requests(h) {
		points = append(points, hangPoint{"no answer to " + c.Service + " " + c.Action, func(_ context.Context, r *rig, s *supervised, _ *host.Command) (func() error, error) {
			disarm := r.lab.Account.Fault(cloud.Fault{Principal: s.host.ID, Skip: n, Effect: cloud.Effect{Fail: cloud.Hang}})
			return func() error { disarm(); return nil }, nil
		}})
	}
	must(r, r.gone(within(r, 30*time.Second), h))
	return points
}

// diskTracer sees what the child of the agent waits for that the disk, or the kernel for it, may
// not do. It gets no further than holdAt.
func diskTracer(holdAt int) *tracer {
	return &tracer{program: "ebs-release-agent", effect: diskEffect, killAt: holdAt, hold: true}
}

var diskCalls = map[uint64]string{
	unix.SYS_OPENAT: "openat", unix.SYS_OPENAT2: "openat2", unix.SYS_READ: "read", unix.SYS_PREAD64: "pread64", unix.SYS_GETDENTS64: "getdents64",
	unix.SYS_READLINKAT: "readlinkat", unix.SYS_FLOCK: "flock", unix.SYS_FSYNC: "fsync", unix.SYS_SYNCFS: "syncfs", unix.SYS_FSOPEN: "fsopen",
	unix.SYS_FSCONFIG: "fsconfig", unix.SYS_FSMOUNT: "fsmount", unix.SYS_MOVE_MOUNT: "move_mount", unix.SYS_UMOUNT2: "umount2",
}

func diskEffect(s syscallEntry) string {
	name := diskCalls[s.nr]
	if name == "" {
		return ""
	}
	command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", s.pid))
	if !bytes.HasSuffix(command, []byte("\x00disk-work\x00")) {
		return ""
	}
	about := ""
	switch s.nr {
	case unix.SYS_OPENAT:
		about = s.path(0)
	case unix.SYS_READ, unix.SYS_PREAD64, unix.SYS_GETDENTS64, unix.SYS_READLINKAT, unix.SYS_FLOCK, unix.SYS_FSYNC, unix.SYS_SYNCFS:
		about = s.fd(0)
	case unix.SYS_FSCONFIG:
		return fmt.Sprintf("%s %d", name, s.args[1])
	default:
		return name
	}
	for _, memory := range []string{"/proc/", "/sys/", "pipe:", "anon_inode:"} { // no disk is behind these
		if strings.HasPrefix(about, memory) && !strings.HasPrefix(about, "/proc/self/fd/") {
			return ""
		}
	}
	return name + " " + plain(about)
}

// outputPoints are what the agent says things to, and the locks of others.
func outputPoints() []hangPoint {
	return []hangPoint{
		{"nobody reads stderr", func(_ context.Context, _ *rig, s *supervised, c *host.Command) (func() error, error) {
			fifo := s.host.Path("/run/stderr")
			end, err := fullPipe(fifo)
			c.Argv = append([]string{"sh", "-c", `exec "$@" 2>/run/stderr`, "sh"}, c.Argv...)
			return end, err
		}},
		{"nobody reads stdout", func(_ context.Context, _ *rig, s *supervised, c *host.Command) (func() error, error) {
			fifo := s.host.Path("/run/stdout")
			end, err := fullPipe(fifo)
			c.Argv = append([]string{"sh", "-c", `exec "$@" >/run/stdout`, "sh"}, c.Argv...)
			return end, err
		}},
		{"systemd does not read", func(_ context.Context, _ *rig, s *supervised, c *host.Command) (func() error, error) {
			c.Env = []string{"NOTIFY_SOCKET=/run/silent"}
			return fullSocket(s.host.Path("/run/silent"))
		}},
		{"the journal does not read", func(_ context.Context, _ *rig, s *supervised, c *host.Command) (func() error, error) {
			if err := os.MkdirAll(s.host.Path("/run/systemd/journal"), 0o755); err != nil {
				return nil, err
			}
			// stderr must be the very stream that JOURNAL_STREAM names.
			c.Argv = append([]string{"sh", "-c", `JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) exec "$@"`, "sh"}, c.Argv...)
			return fullSocket(s.host.Path("/run/systemd/journal/socket"))
		}},
		{"another up holds the lock", func(_ context.Context, _ *rig, s *supervised, _ *host.Command) (func() error, error) {
			if err := os.MkdirAll(s.host.Path("/run/ebs-release"), 0o755); err != nil {
				return nil, err
			}
			f, err := os.OpenFile(s.host.Path("/run/ebs-release/lock"), os.O_RDONLY|os.O_CREATE, 0o600)
			if err != nil {
				return nil, err
			}
			return f.Close, unix.Flock(int(f.Fd()), unix.LOCK_EX)
		}},
		{"a push holds the volume", func(ctx context.Context, _ *rig, s *supervised, _ *host.Command) (func() error, error) {
			if out := agent(ctx, s.host); out.Code != 0 {
				return nil, fmt.Errorf("the first up: %s", out.Stderr)
			}
			f, err := os.Open(s.host.Path("/release/.ebs-release/lock"))
			if err != nil {
				return nil, err
			}
			return f.Close, unix.Flock(int(f.Fd()), unix.LOCK_EX)
		}},
	}
}

// fullPipe makes a fifo that takes nothing more.
func fullPipe(path string) (end func() error, err error) {
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	fd := int(f.Fd())
	if err := unix.SetNonblock(fd, true); err != nil { // Fd() makes it wait
		return nil, err
	}
	for err == nil {
		_, err = unix.Write(fd, make([]byte, 4096))
	}
	return f.Close, nil
}

// fullSocket makes a datagram socket that takes nothing more.
func fullSocket(path string) (end func() error, err error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	sender, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	defer sender.Close()
	for err == nil {
		_ = sender.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
		_, err = sender.Write([]byte("X=1"))
	}
	return conn.Close, nil
}

// hang runs the agent with a point blocked and checks all that must hold from then on.
func (r *rig) hang(ctx context.Context, h *host.Host, point hangPoint, served func(readies int) error) error {
	s := &supervised{host: h}
	c := host.Command{Argv: []string{"ebs-release-agent", "up", "--deadline", hangDeadline.String()}, Env: []string{"NOTIFY_SOCKET=/run/systemd/notify"}}
	disarm, err := point.setup(ctx, r, s, &c)
	if err != nil {
		return err
	}
	out := s.run(ctx, c)
	if err := disarm(); err != nil {
		return err
	}
	if out.took > hangDeadline+hangSlack {
		return fmt.Errorf("it took %v", out.took)
	}
	mute := strings.HasPrefix(point.name, "nobody reads stderr")
	if out.Code != 0 && out.Code != 4 && !mute && !stageLine.MatchString(out.last()) {
		return fmt.Errorf("exit %d, and the last line is %q", out.Code, out.last())
	}
	// Whatever was said or mounted by then was right.
	said, err := readyCount(h)
	if err != nil {
		return err
	}
	if got, err := visible(h); err != nil || got != "" && got != "one" || said > 0 && got == "" {
		return fmt.Errorf("READY=1 was said %d times, /release shows %q (%v)", said, got, err)
	}
	again := agent(ctx, h)
	if again.Code != 0 {
		return fmt.Errorf("up again: exit %d: %s", again.Code, again.Stderr)
	}
	if err := served(said + 1); err != nil {
		return fmt.Errorf("up again: %w\n%s", err, again.Stderr)
	}
	return r.gone(ctx, h)
}

// Row 80: the disk takes no writes any more while a boot mounts it, and nothing can end a process
// that waits for it.
func TestAgentOutlivesADiskThatStopsAnswering(t *testing.T) {
	r := published(t, func(o *lab.Options) { o.AgentSettings["deadline"] = "60s" })
	p := r.pointerNow()
	thaw := func() {
		if err := r.lab.ThawDisks(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(thaw)
	frozen := func(t *testing.T, h *host.Host) {
		disarm := r.lab.Account.Fault(cloud.Fault{Action: "ModifyInstanceAttribute", Principal: h.ID, Times: 1, Effect: cloud.Effect{
			Do: func(cloud.Call) {
				if err := r.lab.FreezeDisks(); err != nil {
					t.Error(err)
				}
			},
		}})
		t.Cleanup(disarm)
		t.Cleanup(thaw)
	}

	t.Run("deadline", func(t *testing.T) {
		r := r.in(t)
		ctx := within(t, 2*time.Minute)
		h := r.machine()
		frozen(t, h)
		for _, what := range []string{"the first up", "the next up"} { // which finds the lock free
			out := agent(ctx, h, "--deadline", "10s")
			// What the first one mounted may still be there: then the next one waits for the lock
			// of the child that hangs.
			says := strings.Contains(out.last(), "does not come to an end") || strings.Contains(out.last(), "context deadline exceeded")
			if out.Code != 1 || !stageLine.MatchString(out.last()) || !says || out.took > 10*time.Second+hangSlack {
				t.Errorf("%s: exit %d after %v: %s", what, out.Code, out.took, out.Stderr)
			}
		}
		if n := stuck(t, h); n == 0 {
			t.Error("no child hangs: the disk did not stop answering")
		}
		thaw()
		must(t, failed(agent(ctx, h)))
		must(t, r.served(h, p, "one", 1))
	})
	t.Run("SIGTERM", func(t *testing.T) {
		r := r.in(t)
		ctx := within(t, 2*time.Minute)
		h := r.machine()
		frozen(t, h)
		s := &supervised{host: h, start: func(int) error { return nil }}
		ended := make(chan outcome, 1)
		go func() { ended <- s.up(ctx) }()
		for polls := 0; polls < 50; polls++ { // a disk that is well holds nobody for a second on end
			must(t, ctx.Err())
			if stuck(t, h) == 0 {
				polls = 0
			}
			time.Sleep(20 * time.Millisecond)
		}
		asked := time.Now()
		s.mu.Lock()
		must(t, unix.Kill(s.pid, unix.SIGTERM))
		s.mu.Unlock()
		if out := <-ended; out.Code != 130 || time.Since(asked) > 30*time.Second {
			t.Errorf("exit %d %v after SIGTERM: %s", out.Code, time.Since(asked), out.Stderr)
		}
		thaw()
		must(t, failed(agent(ctx, h)))
		must(t, r.served(h, p, "one", 1))
	})
}

// stuck counts the children of the agent on a host that the kernel does not let go of. One that was
// killed has no command line any more, but its name, that of /proc/self/exe.
func stuck(t *testing.T, h *host.Host) (n int) {
	t.Helper()
	want, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", h.PID()))
	must(t, err)
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range all {
		if name, _ := os.ReadFile(proc + "/comm"); string(name) != "exe\n" {
			continue
		}
		if got, err := os.Readlink(proc + "/ns/pid"); err != nil || got != want {
			continue
		}
		threads, _ := filepath.Glob(proc + "/task/*/stat")
		for _, thread := range threads {
			stat, _ := os.ReadFile(thread)
			if _, after, _ := strings.Cut(string(stat), ") "); strings.HasPrefix(after, "D") {
				n++
				break
			}
		}
	}
	return n
}

// TestAgentVerifyOutlivesADisk holds each look at the volume, in turn: `verify` ends within its
// time, says so, and leaves nothing that a later one waits for.
func TestAgentVerifyOutlivesADisk(t *testing.T) {
	const limit = 2 * time.Second
	r := published(t, nil)
	verify := func(ctx context.Context, s *supervised) outcome {
		return s.run(ctx, host.Command{Argv: []string{"ebs-release-agent", "verify", "--timeout", limit.String()}})
	}
	launch := func(ctx context.Context) (*host.Host, error) {
		h, err := r.launch(ctx, r.idle())
		if err != nil {
			return nil, err
		}
		return h, failed(agent(ctx, h))
	}
	first, err := launch(within(t, time.Minute))
	must(t, err)
	trace := diskTracer(0)
	must(t, failed(verify(within(t, time.Minute), &supervised{host: first, start: trace.attach})))
	must(t, <-trace.done)
	var held atomic.Int32
	each(t, len(trace.seen), 8, func(i int) error {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		h, err := launch(ctx)
		if err != nil {
			return err
		}
		hang := diskTracer(i + 1)
		out := verify(ctx, &supervised{host: h, start: hang.attach})
		if err := <-hang.done; err != nil {
			return err
		}
		// To see whether the boot is over takes 10 s at most.
		late := strings.Contains(out.last(), "does not come to an end") || strings.Contains(out.last(), "deadline exceeded")
		if out.took > 10*time.Second+limit+hangSlack || out.Code != 0 && (!late || !strings.Contains(out.last(), "describe-volume-status")) {
			return fmt.Errorf("at %s: exit %d after %v: %s", trace.seen[i], out.Code, out.took, out.Stderr)
		}
		if out.Code != 0 {
			held.Add(1)
		}
		if again := verify(ctx, &supervised{host: h}); again.Code != 0 {
			return fmt.Errorf("after %s: exit %d: %s", trace.seen[i], again.Code, again.Stderr)
		}
		return r.gone(ctx, h)
	})
	if n := held.Load(); n < int32(len(trace.seen))/2 {
		t.Errorf("%d of %d looks were held", n, len(trace.seen))
	}
}
