package bench

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"ebs-release/internal/catchup"
	"ebs-release/internal/follow"
	"ebs-release/internal/gc"
	"ebs-release/internal/lab/child"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/report"
	"ebs-release/internal/status"
	"ebs-release/internal/store"
	"ebs-release/internal/test/s3"
	"ebs-release/internal/trouble"
	"ebs-release/internal/volume"

	"filippo.io/age"
	"golang.org/x/sync/errgroup"
)

// BenchmarkFollowers has many members follow one store, in this process: each is the agent's own
// loop over a small volume of its own, in memory. The server is a process of its own: `ebs-release
// serve` as it ships, or versitygw. A publish is a pack and a new pointer; its latency is from the
// moment the pointer is written to the mark of each member, when flip and programs are done.
//
//	go test -run '^$' -bench Followers -benchtime 3x -v -timeout 40m ./internal/test/bench
func BenchmarkFollowers(b *testing.B) {
	for _, c := range []struct {
		name     string
		members  int
		interval time.Duration
		at       func(*testing.B) followed
	}{
		{"serve, 1000 members", 1000, 10 * time.Second, servedByUs},
		{"S3, 1000 members", 1000, 30 * time.Second, servedByS3},
		{"S3, 5000 members", 5000, 30 * time.Second, servedByS3},
	} {
		b.Run(c.name, func(b *testing.B) {
			f := newFollowers(b, c.at(b), c.members, c.interval)
			var all []time.Duration
			var server, own time.Duration
			for b.Loop() {
				took, serverCPU, ownCPU := f.publish()
				all, server, own = append(all, took...), server+serverCPU, own+ownCPU
			}
			slices.Sort(all)
			per := float64(b.N * c.members)
			b.ReportMetric(all[len(all)/2].Seconds(), "s-median")
			b.ReportMetric(all[len(all)*99/100].Seconds(), "s-99%")
			b.ReportMetric(all[len(all)-1].Seconds(), "s-last")
			b.ReportMetric(server.Seconds()*1000/per, "server-ms/member")
			b.ReportMetric(own.Seconds()*1000/per, "member-ms/member")
		})
	}
}

// followed is a store, as its publisher and as its members reach it.
type followed struct {
	to     store.Store
	reach  string
	load   store.Load
	secret bool
	pid    int // of the server
}

func servedByUs(b *testing.B) followed {
	dir, err := os.MkdirTemp(memory, "ebs-release-store-") // what others write to a disk is not measured
	must(b, err)
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	to, err := store.NewDirectory(dir)
	must(b, err)
	free, err := net.Listen("tcp4", "127.0.0.1:0")
	must(b, err)
	address := free.Addr().String()
	must(b, free.Close())
	cmd := exec.Command(programs.publisher, "serve", "--pointer-store", dir, "--listen", address)
	cmd.Stderr = os.Stderr
	server, err := child.Start(cmd, nil)
	must(b, err)
	b.Cleanup(server.Kill)
	return followed{to: to, reach: "http://" + address + "/release.json", secret: true, pid: cmd.Process.Pid}
}

func servedByS3(b *testing.B) followed {
	server := s3.Start(b)
	const place = "s3://releases/prod"
	to, err := store.OpenS3(b.Context(), place, server.Config)
	must(b, err)
	return followed{to: to, reach: place, load: server.Config, pid: server.PID()}
}

const benchStore = "0123456789abcdef"

// keepAll has no tree removed: before that a member looks into all processes of its machine, which
// here is one machine for all members.
const keepAll = 1000

// followers are members that run until the benchmark ends, and the release server that they follow.
type followers struct {
	*testing.B
	at      followed
	server  *release.Volume
	secret  pointer.SecretKey
	pointer pointer.Pointer
	version store.Version
	members int

	mu     sync.Mutex
	active map[int64][]time.Time // when members had activated a generation
	said   int                   // how many have reported the pointer's
	moved  *sync.Cond
}

func newFollowers(b *testing.B, at followed, members int, interval time.Duration) *followers {
	b.Helper()
	f := &followers{B: b, at: at, members: members, active: map[int64][]time.Time{}}
	f.moved = sync.NewCond(&f.mu)
	root, err := os.MkdirTemp(memory, "ebs-release-followers-")
	must(b, err)
	b.Cleanup(func() { _ = os.RemoveAll(root) })
	f.secret, err = pointer.NewKey()
	must(b, err)
	f.server = f.volume(filepath.Join(root, "server"))
	f.release()
	first := f.volume(filepath.Join(root, "0"))
	if at.secret {
		key, err := f.server.PackKey()
		must(b, err)
		must(b, first.SetPackKey(b.Context(), key))
	}
	e, err := catchup.Make(b.Context(), f.server, at.to, "", f.pointer.Release, at.secret)
	must(b, err)
	f.pointer.Edges = []pointer.Edge{e}
	to := catchup.Volume{Volume: first, Served: true, Packs: func(context.Context) (store.Reader, error) { return at.to, nil }}
	_, err = to.To(b.Context(), f.pointer)
	must(b, err)
	must(b, first.Activate(b.Context(), f.pointer.Release, f.pointer.Digest, 1))
	must(b, first.MarkDone(b.Context(), f.pointer.Release, 1))
	must(b, first.Close())
	var group errgroup.Group
	group.SetLimit(4)
	for n := 1; n < members; n++ {
		group.Go(func() error {
			out, err := exec.Command("cp", "-a", filepath.Join(root, "0"), filepath.Join(root, strconv.Itoa(n))).CombinedOutput()
			if err != nil {
				return fmt.Errorf("copy a volume: %w: %s", err, out)
			}
			return nil
		})
	}
	must(b, group.Wait())
	f.commit()
	ctx, stop := context.WithCancel(context.Background())
	var loops sync.WaitGroup
	b.Cleanup(func() { stop(); loops.Wait() })
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	for n := range members {
		fetcher, err := pointer.NewFetcher(at.reach, at.load, log)
		must(b, err)
		one := follow.Follower{
			Store: fetcher, Member: &followingMember{f, filepath.Join(root, strconv.Itoa(n)), n}, Keep: keepAll, Interval: interval, Log: log,
		}
		loops.Go(func() { one.Run(ctx, status.Follow{}) })
	}
	f.wait(func() bool { return f.said == members })
	return f
}

func (f *followers) volume(dir string) *release.Volume {
	f.Helper()
	must(f, os.MkdirAll(dir, 0o755))
	v, err := release.Open(dir)
	must(f, err)
	must(f, v.Init(0, 0))
	must(f, v.SetKeys(f.Context(), []string{f.secret.Public().String()}))
	must(f, v.SetStore(f.Context(), benchStore))
	if f.at.secret && f.server == nil {
		key, err := age.GenerateX25519Identity()
		must(f, err)
		must(f, v.SetPackKey(f.Context(), key.String()))
	}
	return v
}

// release takes in a release of 20 files of which one differs from the release before, and leaves a
// pointer to it.
func (f *followers) release() {
	f.Helper()
	dir := f.TempDir()
	for i := range 20 {
		must(f, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), []byte(strings.Repeat(fmt.Sprint(i), 1000)), 0o644))
	}
	next := f.pointer.Generation + 1
	must(f, os.WriteFile(filepath.Join(dir, "number"), fmt.Append(nil, next), 0o644))
	made, err := f.server.Ingest(f.Context(), dir, time.Now(), gc.Wanted{Keep: 3})
	must(f, err)
	must(f, f.server.Activate(f.Context(), made.ID, made.Digest, next))
	f.pointer.Generation, f.pointer.Release, f.pointer.Digest, f.pointer.Store = next, made.ID, made.Digest, benchStore
	f.pointer.Created, f.pointer.Snapshots = time.Now(), map[string]string{"us-east-1": "snap-0123456789abcdef0"}
}

func (f *followers) commit() {
	f.Helper()
	f.pointer.Revision++
	document, err := f.pointer.Sign(f.secret)
	must(f, err)
	f.mu.Lock()
	f.said = 0
	f.mu.Unlock()
	f.version, err = f.at.to.PutIf(f.Context(), "release.json", document, f.version)
	must(f, err)
}

// publish returns how long each member took, what the server used until the last of them had
// reported, and what all members did.
func (f *followers) publish() (took []time.Duration, server, own time.Duration) {
	f.Helper()
	before := f.pointer.Release
	f.release()
	e, err := catchup.Make(f.Context(), f.server, f.at.to, before, f.pointer.Release, f.at.secret)
	must(f, err)
	f.pointer.Edges = append(f.pointer.Edges, e)
	server, own = f.cpuOf(f.at.pid), f.cpuOf(os.Getpid())
	f.commit()
	began := time.Now()
	generation := f.pointer.Generation
	f.wait(func() bool { return f.said == f.members })
	server, own = f.cpuOf(f.at.pid)-server, f.cpuOf(os.Getpid())-own
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, at := range f.active[generation] {
		took = append(took, at.Sub(began))
	}
	return took, server, own
}

// wait waits for what members do. It ends the benchmark after ten minutes.
func (f *followers) wait(is func() bool) {
	f.Helper()
	late := false
	clock := time.AfterFunc(10*time.Minute, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		late = true
		f.moved.Broadcast()
	})
	defer clock.Stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	for !is() {
		if f.moved.Wait(); late {
			f.Fatalf("%d of %d members have reported generation %d", f.said, f.members, f.pointer.Generation)
		}
	}
}

// cpuOf is user and system time (proc(5), /proc/pid/stat, fields 14 and 15).
func (f *followers) cpuOf(pid int) time.Duration {
	f.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(f, err)
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	const ticks = 100 // a second: sysconf(_SC_CLK_TCK) of Linux
	var sum time.Duration
	for _, field := range fields[11:13] {
		n, err := strconv.Atoi(field)
		must(f, err)
		sum += time.Duration(n) * time.Second / ticks
	}
	return sum
}

// followingMember is follow.Member: a machine whose volume is a directory, and whose programs only
// leave the mark.
type followingMember struct {
	*followers
	root string
	n    int
}

func (m *followingMember) Who(context.Context) (pointer.Instance, error) {
	return pointer.Instance{ID: m.id(), Zone: "us-east-1a"}, nil
}

func (m *followingMember) id() string { return fmt.Sprintf("i-%017x", m.n) }

func (m *followingMember) Volume(context.Context) (*release.Volume, string, error) {
	v, err := release.Open(m.root)
	return v, fmt.Sprintf("vol-%017x", m.n), err
}

func (*followingMember) Stage(context.Context, pointer.Pointer) error { return nil }

func (*followingMember) Drain(context.Context, pointer.Pointer) (bool, error) { return false, nil }

func (m *followingMember) RunPrograms(ctx context.Context) error {
	v, err := release.Open(m.root)
	if err != nil {
		return err
	}
	defer func() { _ = v.Close() }()
	n, id, err := v.Fence()
	if err == nil {
		err = v.MarkDone(ctx, id, n)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.active[n] = append(m.active[n], time.Now())
	return err
}

// Report writes to the store where members do that. A tag is for EC2, which is not here.
func (m *followingMember) Report(ctx context.Context, r status.Reported) error {
	if to, is := m.at.to.(*store.S3); is {
		err := report.Put(ctx, to, report.Report{
			Caller: "AROAEXAMPLE:" + m.id(), Generation: r.Generation, State: volume.StateReady, VolumeID: r.VolumeID, Release: r.Release,
		})
		if err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.Generation == m.pointer.Generation && r.Ready {
		m.said++
		m.moved.Broadcast()
	}
	return nil
}

func (*followingMember) Complain(context.Context, status.Reported, trouble.Trouble) error { return nil }

func (*followingMember) Tell(status.Follow) error { return nil }
