package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ebs-release/internal/cli"
	"ebs-release/internal/config"
	"ebs-release/internal/doctor"
	"ebs-release/internal/exit"
	"ebs-release/internal/gc"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
	"ebs-release/internal/publish/checks"
	"ebs-release/internal/release"
	"ebs-release/internal/server"
	"ebs-release/internal/test/scratch"
)

const someStore = "0123456789abcdef"

// keyed is a release server from before keys: a volume with a release, and a store whose pointer
// names it.
type keyed struct {
	t      *testing.T
	env    map[string]string
	volume *release.Volume
	store  *pointer.Store
	in     release.Ingested
}

func newKeyed(t *testing.T) *keyed {
	t.Helper()
	point := filepath.Join(t.TempDir(), "release")
	must(t, os.Mkdir(point, 0o755))
	scratch.Mount(t, scratch.Disk(t, 16<<20, "mkfs.ext4", "-q"), point, "ext4", 0, "")
	k := &keyed{t: t, env: map[string]string{
		"EBS_RELEASE_POINTER_STORE": t.TempDir(), "EBS_RELEASE_MOUNT_POINT": point, "EBS_RELEASE_GROUPS": "web",
		"EBS_RELEASE_SIGNING_KEY": filepath.Join(t.TempDir(), "signing.key"),
	}}
	var err error
	if k.volume, err = release.Open(point); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.volume.Close() })
	must(t, k.volume.Init(0, 0))
	source := t.TempDir()
	must(t, os.WriteFile(filepath.Join(source, "version"), []byte("one"), 0o600))
	if k.in, err = k.volume.Ingest(t.Context(), source, dayOf(1), gc.Wanted{}); err != nil {
		t.Fatal(err)
	}
	if k.store, err = pointer.Open(t.Context(), k.env["EBS_RELEASE_POINTER_STORE"], nil); err != nil {
		t.Fatal(err)
	}
	must(t, k.store.SetID(t.Context(), someStore))
	must(t, k.volume.SetStore(t.Context(), someStore))
	must(t, k.store.CompareAndSwap(t.Context(), pointer.Pointer{}, k.pointer(1)))
	return k
}

func (k *keyed) pointer(generation int64) pointer.Pointer {
	return pointer.Pointer{
		Generation: generation, Release: k.in.ID, Digest: k.in.Digest, Snapshots: map[string]string{"eu-central-1": "snap-0123456789abcdef0"},
		Created: dayOf(1), By: "alice@server", Message: "fix \x1b[31mit", Store: someStore,
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (k *keyed) ok(args ...string) (stdout, stderr string) {
	k.t.Helper()
	code, stdout, stderr := call(k.t, k.env, args...)
	if code != 0 {
		k.t.Fatalf("%v: code %d, %q, %q", args, code, stdout, stderr)
	}
	return stdout, stderr
}

func (k *keyed) refused(code int, args []string, want ...string) {
	k.t.Helper()
	got, _, stderr := call(k.t, k.env, args...)
	if got != code {
		k.t.Errorf("%v: code %d, want %d: %s", args, got, code, stderr)
	}
	for _, words := range want {
		if !strings.Contains(stderr, words) {
			k.t.Errorf("%v: %q, want %q in it", args, stderr, words)
		}
	}
}

func (k *keyed) document() string {
	k.t.Helper()
	data, err := os.ReadFile(filepath.Join(k.env["EBS_RELEASE_POINTER_STORE"], "release.json"))
	must(k.t, err)
	return string(data)
}

func (k *keyed) keys() server.Keys {
	return server.Keys{Path: k.env["EBS_RELEASE_SIGNING_KEY"], On: k.volume}
}

// signs is P0's check of the signing key, as a verb sees it.
func (k *keyed) signs(verb string) error {
	k.t.Helper()
	opened := &releaseVolume{point: k.volume.Root()}
	defer func() { _ = opened.close() }()
	store, err := pointer.Open(k.t.Context(), k.env["EBS_RELEASE_POINTER_STORE"], nil)
	must(k.t, err)
	c := checks.Checks{Store: store, Volume: opened, Signs: sign(store, opened, k.env["EBS_RELEASE_SIGNING_KEY"])}
	all := p0(c, verb)
	return all[slices.IndexFunc(all, func(c publish.Check) bool { return c.Name == "signing key" })].Do(k.t.Context())
}

func TestStoreFromBeforeKeysGetsThem(t *testing.T) {
	k := newKeyed(t)
	if stdout, _ := k.ok("key", "show"); !strings.Contains(stdout, "generation 1, not signed") || !strings.Contains(stdout, "ebs-release key init") {
		t.Errorf("%q", stdout)
	}
	if _, stderr := k.ok("history"); stderr != "" {
		t.Errorf("history before: %q", stderr)
	}
	for _, verb := range []string{verbPublish, verbDoctor} {
		if err := k.signs(verb); err == nil || !strings.Contains(err.Error(), "the release volume has no keys") || !strings.Contains(err.Error(), "Try: ebs-release key init") {
			t.Errorf("%s: %v", verb, err)
		}
	}
	if err := k.signs(verbConverge); err != nil {
		t.Errorf("converge: %v", err)
	}
	k.refused(exit.Unchanged, []string{"key", "sign", "--yes"}, "has no keys", "key init")

	before := k.document()
	if stdout, stderr := k.ok("key", "init"); !strings.Contains(stdout, "ebs-release key sign") || !strings.Contains(stderr, "back it up") {
		t.Errorf("%q, %q", stdout, stderr)
	}
	if k.document() != before {
		t.Error("key init wrote the pointer")
	}
	ring, err := k.keys().Open()
	must(t, err)
	secret := ring.Signing[0]
	if packs, err := k.volume.PackKey(); err != nil || packs == "" {
		t.Errorf("what opens the packs: %q, %v", packs, err)
	}
	if _, stderr := k.ok("history"); !strings.Contains(stderr, "nothing can be published") || !strings.Contains(stderr, "key sign") {
		t.Errorf("history, unsigned: %q", stderr)
	}

	stdout, stderr := k.ok("key", "sign", "--yes")
	if !strings.Contains(stdout, "generation 1, signed by "+secret.Public().ID()) {
		t.Errorf("%q", stdout)
	}
	for _, words := range []string{k.in.ID, k.in.Digest, "snap-0123456789abcdef0", "alice@server", `"fix \x1b[31mit"`, "the release volume has, too"} {
		if !strings.Contains(stderr, words) {
			t.Errorf("it showed %q, want %q in it", stderr, words)
		}
	}
	if p, err := pointer.Parse([]byte(k.document())); err != nil || p.Generation != 1 || p.Revision != 2 || p.Release != k.in.ID || p.Store != someStore {
		t.Errorf("%+v, %v", p, err)
	}
	if err := k.signs(verbPublish); err != nil {
		t.Errorf("publish: %v", err)
	}
	if stdout, stderr := k.ok("history"); stderr != "" || !strings.Contains(stdout, "key sign") || !strings.Contains(stdout, "key init") {
		t.Errorf("history after: %q, %q", stdout, stderr)
	}
	signed := k.document()
	if stdout, _ := k.ok("key", "init"); !strings.Contains(stdout, "done before") {
		t.Errorf("once more: %q", stdout)
	}
	k.ok("key", "sign")
	if k.document() != signed {
		t.Error("it was signed twice")
	}
}

func TestKeyShowIsForProgramsAndNeverSecret(t *testing.T) {
	k := newKeyed(t)
	k.ok("key", "init")
	k.ok("key", "sign", "--yes")
	ring, err := k.keys().Open()
	must(t, err)
	secret := ring.Signing[0]
	packs, err := k.volume.PackKey()
	must(t, err)
	stdout, _ := k.ok("key", "show", "--output", "json")
	var report keyReport
	must(t, json.Unmarshal([]byte(stdout), &report))
	if report.Schema != 1 || report.Store != someStore || report.Signs != secret.Public().ID() || !report.Pointer.Signed || len(report.Keys) != 1 {
		t.Fatalf("%s", stdout)
	}
	if err := pointer.CheckTrusted(report.Keys[0].Trusted); err != nil {
		t.Errorf("the agent refuses %q: %v", report.Keys[0].Trusted, err)
	}
	trusted, err := pointer.Trusted([]string{report.Keys[0].Trusted}, someStore)
	if err != nil || pointer.CheckSignature([]byte(k.document()), trusted) != nil {
		t.Errorf("the agent does not believe the pointer: %v", err)
	}
	text, _ := k.ok("key", "show")
	for _, words := range []string{someStore, secret.Public().ID(), report.Keys[0].Trusted, "generation 1, signed by"} {
		if !strings.Contains(text, words) {
			t.Errorf("%q: want %q in it", text, words)
		}
	}
	for _, hidden := range []string{strings.TrimSpace(secret.Text()), packs} {
		if strings.Contains(stdout+text, hidden) {
			t.Error("it showed a secret")
		}
	}
}

// Nothing is published with a key that members do not believe. What only reads goes on, and says
// so.
func TestPublishFailsClosedWithoutItsKey(t *testing.T) {
	path := "EBS_RELEASE_SIGNING_KEY"
	for name, change := range map[string]func(k *keyed){
		"missing": func(k *keyed) { must(k.t, os.Remove(k.env[path])) },
		"another": func(k *keyed) {
			other, err := pointer.NewKey()
			must(k.t, err)
			must(k.t, os.WriteFile(k.env[path], []byte(other.Text()), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKeyed(t)
			k.ok("key", "init")
			k.ok("key", "sign", "--yes")
			change(k)
			before := k.document()
			for _, verb := range []string{verbPublish, verbRollback, verbDoctor} {
				if err := k.signs(verb); err == nil || errors.As(err, new(doctor.Minor)) || !strings.Contains(err.Error(), "Try: put the key file") {
					t.Errorf("%s: %v", verb, err)
				}
			}
			if err := k.signs(verbConverge); err != nil {
				t.Errorf("converge only reads: %v", err)
			}
			opened := &releaseVolume{point: k.volume.Root()}
			defer func() { _ = opened.close() }()
			sign(k.store, opened, k.env[path])
			now, err := k.store.Read(t.Context())
			must(t, err)
			if err := k.store.CompareAndSwap(t.Context(), now, k.pointer(2)); err == nil || k.document() != before {
				t.Errorf("the pointer was written without its key: %v", err)
			}
			if _, stderr := k.ok("history"); !strings.Contains(stderr, "warning: nothing can be published") {
				t.Errorf("history: %q", stderr)
			}
			var shown keyReport
			stdout, _ := k.ok("key", "show", "--output", "json")
			must(t, json.Unmarshal([]byte(stdout), &shown))
			if shown.Problem == "" || shown.Signs != "" || !shown.Pointer.Signed {
				t.Errorf("key show: %s", stdout)
			}
			k.refused(exit.Unchanged, []string{"key", "init"}, "Try: put the key file", "key init --lost")
			k.refused(exit.Unchanged, []string{"key", "sign", "--yes"}, "Try: put the key file")

			// It is lost, and nobody has a copy.
			stdout, _ = k.ok("key", "init", "--lost")
			if !strings.Contains(stdout, "key sign") {
				t.Errorf("%q", stdout)
			}
			k.ok("key", "sign", "--yes")
			if err := k.signs(verbPublish); err != nil {
				t.Errorf("publish with the new one: %v", err)
			}
			k.refused(exit.Unchanged, []string{"key", "init", "--lost"}, "is not lost")
		})
	}
}

// The server, its key and its pointer store are lost; the volume is there.
func TestLostKeyOnANewServer(t *testing.T) {
	k := newKeyed(t)
	k.ok("key", "init")
	k.env["EBS_RELEASE_POINTER_STORE"], k.env["EBS_RELEASE_SIGNING_KEY"] = t.TempDir(), filepath.Join(t.TempDir(), "signing.key")
	k.refused(exit.Unchanged, []string{"key", "init"}, someStore, "key init --lost")
	k.ok("key", "init", "--lost")
	if _, err := k.keys().Open(); err != nil {
		t.Error(err)
	}
}

func TestKeySignRefusesWhatCannotBeRight(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(k *keyed, p *pointer.Pointer)
		want   string
	}{
		"an older generation": {func(k *keyed, _ *pointer.Pointer) {
			must(k.t, k.volume.Activate(k.t.Context(), k.in.ID, k.in.Digest, 5))
		}, "has had 5"},
		"another release of that name": {func(_ *keyed, p *pointer.Pointer) {
			p.Digest = strings.Repeat("f", 64)
		}, "that is another one"},
		"of another store": {func(_ *keyed, p *pointer.Pointer) { p.Store = "ffffffffffffffff" }, "store ffffffffffffffff"},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKeyed(t)
			k.ok("key", "init")
			p := k.pointer(2)
			tc.change(k, &p)
			planted := string(p.Render())
			must(t, os.WriteFile(filepath.Join(k.env["EBS_RELEASE_POINTER_STORE"], "release.json"), []byte(planted), 0o644))
			code, _, stderr := call(t, k.env, "key", "sign", "--yes")
			if code == 0 || !strings.Contains(stderr, tc.want) || k.document() != planted {
				t.Errorf("code %d, %q", code, stderr)
			}
		})
	}
	t.Run("without a person", func(t *testing.T) {
		k := newKeyed(t)
		k.ok("key", "init")
		before := k.document()
		k.refused(exit.Unchanged, []string{"key", "sign"}, "Try: --yes")
		if k.document() != before {
			t.Error("it was signed")
		}
	})
	t.Run("while a publish runs", func(t *testing.T) {
		k := newKeyed(t)
		k.ok("key", "init")
		unlock, err := k.volume.LockPublish()
		must(t, err)
		defer func() { must(t, unlock()) }()
		k.refused(exit.Conflict, []string{"key", "sign", "--yes"}, "nothing was changed")
		k.refused(exit.Conflict, []string{"key", "init"}, "nothing was changed")
	})
}

// Whoever may write to the store chose the packs and the snapshot, too.
func TestKeySignShowsAllThatItSigns(t *testing.T) {
	k := newKeyed(t)
	k.ok("key", "init")
	other, err := pointer.NewKey()
	must(t, err)
	p, from := k.pointer(2), strings.Repeat("e", 64)
	p.SnapshotOf = &pointer.Held{Generation: 1, Release: "20260101T000000Z-eeeeeeeeeeee", Digest: from}
	p.Edges = []pointer.Edge{{
		From: from, To: p.Digest, Release: p.Release, Pack: pointer.PackKey(from, p.Digest, from), Bytes: 1, SHA256: from, Made: dayOf(2),
	}}
	document, err := p.Sign(other)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(k.env["EBS_RELEASE_POINTER_STORE"], "release.json"), document, 0o644))
	_, stderr := k.ok("key", "sign", "--yes")
	for _, want := range []string{"of generation 1, release 20260101T000000Z-eeeeeeeeeeee", "1, the last to release " + p.Release, other.Public().ID()} {
		if !strings.Contains(stderr, want) {
			t.Errorf("it showed %q, want %q in it", stderr, want)
		}
	}
}

func TestKeySignAsksOnATerminal(t *testing.T) {
	for answer, signed := range map[string]bool{"yes\n": true, "no\n": false, "\n": false, "yes, all\n": false} {
		t.Run(strings.TrimSpace(answer), func(t *testing.T) {
			k := newKeyed(t)
			k.ok("key", "init")
			master, terminal := pseudoTerminal(t)
			defer func() { _ = terminal.Close() }()
			if _, err := master.WriteString(answer); err != nil {
				t.Fatal(err)
			}
			found, err := k.store.Look(t.Context())
			must(t, err)
			ring := keyring{volume: k.volume, keys: k.keys(), store: k.store, id: someStore}
			p := &program{stdout: &cli.Stdout{Writer: io.Discard, Lets: true}, stderr: io.Discard}
			if err := p.confirm(t.Context(), ring, found, terminal, false); (err == nil) != signed {
				t.Errorf("%v", err)
			}
		})
	}
}

// A publish that began with the keys of before ends at the volume's lock.
func TestPublishNoticesNewKeys(t *testing.T) {
	k := newKeyed(t)
	opened := &releaseVolume{point: k.volume.Root()}
	defer func() { _ = opened.close() }()
	did := func(format string, args ...any) { t.Errorf("it did "+format, args...) }
	began := sign(k.store, opened, k.env["EBS_RELEASE_SIGNING_KEY"])
	must(t, began.Settle(t.Context(), k.volume, did))
	k.ok("key", "init")
	if err := began.Settle(t.Context(), k.volume, did); exit.Code(err) != exit.Conflict {
		t.Errorf("%v", err)
	}
	must(t, sign(k.store, opened, k.env["EBS_RELEASE_SIGNING_KEY"]).Settle(t.Context(), k.volume, did))
}

// Another release server has rotated the key: with the older one this server would hand that on.
func TestPublishNoticesANewerKey(t *testing.T) {
	k := newKeyed(t)
	k.ok("key", "init")
	k.ok("key", "sign", "--yes")
	ring, err := k.keys().Open()
	must(t, err)
	newer, err := pointer.NewKey()
	must(t, err)
	for want, names := range map[string]pointer.SecretKey{newer.Public().ID(): newer, "": ring.Signing[0]} {
		p := k.pointer(2)
		p.Keys = []string{names.Public().String(), ring.Public()[0]}
		document, err := p.Sign(newer, ring.Signing[0])
		must(t, err)
		k.say(document)
		if err := k.signs(verbPublish); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
}

// An old copy of the volume, without keys, does not make a signed store an unsigned one.
func TestPublishDoesNotGoBackToUnsigned(t *testing.T) {
	k := newKeyed(t)
	secret, err := pointer.NewKey()
	must(t, err)
	k.store.SignWith(nil, secret)
	now, err := k.store.Read(t.Context())
	must(t, err)
	must(t, k.store.CompareAndSwap(t.Context(), now, k.pointer(2)))
	if err := k.signs(verbPublish); err == nil || !strings.Contains(err.Error(), secret.Public().ID()) {
		t.Errorf("%v", err)
	}
}

func TestSigningKeyIsNotFrozen(t *testing.T) {
	k := newKeyed(t)
	k.env["EBS_RELEASE_SIGNING_KEY"] = filepath.Join(k.volume.Root(), "signing.key")
	k.refused(exit.Unchanged, []string{"key", "init"}, "another signing-key")
	must(t, os.WriteFile(k.env["EBS_RELEASE_SIGNING_KEY"], nil, 0o600))
	values, err := config.Load(settingsTable(), "", nil, func(name string) string { return k.env[name] })
	must(t, err)
	if err := holder(k.volume.Root(), needed(values, "")).Check(); err == nil || !strings.Contains(err.Error(), "the signing key") {
		t.Errorf("%v", err)
	}
}

func TestStatusSaysThatNothingCanBePublished(t *testing.T) {
	k := newKeyed(t)
	k.ok("key", "init")
	wrong := keyPlaces{k.volume.Root(), k.env["EBS_RELEASE_SIGNING_KEY"]}.wrong(t.Context(), k.store)
	if wrong == nil {
		t.Fatal("an unsigned pointer is fine")
	}
	var out strings.Builder
	must(t, printStatus(&out, statusReport{Generation: 1, Warnings: []string{wrong.Error()}, Members: []publish.Member{}}))
	if !strings.Contains(out.String(), "warning: nothing can be published") {
		t.Errorf("%q", out.String())
	}
}
