package push

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ebs-release/internal/catchup"
	"ebs-release/internal/manifest"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/store"
	"ebs-release/internal/test/blank"
	"ebs-release/internal/test/scratch"

	"filippo.io/age"
)

func same(t *testing.T, a, b string) {
	t.Helper()
	ma, err := release.Scan(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	mb, err := release.Scan(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	if ma.Digest() != mb.Digest() {
		t.Fatalf("%s and %s differ: %+v", a, b, manifest.Diff(ma, mb))
	}
}

func wantError(t *testing.T, err, kind error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %v", kind)
	}
	if kind != nil && !errors.Is(err, kind) {
		t.Fatalf("error %q, want %q", err, kind)
	}
	for _, w := range append(words, memberID) {
		if !strings.Contains(err.Error(), w) {
			t.Fatalf("error %q, want %q in it", err, w)
		}
	}
	if strings.ContainsAny(err.Error(), "\r\n") {
		t.Fatalf("not one line: %q", err)
	}
}

func TestMemberGetsOnlyWhatChanged(t *testing.T) {
	server, f, first, second := two(t, blank.Volume(t))
	s := f.open(t)
	fetched, err := s.Stage(t.Context(), f.desired(t, server, second, first.ID))
	if err != nil {
		t.Fatal(err)
	}
	if fetched.Packs != 1 || fetched.Bytes < 100 || fetched.Bytes > 10_000 {
		t.Fatalf("fetched %+v", fetched)
	}
	same(t, server.Path(second.ID), f.Path(second.ID))
	if current, _ := f.Current(); current != first.ID {
		t.Fatalf("staging made %s current", current)
	}
	if err := s.Activate(t.Context(), f.desired(t, server, second)); err != nil {
		t.Fatal(err)
	}
	if err := f.Check(second.ID, second.Digest, 2); err != nil {
		t.Fatal(err)
	}
	if err := f.Verify(t.Context(), second.ID); err != nil {
		t.Fatal(err)
	}
	again, err := s.Stage(t.Context(), f.desired(t, server, second, first.ID))
	if err != nil || again.Packs != 0 {
		t.Fatalf("a second time: %+v, %v", again, err)
	}
	older := f.desired(t, server, first)
	older.Generation = 1
	wantError(t, s.Activate(t.Context(), older), ErrFenced, "generation 1")
	_, err = s.Stage(t.Context(), older)
	wantError(t, err, ErrFenced, "generation 2 was activated here")
	if files, err := s.Verify(t.Context(), second.ID, second.Digest, 2); err != nil || files != 10 {
		t.Fatalf("%d files, %v", files, err)
	}
	put(t, f.Path(second.ID), "same", "damaged")
	_, err = s.Verify(t.Context(), second.ID, second.Digest, 2)
	wantError(t, err, nil, "verify "+second.ID, "same")
}

// The third push on makes the oldest tree into the new one.
func TestPushAfterPushOverOneConnection(t *testing.T) {
	server, f, first, second := two(t, blank.Volume(t))
	s := f.open(t)
	base, dir := first.ID, t.TempDir()
	run(t, "cp", "-a", server.Path(second.ID)+"/.", dir)
	for i := range 6 {
		put(t, dir, "a", fmt.Sprint("round ", i))
		put(t, dir, fmt.Sprintf("new%d/file", i), "new")
		in := publish(t, server, dir, int64(10+i))
		want := f.desired(t, server, in, base)
		want.Generation = int64(10 + i)
		if _, err := s.Stage(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		if err := s.Activate(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		if files, err := s.Verify(t.Context(), in.ID, in.Digest, int64(10+i)); err != nil || files < 10+i {
			t.Fatalf("%d files, %v", files, err)
		}
		same(t, server.Path(in.ID), f.Path(in.ID))
		base = in.ID
	}
	if ids, err := f.Releases(); err != nil || len(ids) != 3 {
		t.Errorf("%v, %v", ids, err)
	}
}

// What a member says when no pack leads on is what another pack can start from.
func TestMemberThatNoPackLeadsOnSaysWhatItHolds(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(t *testing.T, f *far, first release.Ingested)
		held    bool // that it can start from
		said    string
	}{
		"there is none": {func(*testing.T, *far, release.Ingested) {}, true, "no packs lead there"},
		"it holds nothing": {func(t *testing.T, f *far, first release.Ingested) {
			if err := errors.Join(os.RemoveAll(f.Path(first.ID)), os.Remove(f.Root()+"/.ebs-release/"+first.ID+".manifest")); err != nil {
				t.Fatal(err)
			}
		}, false, "no packs lead there"},
		"what it holds is damaged": {func(t *testing.T, f *far, first release.Ingested) { put(t, f.Path(first.ID), "same", "x") }, false, "same: is not what its manifest says"},
	} {
		t.Run(name, func(t *testing.T) {
			server, f, first, second := two(t, blank.Volume(t))
			tc.prepare(t, f, first)
			s, want := f.open(t), f.desired(t, server, second)
			if strings.Contains(name, "damaged") {
				want = f.desired(t, server, second, first.ID)
			}
			_, err := s.Stage(t.Context(), want)
			none, ok := errors.AsType[*NoWayError](err)
			if !ok || (len(none.Held) == 1 && none.Held[0] == release.Held{ID: first.ID, Digest: first.Digest}) != tc.held || !strings.Contains(none.Reason, tc.said) {
				t.Fatalf("%v, %+v", err, none)
			}
			if _, err := s.Stage(t.Context(), f.desired(t, server, second, "")); err != nil {
				t.Fatal(err)
			}
			same(t, server.Path(second.ID), f.Path(second.ID))
		})
	}
}

func TestMemberSaysThatAPackIsGone(t *testing.T) {
	server, f, first, second := two(t, blank.Volume(t))
	want := f.desired(t, server, second, first.ID)
	if err := os.RemoveAll(f.store + "/packs"); err != nil {
		t.Fatal(err)
	}
	_, err := f.open(t).Stage(t.Context(), want)
	if none, ok := errors.AsType[*NoWayError](err); !ok || len(none.Held) != 1 || !strings.Contains(none.Reason, "is gone") {
		t.Errorf("%v, %+v", err, none)
	}
}

// The shortest way is from what is damaged: there is another one.
func TestMemberGoesAnotherWayThanFromWhatIsDamaged(t *testing.T) {
	server, f, first, second := two(t, blank.Volume(t))
	put(t, f.Path(first.ID), "same", "x")
	fetched, err := f.open(t).Stage(t.Context(), f.desired(t, server, second, first.ID, ""))
	if err != nil || fetched.Packs != 1 {
		t.Fatalf("%+v, %v", fetched, err)
	}
	same(t, server.Path(second.ID), f.Path(second.ID))
}

// A program may reboot the machine: what the next boot believes is on the volume before it runs.
func TestKeysAreThereBeforeThePrograms(t *testing.T) {
	server, f, first, second := two(t, blank.Volume(t))
	dir := t.TempDir()
	program(t, dir+"/activate.d/50-reboot", "cat "+f.Root()+"/.ebs-release/keys >&2; exit 3")
	f.agent(t, "PUSH_TEST_PROGRAMS="+dir)
	s, want := f.open(t), f.desired(t, server, second, first.ID)
	want.Keys = []string{"ed25519:one"}
	if _, err := s.Stage(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	err := s.Activate(t.Context(), want)
	if failed, ok := errors.AsType[*HookError](err); !ok || failed.Line != want.Keys[0] {
		t.Fatalf("%v", err)
	}
	older := want
	older.Generation, older.Keys = 1, []string{"ed25519:another"}
	wantError(t, s.Activate(t.Context(), older), ErrFenced)
	if keys, err := f.Keys(); err != nil || keys[0] != want.Keys[0] {
		t.Errorf("an older generation changed the keys: %v, %v", keys, err)
	}
}

// A member's volume may be from before there were keys, or from before they were changed.
func TestKeysComeWithTheActivation(t *testing.T) {
	server, f, _, second := two(t, blank.Volume(t))
	key, err := age.GenerateX25519Identity()
	if err == nil {
		err = server.SetPackKey(t.Context(), key.String())
	}
	if err != nil {
		t.Fatal(err)
	}
	objects, err := store.NewDirectory(f.store)
	if err != nil {
		t.Fatal(err)
	}
	edge, err := catchup.Make(t.Context(), server, objects, "", second.ID, true)
	if err != nil {
		t.Fatal(err)
	}
	want := f.desired(t, server, second)
	want.Edges, want.Keys = []pointer.Edge{edge}, []string{"ed25519:one"}
	s := f.open(t)
	_, err = s.Stage(t.Context(), want)
	wantError(t, err, nil, "it is encrypted, and the volume has no key for it")
	want.PackKey = key.String()
	if _, err := s.Stage(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if keys, err := f.Keys(); err != nil || keys != nil { // the pointer of before is still the one that counts
		t.Errorf("%v, %v", keys, err)
	}
	if err := s.Activate(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	keys, err := f.Keys()
	secret, secretErr := f.PackKey()
	if err := errors.Join(err, secretErr); err != nil || len(keys) != 1 || keys[0] != want.Keys[0] || secret != want.PackKey {
		t.Errorf("%v, %v", keys, err)
	}
}

// A member that waits for the store says so before the publisher gives it up.
func TestMemberSaysWhatItWaitsFor(t *testing.T) {
	server, f, first, second := two(t, blank.Volume(t))
	f.agent(t, "PUSH_TEST_AWAY=1")
	s, want := f.open(t), f.desired(t, server, second, first.ID)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err := s.Stage(ctx, want)
	wantError(t, err, nil, "fetch pack packs/", "the store does not answer")
	if err := ctx.Err(); err != nil {
		t.Error("it said so too late")
	}
}

func TestMemberOfAnotherStoreRefuses(t *testing.T) {
	server, f, first, second := two(t, blank.Volume(t))
	if err := f.SetStore(t.Context(), "0123456789abcdef"); err != nil {
		t.Fatal(err)
	}
	want := f.desired(t, server, second, first.ID)
	want.Store = "fedcba9876543210"
	s := f.open(t)
	_, err := s.Stage(t.Context(), want)
	wantError(t, err, nil, "belongs to store 0123456789abcdef")
	wantError(t, s.Activate(t.Context(), want), nil, "belongs to store 0123456789abcdef")
}

func TestWrongHostKeyIsRefused(t *testing.T) {
	_, f, _, _ := two(t, blank.Volume(t))
	other := newFar(t, blank.Volume(t))
	f.target.HostKey = other.target.HostKey // another machine has the address now
	_, err := Open(t.Context(), f.target, f.options)
	wantError(t, err, ErrHostKey)
	f.target.HostKey = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEmKSENjQEezOmxkZMy7opKgwFB9nkt5YRrYMjNuG5N87uRgg6CLrbo5wAdT/y6v0mKV0U2w0WZ2YB/++Tpockg="
	_, err = Open(t.Context(), f.target, f.options)
	wantError(t, err, ErrHostKey)
}

func TestConnectionsThatDoNotComeAbout(t *testing.T) {
	f := newFar(t, blank.Volume(t))
	other := newFar(t, blank.Volume(t))
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	for _, tc := range []struct {
		name  string
		do    func(target *Target, o *Options)
		kind  error
		words string
	}{
		{"no host key", func(target *Target, _ *Options) { target.HostKey = "" }, ErrNoHostKey, "not reported"},
		{"host key that is none", func(target *Target, _ *Options) { target.HostKey = "* ssh-ed25519 AAAA" }, ErrNoHostKey, "is none"},
		{"two lines as host key", func(target *Target, _ *Options) { target.HostKey += "\nProxyCommand x" }, nil, ""},
		{"wrong user key", func(_ *Target, o *Options) { o.KeyFile = other.options.KeyFile }, ErrLogin, "user root with key " + other.options.KeyFile},
		{"nobody listens", func(_ *Target, o *Options) { o.Port = freePort(t) }, ErrUnreachable, "Connection refused"},
		{"no address", func(target *Target, _ *Options) { target.Address = "" }, ErrUnreachable, "no address"},
		{"never answers", func(_ *Target, o *Options) {
			o.Port, o.ConnectTimeout = silent.Addr().(*net.TCPAddr).Port, time.Second
		}, ErrUnreachable, "timed out"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			target, o := f.target, f.options
			tc.do(&target, &o)
			s, err := Open(t.Context(), target, o)
			if tc.kind == nil { // what is behind the key is a comment to us, and thrown away
				if err != nil {
					t.Fatal(err)
				}
				if text := read(t, filepath.Join(s.dir, knownHosts)); strings.Contains(text, "Proxy") || strings.Count(text, "\n") != 1 {
					t.Fatalf("known_hosts: %q", text)
				}
				_ = s.Close()
				return
			}
			wantError(t, err, tc.kind, tc.words)
		})
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "ebs-release-push-*", identityName)); len(left) != 0 {
		for _, l := range left {
			if to, _ := os.Readlink(l); to == f.options.KeyFile {
				t.Errorf("left behind: %s", l)
			}
		}
	}
}

// The last line of ssh says the least: what explains it comes before.
func TestWhatSSHSaidIsWhole(t *testing.T) {
	message := filepath.Join(t.TempDir(), "banner")
	if err := os.WriteFile(message, []byte("System is going down. Unprivileged users are not permitted to log in anymore.\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	f := newFar(t, blank.Volume(t), "Banner "+message)
	o := f.options
	o.User = "nobody"
	_, err := Open(t.Context(), f.target, o)
	wantError(t, err, ErrLogin, "System is going down", "Permission denied (", "user nobody")

	o = f.options
	o.KeyFile = filepath.Join(t.TempDir(), "deploy.pem")
	if err := os.WriteFile(o.KeyFile, []byte(read(t, f.options.KeyFile)), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), f.target, o)
	wantError(t, err, ErrLogin, "Permissions 0644 for "+o.KeyFile+" are too open", "Load key "+o.KeyFile+": bad permissions", "Permission denied")
	if strings.Contains(err.Error(), "@@@") {
		t.Errorf("a frame is left: %v", err)
	}
	if got := said(strings.Repeat("a line of law\n", 100) + "the reason\r\n"); len(got) > mostSaid+60 || !strings.HasPrefix(got, "…; ") || !strings.HasSuffix(got, "; the reason") {
		t.Errorf("%d bytes: %q", len(got), got)
	}
}

func TestAFullTemporaryFolderIsSaid(t *testing.T) {
	f := newFar(t, blank.Volume(t))
	full := t.TempDir()
	scratch.Mount(t, "tmpfs", full, "tmpfs", 0, "size=4k,nr_inodes=20")
	if err := os.WriteFile(filepath.Join(full, "filler"), make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", full)
	_, err := Open(t.Context(), f.target, f.options)
	wantError(t, err, syscall.ENOSPC)
	if strings.Contains(err.Error(), "resolve") {
		t.Errorf("%v", err)
	}
	if left, _ := filepath.Glob(full + "/ebs-release-push-*"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestOptionsThatCouldBecomeCommandsAreRefused(t *testing.T) {
	good := Options{User: "deploy"}
	for name, bad := range map[string]Options{
		"user":        {User: "-oProxyCommand=x"},
		"empty user":  {},
		"user line":   {User: "a\nProxyCommand x"},
		"agent words": {User: "a", AgentPath: "agent; rm -rf /"},
		"agent dash":  {User: "a", AgentPath: "-x"},
		"key missing": {User: "a", KeyFile: filepath.Join(t.TempDir(), "none")},
		"port":        {User: "a", Port: 70000},
	} {
		if _, err := bad.complete(); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := good.complete(); err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"-oProxyCommand=x", "a b", "10.0.0.1\nUser x", "$(x)"} {
		target := Target{InstanceID: memberID, Address: address, HostKey: "ssh-ed25519 AAAA"}
		if err := target.check(); err == nil {
			t.Errorf("address %q: taken", address)
		}
	}
	target := Target{InstanceID: "i-x *", Address: "10.0.0.1", HostKey: "ssh-ed25519 AAAA"}
	if err := target.check(); err == nil {
		t.Error("an instance id that is none was taken")
	}
}

func TestFarSideThatCannot(t *testing.T) {
	server, f, first, second := two(t, blank.Volume(t))
	script := func(text string) func() {
		return func() {
			if err := os.WriteFile(f.script, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tc := range []struct {
		name string
		do   func()
		kind error
		want string
	}{
		{"no agent", func() { f.options.AgentPath = f.script + "-none" }, ErrNoAgent, "agent-none"},
		{"agent cannot be executed", func() { _ = os.Chmod(f.script, 0o644) }, ErrNoAgent, "Permission denied"},
		{"agent that is too old", script("echo 'unknown command \"receive\"' >&2; exit 2"), ErrNoAgent, `unknown command "receive"`},
		{"agent that is too new", script(`echo '{"schema":99,"state":"listening","agent":"9.9"}'; cat >/dev/null`), ErrNoAgent, "its version 9.9 speaks protocol 99"},
		{"greeting after talk without a newline", script(`printf 'hi {you} '; echo '{"schema":99,"state":"listening","agent":"9.9"}'; cat >/dev/null`),
			ErrNoAgent, "its version 9.9 speaks protocol 99"},
		{"something else", script("yes"), ErrNoAgent, "talks without end"},
		{"silence", func() { script("exec sleep 60")(); f.options.GreetingTimeout = time.Second }, ErrUnreachable, "within 1s; nothing was heard from there"},
		{"a prompt", func() {
			script(`printf 'one\ntwo\nAccept? [y/n] '; echo "to whom it may concern" >&2; exec sleep 60`)()
			f.options.GreetingTimeout = 8 * time.Second // to log in on a busy machine, too
		}, ErrNoAgent, `no greeting of the agent within 8s; heard on stdout: "one; two; Accept? [y/n]", on stderr: "to whom it may concern"`},
		{"a shell for nobody", script("echo 'This account is currently not available.'; exit 1"), ErrNoAgent, `exit code 1 (on stdout: "This account is currently not available.")`},
		{"booting", func() { f.agent(t, "PUSH_TEST_BOOTING=1") }, ErrNotReady, "the boot is still going on"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f.agent(t)
			_ = os.Chmod(f.script, 0o755)
			options := f.options
			defer func() { f.options = options }()
			tc.do()
			s, err := Open(t.Context(), f.target, f.options)
			if err == nil {
				_, err = s.Stage(t.Context(), f.desired(t, server, second, first.ID))
				_ = s.Close()
			}
			wantError(t, err, tc.kind, tc.want)
		})
	}
}

// A member that boots is asked again, over the same connection.
func TestMemberThatIsNotReadyKeepsItsConnection(t *testing.T) {
	server, f, first, second := two(t, blank.Volume(t))
	f.agent(t, "PUSH_TEST_BOOTING=1")
	s := f.open(t)
	for range 2 {
		_, err := s.Stage(t.Context(), f.desired(t, server, second, first.ID))
		wantError(t, err, ErrNotReady)
	}
}

// program puts a program of the operator into a directory, which it makes.
func program(t *testing.T, path, script string) {
	t.Helper()
	err := os.Mkdir(filepath.Dir(path), 0o755)
	if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	if err = errors.Join(err, os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755)); err != nil {
		t.Fatal(err)
	}
}

func TestHookThatFailsIsNamed(t *testing.T) {
	server, f, first, second := two(t, blank.Volume(t))
	dir := t.TempDir()
	program(t, dir+"/activate.d/50-reload", "echo no such service >&2; exit 3")
	f.agent(t, "PUSH_TEST_PROGRAMS="+dir)
	s := f.open(t)
	if _, err := s.Stage(t.Context(), f.desired(t, server, second, first.ID)); err != nil {
		t.Fatal(err)
	}
	err := s.Activate(t.Context(), f.desired(t, server, second))
	failed, ok := errors.AsType[*HookError](err)
	if !ok || failed.Name != "50-reload" || failed.Code != 3 || failed.Line != "no such service" {
		t.Fatalf("%v", err)
	}
	if current, err := f.Current(); current != second.ID || err != nil {
		t.Errorf("current is %s, %v", current, err)
	}
}

// What stage.d or drain.d refuses does not become current, and the publisher hears the words of the
// program.
func TestProgramThatRefusesIsNamed(t *testing.T) {
	server, f, first, second := two(t, blank.Volume(t))
	dir := t.TempDir()
	program(t, dir+"/stage.d/10-smoke", "test -e "+dir+"/good && exit; grep -r . $EBS_RELEASE_STAGED; echo no index.html >&2; exit 3")
	f.agent(t, "PUSH_TEST_PROGRAMS="+dir)
	s := f.open(t)
	to := f.desired(t, server, second, first.ID)
	_, err := s.Stage(t.Context(), to)
	wantError(t, err, ErrRefused, "stage.d: 10-smoke ended with exit code 3: no index.html")
	put(t, dir, "good", "")
	if _, err := s.Stage(t.Context(), to); err != nil {
		t.Fatal(err)
	}
	program(t, dir+"/drain.d/10-lb", "echo no space left on device; exit 4")
	program(t, dir+"/activate.d/50-reload", `echo $EBS_RELEASE_ID >> `+dir+"/ran")
	wantError(t, s.Activate(t.Context(), f.desired(t, server, second)), ErrRefused, "drain.d: 10-lb ended with exit code 4: no space left")
	if current, err := f.Current(); current != first.ID || err != nil {
		t.Errorf("current is %s, %v", current, err)
	}
	if ran := read(t, dir+"/ran"); ran != first.ID+"\n" {
		t.Errorf("activate.d ran for %q", ran)
	}
	program(t, dir+"/drain.d/10-lb", "exit 0")
	program(t, dir+"/ready.d/10-http", "echo connection refused; exit 7")
	failed, ok := errors.AsType[*HookError](s.Activate(t.Context(), f.desired(t, server, second)))
	if !ok || failed.Name != "ready.d/10-http" || failed.Code != 7 || failed.Line != "connection refused" {
		t.Errorf("%+v", failed)
	}
}

func TestFullMemberIsItsOwnError(t *testing.T) {
	member := small(t, 2048)
	server, f, first, _ := two(t, member)
	dir := t.TempDir()
	put(t, dir, "big", strings.Repeat("x", 1<<20))
	big := publish(t, server, dir, 3)

	t.Run("seen before", func(t *testing.T) {
		if err := os.WriteFile(member.Root()+"/taken", make([]byte, 1500<<10), 0o644); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.Remove(member.Root() + "/taken") }()
		_, err := f.open(t).Stage(t.Context(), f.desired(t, server, big, first.ID))
		wantError(t, err, ErrNoSpace, "the release needs 1.0 MiB more")
	})
	t.Run("room again", func(t *testing.T) {
		if _, err := f.open(t).Stage(t.Context(), f.desired(t, server, big, first.ID)); err != nil {
			t.Fatal(err)
		}
		same(t, server.Path(big.ID), f.Path(big.ID))
	})
}

// children lists the processes of this test that run in a directory.
func running(t *testing.T, dir string) []int {
	t.Helper()
	found, _ := filepath.Glob("/proc/[0-9]*/cwd")
	var pids []int
	for _, link := range found {
		if to, _ := os.Readlink(link); strings.TrimSuffix(to, " (deleted)") == dir {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(link)))
			pids = append(pids, pid)
		}
	}
	return pids
}

func TestCloseLeavesNothingBehind(t *testing.T) {
	f := newFar(t, blank.Volume(t))
	s, err := Open(t.Context(), f.target, f.options)
	if err != nil {
		t.Fatal(err)
	}
	if len(running(t, s.dir)) == 0 {
		t.Fatal("test bug: no process to be seen")
	}
	start := time.Now()
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 10*closeGrace { // it is bounded, however busy the machine is
		t.Fatalf("closing took %s", took)
	}
	if _, err := os.Stat(s.dir); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("%s is still there", s.dir)
	}
	if left := running(t, s.dir); len(left) != 0 {
		t.Fatalf("still running: %v", left)
	}
}

func TestContextEndsASessionAndWhatItRuns(t *testing.T) {
	f := newFar(t, blank.Volume(t))
	f.agent(t, "PUSH_TEST_HANG=1")
	for name, life := range map[string]bool{"of the session": true, "of the request": false} {
		t.Run(name, func(t *testing.T) {
			whole, one := t.Context(), t.Context()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if life {
				whole = ctx
			} else {
				one = ctx
			}
			s, err := Open(whole, f.target, f.options)
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() {
				_, err := s.Verify(one, "20261122T231500Z-9f31c0de77aa", strings.Repeat("a", 64), 1)
				done <- err
			}()
			for { // until it runs; the test's own time limit ends it
				if err := os.Remove(f.Root() + "/hangs"); err == nil {
					break
				}
				time.Sleep(time.Millisecond)
			}
			cancel()
			select {
			case err := <-done:
				if !errors.Is(err, context.Canceled) {
					t.Fatalf("got %v", err)
				}
			case <-time.After(5 * time.Second):
				t.Fatal("the request outlived its context")
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if left := running(t, s.dir); len(left) != 0 {
				t.Fatalf("still running: %v", left)
			}
		})
	}
}

func TestLostConnectionSaysSo(t *testing.T) {
	server, f, first, second := two(t, blank.Volume(t))
	s := f.open(t)
	// The master is the session's process: the first one that runs there.
	if err := syscall.Kill(running(t, s.dir)[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-s.done
	_, err := s.Stage(t.Context(), f.desired(t, server, second, first.ID))
	wantError(t, err, ErrLost)
}
