package host

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	RunInit()
	if len(os.Args) == 2 && os.Args[1] == "say-ready" {
		os.Exit(sayReady())
	}
	os.Exit(m.Run())
}

// sayReady is a service that tells its manager so.
func sayReady() int {
	conn, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		return 1
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("READY=1")); err != nil {
		return 1
	}
	return 0
}

// get is a shell line that prints the body of http://ADDRESS/ for an ADDRESS/PORT. The hosts have
// what Debian has: no curl.
func get(address string) string {
	return `bash -c 'exec 3<>/dev/tcp/` + address + `; printf "GET / HTTP/1.0\r\n\r\n" >&3; tr -d "\r" <&3 | sed "1,/^$/d"'`
}

func do(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newNetwork(t *testing.T) *Network {
	t.Helper()
	r, err := NewNetwork(t.Context(), t.TempDir(), netip.MustParsePrefix("10.0.0.0/16"))
	do(t, err)
	t.Cleanup(func() { do(t, r.Close()) })
	return r
}

func newHost(t *testing.T, r *Network, n int, change func(*Spec)) *Host {
	t.Helper()
	spec := Spec{ID: fmt.Sprintf("i-%d", n), Hostname: fmt.Sprintf("host-%d", n), Address: address(n), Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}}
	if change != nil {
		change(&spec)
	}
	h, err := r.NewHost(t.Context(), spec)
	do(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("console of %s:\n%s", h.ID, h.Console())
		}
		do(t, h.Destroy(context.Background()))
	})
	return h
}

func address(n int) netip.Addr {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], 10<<24+10+uint32(n))
	return netip.AddrFrom4(a)
}

func powerOn(t *testing.T, h *Host) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	do(t, h.PowerOn())
	if err := h.Booted(ctx); err != nil {
		t.Fatalf("%v\n%s", err, h.Console())
	}
}

// in runs a shell line in the host and gives its trimmed output.
func in(t *testing.T, h *Host, line string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := h.Run(ctx, "sh", "-c", line)
	do(t, err)
	return strings.TrimSpace(out.Stdout)
}

func TestFolderMayHaveAnyName(t *testing.T) {
	dir := filepath.Join(t.TempDir(), `a,b:c\d "e" =f`)
	do(t, os.Mkdir(dir, 0o755))
	r, err := NewNetwork(t.Context(), dir, netip.MustParsePrefix("10.0.0.0/16"))
	do(t, err)
	t.Cleanup(func() { do(t, r.Close()) })
	layer := r.Path("x,y:z")
	do(t, os.MkdirAll(filepath.Join(layer, "opt"), 0o755))
	do(t, os.WriteFile(filepath.Join(layer, "opt/file"), []byte("of the layer"), 0o644))
	h := newHost(t, r, 1, func(s *Spec) { s.Layers = []string{"x,y:z"} })
	powerOn(t, h)
	if got := in(t, h, "cat /opt/file; echo mine > /opt/mine; cat /opt/mine"); got != "of the layermine" {
		t.Errorf("the host says %q", got)
	}
	if _, err := os.Stat(filepath.Join(layer, "opt/mine")); err == nil {
		t.Error("what the host wrote is in the layer")
	}
}

func TestHostHasItsOwnWorld(t *testing.T) {
	h := newHost(t, newNetwork(t), 1, nil)
	powerOn(t, h)
	got := in(t, h, "hostname; cat /proc/1/comm; ls /sys/block; ls /tmp; ip -o -4 addr show dev eth0 | awk '{print $4}'")
	if want := "host-1\nexe\n10.0.0.11/16"; got != want {
		t.Errorf("the host says:\n%s\nand not:\n%s", got, want)
	}
	in(t, h, "echo mine > /etc/ebs-lab-test && test -c /dev/null && test -w /dev/null && mkdir /release")
	for _, path := range []string{"/etc/ebs-lab-test", "/release"} {
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("%s of the host is seen by the machine: %v", path, err)
		}
	}
	if got, err := os.ReadFile(h.Path("/etc/ebs-lab-test")); err != nil || string(got) != "mine\n" {
		t.Errorf("the machine reads %q, %v", got, err)
	}
}

func TestWhatAHostWroteOutlivesAReboot(t *testing.T) {
	h := newHost(t, newNetwork(t), 1, func(s *Spec) {
		s.FirstBoot = []Service{{Name: "key", Argv: []string{"sh", "-c", "echo key >> /etc/key"}}}
	})
	powerOn(t, h)
	in(t, h, "echo kept > /root/file; echo gone > /run/file")
	for range 2 {
		do(t, h.Shutdown(t.Context(), time.Second))
		if h.On() {
			t.Fatal("it is still on")
		}
		powerOn(t, h)
	}
	if got := in(t, h, "cat /root/file /etc/key; ls /run/file 2>/dev/null || true"); got != "kept\nkey" {
		t.Errorf("after two reboots: %q", got)
	}
}

func TestHostsReachEachOtherAndTheRack(t *testing.T) {
	r := newNetwork(t)
	one := newHost(t, r, 1, func(s *Spec) {
		s.Metadata = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "metadata of one") })
	})
	two := newHost(t, r, 2, func(s *Spec) {
		s.Metadata = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "metadata of two") })
	})
	l, err := r.Listen(8080)
	do(t, err)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { fmt.Fprint(w, q.RemoteAddr) })}
	go server.Serve(l)
	defer server.Close()
	powerOn(t, one)
	powerOn(t, two)
	ofOne, err := listen(one.namespace, netip.MustParseAddrPort("10.0.0.11:8081"))
	do(t, err)
	peer := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "service of one") })}
	go peer.Serve(ofOne)
	defer peer.Close()
	if got := in(t, one, get("169.254.169.254/80")+"; echo; "+get("10.0.0.1/8080")); !strings.HasPrefix(got, "metadata of one\n10.0.0.11:") {
		t.Errorf("one hears %q", got)
	}
	if got := in(t, two, get("169.254.169.254/80")+"; echo; "+get("10.0.0.11/8081")); got != "metadata of two\nservice of one" {
		t.Errorf("two hears %q", got)
	}
}

func TestBootRunsServicesInOrderAndGates(t *testing.T) {
	h := newHost(t, newNetwork(t), 1, func(s *Spec) {
		s.Boot = []Service{
			{Name: "daemon", Argv: []string{"sh", "-c", "sleep 1000"}, Daemon: true},
			{Name: "agent", Argv: []string{"sh", "-c", `sleep 0.1; echo $COLOUR; touch /run/agent`}, Env: []string{"COLOUR=blue"}},
			{Name: "app", Argv: []string{"sh", "-c", "test -e /run/agent && touch /run/app"}},
		}
	})
	powerOn(t, h)
	in(t, h, "test -e /run/app && pidof sleep")
	if !strings.Contains(h.Console(), "blue\n") {
		t.Errorf("the console does not hold what the agent said:\n%s", h.Console())
	}
}

func TestFailedServiceFailsTheBootAndHostStaysOn(t *testing.T) {
	h := newHost(t, newNetwork(t), 1, func(s *Spec) {
		s.Boot = []Service{
			{Name: "agent", Argv: []string{"sh", "-c", "echo no pointer >&2; exit 3"}},
			{Name: "app", Argv: []string{"touch", "/run/app"}},
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	do(t, h.PowerOn())
	if err := h.Booted(ctx); err == nil || !strings.Contains(err.Error(), "agent: exit status 3") {
		t.Errorf("error is %v", err)
	}
	if got := in(t, h, "ls /run/app 2>/dev/null || echo no app"); got != "no app" {
		t.Error("the application was started")
	}
	if !strings.Contains(h.Console(), "no pointer\n") {
		t.Errorf("console:\n%s", h.Console())
	}
}

func TestNoticesOfServicesAreKept(t *testing.T) {
	h := newHost(t, newNetwork(t), 1, func(s *Spec) {
		self, err := os.Executable()
		do(t, err)
		s.Binds = []Bind{{Source: filepath.Dir(self), Target: "/opt/test"}}
		s.Boot = []Service{{Name: "agent", Argv: []string{"/opt/test/" + filepath.Base(self), "say-ready"}, Notify: true}}
	})
	powerOn(t, h)
	deadline := time.Now().Add(time.Minute)
	for len(h.Notices()) == 0 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if got := h.Notices(); len(got) != 1 || got[0] != "READY=1" {
		t.Errorf("notices are %q", got)
	}
}

func TestDeadlineEndsACommandAndItsChildren(t *testing.T) {
	h := newHost(t, newNetwork(t), 1, nil)
	powerOn(t, h)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := h.Run(ctx, "sh", "-c", "sleep 1000 & wait"); err == nil || !strings.Contains(err.Error(), "deadline") {
		t.Errorf("error is %v", err)
	}
	if took := time.Since(start); took > time.Minute {
		t.Errorf("it took %s", took)
	}
	if got := in(t, h, "pidof sleep || echo none"); got != "none" {
		t.Errorf("sleep lives on as %s", got)
	}
}

func TestCommandThatFailsTellsWhy(t *testing.T) {
	h := newHost(t, newNetwork(t), 1, nil)
	powerOn(t, h)
	out, err := h.Run(t.Context(), "sh", "-c", "echo data; echo because >&2; exit 5")
	if err == nil || !strings.Contains(err.Error(), "because") || out.Code != 5 || out.Stdout != "data\n" {
		t.Errorf("output %+v, error %v", out, err)
	}
	do(t, h.PowerOff())
	if _, err := h.Run(t.Context(), "true"); err == nil {
		t.Error("a host without power runs a command")
	}
}

func TestRackKeepsNoCopyOfSomeoneElsesMount(t *testing.T) {
	d := newDisk(t)
	run(t, "mkfs.ext4", "-q", d.Path)
	point := t.TempDir()
	do(t, unix.Mount(d.Path, point, "ext4", 0, ""))
	newNetwork(t)
	do(t, unix.Unmount(point, 0))
	do(t, d.Close())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	do(t, d.Gone(ctx))
}

func run(t *testing.T, argv ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%q: %v: %s", argv, err, out)
	}
}

func TestRackLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	r, err := NewNetwork(t.Context(), dir, netip.MustParsePrefix("10.0.0.0/16"))
	do(t, err)
	network := inode(t, r.namespace)
	held, err := unix.FcntlInt(r.namespace.Fd(), unix.F_DUPFD_CLOEXEC, 0) // nobody else's namespace gets its number
	do(t, err)
	defer unix.Close(held)
	h, err := r.NewHost(t.Context(), Spec{ID: "i-1", Hostname: "h", Address: address(1), Env: []string{"PATH=/usr/bin:/bin"},
		Boot: []Service{{Name: "sleep", Argv: []string{"sleep", "1000"}, Daemon: true}}})
	do(t, err)
	powerOn(t, h)
	pid := h.PID()
	do(t, r.Close()) // without Destroy: the death of the thread has to do it
	deadline := time.Now().Add(time.Minute)
	for unix.Kill(pid, 0) == nil && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if unix.Kill(pid, 0) == nil {
		t.Errorf("the host lives on as process %d", pid)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	do(t, err)
	if strings.Contains(string(mounts), dir) {
		t.Errorf("the network is mounted in the machine's own namespace:\n%s", mounts)
	}
	for processesIn(t, network) > 0 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if n := processesIn(t, network); n > 0 {
		t.Errorf("%d threads are still in the network's namespace", n)
	}
}

func TestFiftyHostsStand(t *testing.T) {
	r := newNetwork(t)
	start := time.Now()
	for n := range 50 {
		h := newHost(t, r, n, nil)
		do(t, h.PowerOn())
		t.Cleanup(func() { do(t, h.PowerOff()) })
		defer func() { do(t, h.Booted(t.Context())) }()
	}
	t.Logf("50 hosts in %s", time.Since(start)) // three seconds, on a machine that has nothing else to do
}

func TestAddressCanBeUsedAgain(t *testing.T) {
	r := newNetwork(t)
	first := newHost(t, r, 1, nil)
	do(t, first.Destroy(t.Context()))
	second := newHost(t, r, 2, func(s *Spec) { s.Address = address(1) })
	powerOn(t, second)
	l, err := r.Listen(80)
	do(t, err)
	server := &http.Server{Handler: http.NotFoundHandler()}
	go server.Serve(l)
	defer server.Close()
	in(t, second, get("10.0.0.1/80"))
}

func inode(t *testing.T, f *os.File) uint64 {
	t.Helper()
	var st unix.Stat_t
	do(t, unix.Fstat(int(f.Fd()), &st))
	return st.Ino
}

// processesIn counts the threads of the machine in a network namespace.
func processesIn(t *testing.T, ns uint64) int {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/task/[0-9]*/ns/net")
	do(t, err)
	n := 0
	for _, l := range links {
		if target, err := os.Readlink(l); err == nil && target == fmt.Sprintf("net:[%d]", ns) {
			n++
		}
	}
	return n
}
