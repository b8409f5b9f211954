package push

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ebs-release/internal/activation"
	"ebs-release/internal/catchup"
	"ebs-release/internal/exit"
	"ebs-release/internal/gc"
	"ebs-release/internal/pointer"
	"ebs-release/internal/receive"
	"ebs-release/internal/release"
	"ebs-release/internal/store"
	"ebs-release/internal/test/blank"
	"ebs-release/internal/test/scratch"
)

// The test binary is also the agent on the far side: sshd starts it through a script, and it works
// on a real tree.
func TestMain(m *testing.M) {
	if root := os.Getenv("PUSH_TEST_TREE"); root != "" {
		err := farAgent(root, os.Args[1:])
		if err != nil {
			fmt.Fprintln(os.Stderr, "ebs-release-agent:", err)
		}
		os.Exit(exit.Code(err))
	}
	os.Exit(m.Run())
}

// farAgent is the real one's receive, with troubles that a test asks for.
func farAgent(root string, args []string) error {
	if len(args) != 1 || args[0] != "receive" {
		return fmt.Errorf("unknown verb %q", args)
	}
	fmt.Println("talk of a shell")
	programs := activation.Programs{Folder: os.Getenv("PUSH_TEST_PROGRAMS"), Timeout: 10 * time.Second, Ready: 2 * time.Second}
	r := &receive.Receiver{Keep: 3, Programs: programs}
	r.Packs = func(ctx context.Context) (store.Reader, error) {
		if os.Getenv("PUSH_TEST_AWAY") != "" {
			<-ctx.Done()
			return nil, fmt.Errorf("the store does not answer: %w", ctx.Err())
		}
		return store.NewDirectory(os.Getenv("PUSH_TEST_STORE"))
	}
	r.Ready = func() (*release.Volume, error) {
		switch {
		case os.Getenv("PUSH_TEST_BOOTING") != "":
			return nil, exit.With(exit.Unchanged, errors.New("the boot is still going on"))
		case os.Getenv("PUSH_TEST_HANG") != "":
			sshd := os.Getppid() // goes with the connection: asked while it is there, the test goes on at the file
			if err := os.WriteFile(root+"/hangs", nil, 0o644); err != nil {
				return nil, err
			}
			for os.Getppid() == sshd {
				time.Sleep(10 * time.Millisecond)
			}
		}
		return release.Open(root)
	}
	talks := receive.Conversation{Worker: r, Version: "test", Log: slog.New(slog.DiscardHandler)}
	return talks.Run(context.Background(), os.Stdin, os.Stdout)
}

// far is a member: an sshd of its own on 127.0.0.1, a release volume, an agent.
type far struct {
	*release.Volume
	target  Target
	options Options
	script  string
	store   string // a directory
	sshd    *exec.Cmd
}

const memberID = "i-0123456789abcdef0"

func newFar(t *testing.T, tree *release.Volume, more ...string) *far {
	t.Helper()
	dir := t.TempDir()
	run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "host comment", "-f", dir+"/host")
	run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", dir+"/user key")
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	f := &far{Volume: tree, script: dir + "/agent", store: t.TempDir()}
	f.agent(t)
	t.Cleanup(func() { f.ended(t) })
	port := freePort(t)
	settings := fmt.Sprintf("Port %d\nListenAddress 127.0.0.1\nHostKey %s/host\nAuthorizedKeysFile %s/authorized\nStrictModes no\nPidFile none\nUsePAM no\n"+
		"PermitRootLogin yes\nPasswordAuthentication no\nLogLevel ERROR\n%s\n", port, dir, dir, strings.Join(more, "\n"))
	public := read(t, dir+"/user key.pub")
	for name, text := range map[string]string{"sshd_config": settings, "authorized": public} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f.sshd = exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", dir+"/sshd_config")
	f.sshd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := f.sshd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = f.sshd.Process.Kill(), f.sshd.Wait() })
	address := fmt.Sprint("127.0.0.1:", port)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if c, err := net.Dial("tcp", address); err == nil {
			_ = c.Close()
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	f.target = Target{InstanceID: memberID, Address: "127.0.0.1", HostKey: strings.TrimSpace(read(t, dir+"/host.pub"))}
	f.options = Options{User: "root", KeyFile: dir + "/user key", Port: port, AgentPath: f.script, ConnectTimeout: 5 * time.Second}
	return f
}

// agent puts the far agent in its place, with some more environment.
func (f *far) agent(t *testing.T, env ...string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("#!/bin/sh\nexec 9>>'"+f.script+".runs'; flock -s 9\nexec env PUSH_TEST_TREE='%s' PUSH_TEST_STORE='%s' %s '%s' \"$@\"\n",
		f.Root(), f.store, strings.Join(env, " "), exe)
	if err := os.WriteFile(f.script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// ended waits for the agents of sessions that are closed: they may still write to the volume.
func (f *far) ended(t *testing.T) {
	t.Helper()
	out, err := exec.CommandContext(context.WithoutCancel(t.Context()), "flock", "-x", "-w", "60", f.script+".runs", "true").CombinedOutput()
	if err != nil {
		t.Errorf("an agent still runs: %v %s", err, out)
	}
}

func (f *far) open(t *testing.T) *Session {
	t.Helper()
	s, err := Open(t.Context(), f.target, f.options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// desired is a release with packs that lead there from some others; "": from nothing.
func (f *far) desired(t *testing.T, server *release.Volume, to release.Ingested, from ...string) Desired {
	t.Helper()
	want := Desired{Pointer: pointer.Pointer{Generation: 2, Release: to.ID, Digest: to.Digest}}
	objects, err := store.NewDirectory(f.store)
	for _, id := range from {
		if err != nil {
			break
		}
		var e pointer.Edge
		e, err = catchup.Make(t.Context(), server, objects, id, to.ID, false)
		want.Edges = append(want.Edges, e)
	}
	if err != nil {
		t.Fatal(err)
	}
	return want
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v %s", name, err, out)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

// open opens a volume until the end of the test.
func open(t *testing.T, dir string) *release.Volume {
	t.Helper()
	v, err := release.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Close() })
	return v
}

// small is a volume of its own file system.
func small(t *testing.T, kib int) *release.Volume {
	t.Helper()
	dir := t.TempDir()
	scratch.Mount(t, "tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dk", kib)) // the far side may need a moment to let go
	tree := open(t, dir)
	if err := tree.Init(0, 0); err != nil {
		t.Fatal(err)
	}
	return tree
}

func publish(t *testing.T, tree *release.Volume, dir string, generation int64) release.Ingested {
	t.Helper()
	in, err := tree.Ingest(t.Context(), dir, time.Date(2026, 11, 22, 23, 15, int(generation), 0, time.UTC), gc.Wanted{})
	if err != nil {
		t.Fatal(err)
	}
	if err := tree.Activate(t.Context(), in.ID, in.Digest, generation); err != nil {
		t.Fatal(err)
	}
	return in
}

func put(t *testing.T, dir, name, content string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// two is a server with two releases and a member that holds the first.
func two(t *testing.T, member *release.Volume) (server *release.Volume, f *far, first, second release.Ingested) {
	t.Helper()
	server = blank.Volume(t)
	dir := t.TempDir()
	for _, name := range []string{"a", "b/c d", "b/\n\xff", "b/--delete", "#x", ";y", "-e", "it's $(false) `x`", "same"} {
		put(t, dir, name, "one of "+name)
	}
	first = publish(t, server, dir, 1)
	run(t, "cp", "-a", server.Root()+"/.", member.Root()+"/")
	for _, name := range []string{"a", "b/c d", "b/\n\xff", "b/--delete", "#x", ";y", "-e", "it's $(false) `x`"} {
		put(t, dir, name, "two of "+name) // the same size
	}
	put(t, dir, "new/dir/file", "new")
	if err := errors.Join(os.Symlink("../a", dir+"/new/link"), os.Chmod(dir+"/new/dir", 0o555)); err != nil {
		t.Fatal(err)
	}
	second = publish(t, server, dir, 2)
	return server, newFar(t, member), first, second
}
