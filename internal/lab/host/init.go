package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// initArgs are the arguments of a host's first process, which is the lab's own program again. A
// program that does not call RunInit first thing in main ends with "flag provided but not defined"
// instead of doing whatever it does.
var initArgs = []string{"ebs-lab-init", "-ebs-lab-init"}

// RunInit is the first process of a host, and does not return, when the program was started as one.
// Programs and tests that make hosts call it first thing in main or TestMain.
func RunInit() {
	if !slices.Equal(os.Args, initArgs) || os.Getpid() != 1 {
		return
	}
	unix.CloseOnExec(3)
	m := &initProcess{events: json.NewEncoder(os.NewFile(3, "events")), children: map[int]chan<- syscall.WaitStatus{}, started: time.Now()}
	if err := m.run(); err != nil {
		m.say("failed: %v", err)
		m.events.Encode(event{Failed: err.Error()})
		os.Exit(1)
	}
	os.Exit(0)
}

// initProcess is PID 1 of a host: it mounts, runs the services, reaps what dies, and ends on
// SIGTERM. When it ends the kernel ends all the others.
type initProcess struct {
	events  *json.Encoder // to the lab; used by one goroutine at a time
	started time.Time
	env     []string

	mu       sync.Mutex
	children map[int]chan<- syscall.WaitStatus // who waits for a child
}

func (m *initProcess) run() error {
	var o order
	data, err := io.ReadAll(os.Stdin)
	if err == nil {
		err = json.Unmarshal(data, &o)
	}
	if err != nil {
		return fmt.Errorf("read order: %w", err)
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	if err := enterRoot(o); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(o.Hostname)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	null, err := os.Open("/dev/null")
	if err != nil {
		return err
	}
	if err := unix.Dup2(int(null.Fd()), 0); err != nil {
		return err
	}
	notices, err := listenNotify()
	if err != nil {
		return err
	}
	m.env = o.Env
	for _, e := range o.Env { // for finding programs: this process started without a variable
		if path, ok := strings.CutPrefix(e, "PATH="); ok {
			os.Setenv("PATH", path)
		}
	}

	said := make(chan string)
	go readNotices(notices, said)
	booted := make(chan error, 1)
	go func() { booted <- m.bootServices(o.Boot) }()
	for { // until SIGTERM
		select {
		case s := <-signals:
			if s != syscall.SIGCHLD {
				return m.shutdown()
			}
			m.reap()
		case line := <-said:
			m.say("notified: %s", line)
			m.events.Encode(event{Notify: line})
		case err := <-booted:
			booted = nil
			if err != nil {
				m.say("boot failed: %v", err)
				m.events.Encode(event{Failed: err.Error()})
				continue // a machine whose boot failed stays on, for people to look at
			}
			m.say("boot is through")
			m.events.Encode(event{Booted: true})
		}
	}
}

func (m *initProcess) bootServices(services []Service) error {
	for _, s := range services {
		m.say("start %s", s.Name)
		ended, err := m.start(s)
		if err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
		if s.Daemon {
			go func() { m.say("%s ended: %s", s.Name, describe(<-ended)) }()
			continue
		}
		if status := <-ended; !status.Exited() || status.ExitStatus() != 0 {
			return fmt.Errorf("%s: %s", s.Name, describe(status))
		}
	}
	for _, s := range services {
		if s.Port != 0 {
			if err := waitPort(s.Port, time.Minute); err != nil {
				return fmt.Errorf("%s: %w", s.Name, err)
			}
		}
	}
	return nil
}

// waitPort waits until something listens on a TCP port, without a connection, which that would have
// to serve.
func waitPort(port int, limit time.Duration) error {
	listening := regexp.MustCompile(fmt.Sprintf(`(?m)^ *\d+: [0-9A-F]+:%04X [0-9A-F]+:0000 0A `, port)) // proc_net_tcp: 0A is TCP_LISTEN
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
			if data, err := os.ReadFile(table); err == nil && listening.Match(data) {
				return nil
			}
		}
	}
	return fmt.Errorf("nothing listens on port %d after %s", port, limit)
}

// start starts a service in a session of its own. The channel gives its end.
func (m *initProcess) start(s Service) (<-chan syscall.WaitStatus, error) {
	env := append(slices.Clone(m.env), s.Env...)
	if s.Notify {
		env = append(env, "NOTIFY_SOCKET="+notifySocket)
	}
	path, err := exec.LookPath(s.Argv[0])
	if err != nil {
		return nil, err
	}
	ended := make(chan syscall.WaitStatus, 1)
	m.mu.Lock() // reap must not come in between
	defer m.mu.Unlock()
	p, err := os.StartProcess(path, s.Argv,
		&os.ProcAttr{Dir: "/", Env: env, Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Sys: &syscall.SysProcAttr{Setsid: true}})
	if err != nil {
		return nil, err
	}
	m.children[p.Pid] = ended
	p.Release() // reap waits for it
	return ended, nil
}

// reap takes in all children that have died: services, and orphans of the host.
func (m *initProcess) reap() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if ended, ok := m.children[pid]; ok {
			ended <- status
			delete(m.children, pid)
		}
	}
}

// shutdown asks all processes to end and waits for that; the lab cuts the power when it takes too
// long.
func (m *initProcess) shutdown() error {
	m.say("shutting down")
	syscall.Kill(-1, syscall.SIGTERM)
	for {
		var status syscall.WaitStatus
		if _, err := syscall.Wait4(-1, &status, 0, nil); errors.Is(err, syscall.ECHILD) {
			return nil
		}
	}
}

func (m *initProcess) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "[%8.3f] init: %s\n", time.Since(m.started).Seconds(), fmt.Sprintf(format, args...))
}

func describe(s syscall.WaitStatus) string {
	if s.Signaled() {
		return "killed by " + s.Signal().String()
	}
	return fmt.Sprintf("exit status %d", s.ExitStatus())
}

const notifySocket = "/run/systemd/notify"

func listenNotify() (*net.UnixConn, error) {
	if err := os.MkdirAll("/run/systemd", 0o755); err != nil {
		return nil, err
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notifySocket, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("listen for services: %w", err)
	}
	return conn, os.Chmod(notifySocket, 0o777)
}

// readNotices passes on what services say, until the host ends.
func readNotices(conn *net.UnixConn, said chan<- string) {
	buf := make([]byte, 64<<10)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		said <- string(buf[:n])
	}
}
