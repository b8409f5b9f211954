package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/host"
	"ebs-release/internal/pointer"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// The tests of the agent launch instances that start nothing, and run the agent themselves.

// idle is what an instance without a running agent is launched from.
func (r *rig) idle() cloud.RunSpec {
	spec := r.lab.Member()
	spec.ImageID = lab.IdleImage
	return spec
}

// launch launches one instance; its boot is through.
func (r *rig) launch(ctx context.Context, spec cloud.RunSpec) (*host.Host, error) {
	id, err := r.lab.Account.RunInstance(ctx, spec)
	if err != nil {
		return nil, err
	}
	return r.lab.Booted(ctx, id)
}

// machine is launch of one that starts nothing.
func (r *rig) machine() *host.Host {
	r.Helper()
	h, err := r.launch(within(r, 30*time.Second), r.idle())
	must(r, err)
	return h
}

// outcome is one run of a program.
type outcome struct {
	host.Output
	took time.Duration
}

// last is the line that an operator reads first.
func (o outcome) last() string { return lastLine(o.Stderr) }

// agent runs `up`, with more arguments, as the unit does: what it tells systemd arrives in the
// host's notices.
func agent(ctx context.Context, h *host.Host, args ...string) outcome {
	return (&supervised{host: h}).up(ctx, args...)
}

// supervised is a run of a program that can be looked at, or killed, from outside.
type supervised struct {
	host  *host.Host
	start func(pid int) error // called before the program's first instruction

	mu  sync.Mutex
	pid int
}

// wrapper waits for a line on its standard input, and then is the program.
const wrapper = `echo $$ >&2; read -r line; exec "$@" </dev/null`

// up runs the agent.
func (s *supervised) up(ctx context.Context, args ...string) outcome {
	return s.run(ctx, host.Command{Argv: append([]string{"ebs-release-agent", "up"}, args...), Env: []string{"NOTIFY_SOCKET=/run/systemd/notify"}})
}

func (s *supervised) run(ctx context.Context, program host.Command) outcome {
	stdin, push := io.Pipe()
	first := &firstLine{found: make(chan string, 1)}
	started := make(chan error, 1)
	began := time.Now()
	go func() {
		select {
		case line := <-first.found:
			var err error
			if s.start != nil {
				if err = s.find(line); err == nil {
					err = s.start(s.pid)
				}
			}
			began = time.Now()
			started <- err
			io.WriteString(push, "\n")
		case <-ctx.Done():
			started <- ctx.Err()
		}
		push.Close() // the end of the command waits for it
	}()
	program.Argv = append([]string{"sh", "-c", wrapper, "sh"}, program.Argv...)
	program.Stdin, program.Stderr = stdin, first
	out, err := s.host.RunWith(ctx, program)
	stdin.CloseWithError(io.ErrClosedPipe)
	if startErr := <-started; startErr != nil {
		err = startErr
	}
	_, out.Stderr, _ = strings.Cut(out.Stderr, "\n")
	if err != nil && out.Code <= 0 {
		out.Stderr += fmt.Sprintf("\n(%v)", err)
	}
	return outcome{out, time.Since(began)}
}

// firstLine passes on the first line that is written to it.
type firstLine struct {
	text  bytes.Buffer
	found chan string
	done  bool
}

func (f *firstLine) Write(p []byte) (int, error) {
	if !f.done {
		f.text.Write(p)
		if line, _, ok := strings.Cut(f.text.String(), "\n"); ok {
			f.done = true
			f.found <- line
		}
	}
	return len(p), nil
}

// find learns which process of this machine has the number inner in the host.
func (s *supervised) find(inner string) error {
	want, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", s.host.PID()))
	if err != nil {
		return err
	}
	files, _ := filepath.Glob("/proc/[0-9]*/status")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(data, []byte("\t"+inner+"\n")) {
			continue
		}
		var outer int
		for line := range strings.Lines(string(data)) {
			if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "NSpid:" && fields[2] == inner {
				fmt.Sscan(fields[1], &outer)
			}
		}
		if got, err := os.Readlink(filepath.Join(filepath.Dir(file), "ns/pid")); outer != 0 && err == nil && got == want {
			s.mu.Lock()
			s.pid = outer
			s.mu.Unlock()
			return nil
		}
	}
	return fmt.Errorf("no process of %s has the number %s", s.host.ID, inner)
}

// kill is what a crash is: no handler runs.
func (s *supervised) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pid != 0 {
		unix.Kill(s.pid, unix.SIGKILL)
	}
}

// mounts are the lines of the host's mount table for /release.
func mounts(h *host.Host) (lines []string) {
	data, _ := os.ReadFile(h.Path("/proc/1/mountinfo"))
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 4 && fields[4] == "/release" {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// visible says what an application would see: "" while nothing is mounted, else what the release's
// file `version` says.
func visible(h *host.Host) (string, error) {
	if len(mounts(h)) == 0 {
		return "", nil
	}
	data, err := os.ReadFile(h.Path("/release/current/version"))
	return strings.TrimSpace(string(data)), err
}

// pointerNow is what is published.
func (r *rig) pointerNow() pointer.Pointer {
	r.Helper()
	p, err := pointer.Parse([]byte(r.stored("release.json")))
	must(r, err)
	return p
}

// stored is a document of the pointer store, wherever that is.
func (r *rig) stored(key string) string {
	r.Helper()
	if r.inS3 {
		return r.inStore(key)
	}
	return r.sh("cat " + lab.PointerStore + "/" + key)
}

// signed is a pointer as the release server writes it, without packs: it names its snapshot alone.
func (r *rig) signed(p pointer.Pointer) string {
	r.Helper()
	key, err := pointer.ParseSecretKey(r.sh("cut -d' ' -f1 " + signingKey))
	must(r, err)
	p.Edges = nil
	document, err := p.Sign(key)
	must(r, err)
	return string(document)
}

// served is nil when the member is as a boot that went well leaves it: one volume, attached,
// deleted with the instance, and reported; one mount, of this very volume and the right release;
// and READY=1 as often as said so far.
func (r *rig) served(h *host.Host, p pointer.Pointer, version string, readies int) error {
	volumes := r.lab.VolumesFor(h.ID)
	if len(volumes) != 1 {
		return fmt.Errorf("%d volumes: %s", len(volumes), show(volumes))
	}
	v := volumes[0]
	if v.Attachment == nil || v.Attachment.InstanceID != h.ID || !v.Attachment.DeleteOnTermination || v.State != "in-use" {
		return fmt.Errorf("the volume is not attached and protected: %s", show(volumes))
	}
	if r.inS3 {
		if want := fmt.Sprintf("%d/ready/%s", p.Generation, h.ID); !slices.Contains(r.reports(), want) {
			return fmt.Errorf("reports are %s, want %s", r.reports(), want)
		}
	} else if v.Tags["ebs-release:generation"] != fmt.Sprint(p.Generation) || v.Tags["ebs-release:release"] != p.Release || v.Tags["ebs-release:state"] != "ready" {
		return fmt.Errorf("the volume's tags are %v", v.Tags)
	}
	found := mounts(h)
	if len(found) != 1 {
		return fmt.Errorf("%d mounts: %q", len(found), found)
	}
	number := strings.Fields(found[0])[2]
	serial := ""
	for name, s := range h.Disks() {
		if text, _ := os.ReadFile(h.Path("/sys/block/" + name + "/dev")); strings.TrimSpace(string(text)) == number {
			serial = s
		}
	}
	if serial != cloud.SerialOf(v.ID) {
		return fmt.Errorf("mounted is %s (%q), the volume is %s", number, serial, v.ID)
	}
	if current, err := os.Readlink(h.Path("/release/current")); err != nil || current != "releases/"+p.Release {
		return fmt.Errorf("current is %q (%v), want %s", current, err, p.Release)
	}
	if got, err := visible(h); err != nil || got != version {
		return fmt.Errorf("the release says %q (%v), want %q", got, err, version)
	}
	if n, err := readyCount(h); err != nil || n != readies {
		return fmt.Errorf("READY=1 was said %d times (%v), want %d", n, err, readies)
	}
	data, err := os.ReadFile(h.Path("/run/ebs-release/status.json"))
	var s struct {
		State, Release string
		Generation     int64
		VolumeID       string `json:"volume_id"`
	}
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil || s.State != "ready" || s.Release != p.Release || s.Generation != p.Generation || s.VolumeID != v.ID {
		return fmt.Errorf("status.json: %v %s", err, data)
	}
	return nil
}

// readyCount is how often READY=1 was said in this boot. Notices take a moment from the host to us,
// in the order in which they were sent: with a last one from here, all that were sent before it
// have come.
func readyCount(h *host.Host) (int, error) {
	conn, err := net.Dial("unixgram", h.Path("/run/systemd/notify"))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	last := fmt.Sprintf("X_LAST=%d", time.Now().UnixNano())
	if _, err := conn.Write([]byte(last)); err != nil {
		return 0, err
	}
	for end := time.Now().Add(30 * time.Second); !slices.Contains(h.Notices(), last); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			return 0, fmt.Errorf("%s does not pass on what its services say", h.ID)
		}
	}
	return ready(h), nil
}

// gone terminates the instance and is nil when none of its volumes is left.
func (r *rig) gone(ctx context.Context, h *host.Host) error {
	if err := r.lab.Account.TerminateInstance(h.ID); err != nil {
		return err
	}
	if err := r.lab.Account.Wait(ctx, func() bool { return r.stateOf(h.ID) == "terminated" && len(r.lab.VolumesFor(h.ID)) == 0 }); err != nil {
		return fmt.Errorf("after the instance was terminated there is still: %s", show(r.lab.VolumesFor(h.ID)))
	}
	return nil
}

func (r *rig) stateOf(instance string) string {
	for _, i := range r.lab.Account.Instances() {
		if i.ID == instance {
			return i.State
		}
	}
	return ""
}

func show(volumes []cloud.Volume) string {
	var words []string
	for _, v := range volumes {
		at := "not attached"
		if a := v.Attachment; a != nil {
			at = fmt.Sprintf("%s %s as %s, delete on termination %t", a.State, a.InstanceID, a.Device, a.DeleteOnTermination)
		}
		words = append(words, fmt.Sprintf("%s %s from %s (%s)", v.ID, v.State, v.SnapshotID, at))
	}
	return strings.Join(words, "; ")
}

// actions are the EC2 calls of an instance, in order.
func (r *rig) actions(instance string) (names []string) {
	for _, c := range r.lab.Account.CallsBy(instance) {
		names = append(names, c.Action)
	}
	return names
}

// requests are all that an instance asked of EC2 and of the metadata service, in order.
func (r *rig) requests(h *host.Host) (calls []cloud.Call) {
	for _, c := range r.lab.Account.Calls() {
		if c.Principal == h.ID {
			calls = append(calls, c)
		}
	}
	return calls
}

// count says how often an instance made a call; code narrows it to calls that were answered with
// that error ("-": with success).
func (r *rig) count(instance, action, code string) (n int) {
	for _, c := range r.lab.Account.CallsBy(instance) {
		if c.Action == action && (code == "" || code == c.Code || code == "-" && c.Code == "") {
			n++
		}
	}
	return n
}

// each runs f for 0 to n-1, a few side by side, and reports all failures.
func each(t testing.TB, n, wide int, f func(i int) error) {
	t.Helper()
	var group errgroup.Group
	group.SetLimit(wide)
	for i := range n {
		group.Go(func() error {
			if err := f(i); err != nil {
				t.Error(err)
			}
			return nil
		})
	}
	group.Wait()
}
