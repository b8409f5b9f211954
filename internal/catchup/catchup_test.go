package catchup

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ebs-release/internal/gc"
	"ebs-release/internal/pack"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/store"
	"ebs-release/internal/test/blank"
	"ebs-release/internal/test/scratch"

	"filippo.io/age"
)

// world is a release server with its store, and a member's volume that holds its first release.
type world struct {
	server, member *release.Volume
	dir            string // of the store
	objects        store.Store
	releases       []release.Ingested
	edges          []pointer.Edge
	secret         pointer.SecretKey
	web            *httptest.Server
	refuse         atomic.Pointer[http.HandlerFunc] // answers in place of the store
}

// newWorld has as many releases as asked for, and a pack from each to the next.
func newWorld(t *testing.T, releases int, secret bool) *world {
	t.Helper()
	w := &world{server: blank.Volume(t), member: blank.Volume(t), dir: t.TempDir()}
	var err error
	if w.objects, err = store.NewDirectory(w.dir); err != nil {
		t.Fatal(err)
	}
	if w.secret, err = pointer.NewKey(); err != nil {
		t.Fatal(err)
	}
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []*release.Volume{w.server, w.member} {
		if err := errors.Join(v.SetPackKey(t.Context(), key.String()), v.SetKeys(t.Context(), []string{w.secret.Public().String()})); err != nil {
			t.Fatal(err)
		}
	}
	for n := range releases {
		w.publish(t, n+1, secret)
	}
	w.seed(t)
	w.web = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if instead := w.refuse.Load(); instead != nil {
			(*instead)(rw, r)
			return
		}
		http.ServeFile(rw, r, filepath.Join(w.dir, r.URL.Path))
	}))
	t.Cleanup(w.web.Close)
	return w
}

// source is a tree in which every release changes something.
func source(t *testing.T, n int) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"same": "same", "number": fmt.Sprint(n), fmt.Sprintf("only-%d", n): strings.Repeat("x", n), "dir/deep": fmt.Sprint("deep", n/2),
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func (w *world) publish(t *testing.T, n int, secret bool) {
	t.Helper()
	made, err := w.server.Ingest(t.Context(), source(t, n), time.Now(), gc.Wanted{Keep: 50})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.server.Activate(t.Context(), made.ID, made.Digest, int64(n)); err != nil {
		t.Fatal(err)
	}
	if len(w.releases) > 0 {
		e, err := Make(t.Context(), w.server, w.objects, w.releases[len(w.releases)-1].ID, made.ID, secret)
		if err != nil {
			t.Fatal(err)
		}
		w.edges = append(w.edges, e)
	}
	w.releases = append(w.releases, made)
}

// seed gives the member the first release, by a pack from nothing.
func (w *world) seed(t *testing.T) {
	t.Helper()
	first := w.releases[0]
	e, err := Make(t.Context(), w.server, w.objects, "", first.ID, false)
	if err != nil {
		t.Fatal(err)
	}
	p := pointer.Pointer{Generation: 1, Release: first.ID, Digest: first.Digest, Edges: []pointer.Edge{e}}
	if way, err := w.volume(true).To(t.Context(), p); err != nil || way.Packs != 1 || way.From != "" {
		t.Fatalf("%+v, %v", way, err)
	}
	if err := w.member.Activate(t.Context(), first.ID, first.Digest, 1); err != nil {
		t.Fatal(err)
	}
}

func (w *world) volume(served bool) *Volume {
	return &Volume{
		Volume: w.member, Served: served, Wanted: gc.Wanted{Keep: 3},
		Packs: func(context.Context) (store.Reader, error) {
			if w.web == nil {
				return w.objects, nil
			}
			return store.NewHTTP(w.web.URL+"/release.json", nil)
		},
	}
}

// pointer names the last release.
func (w *world) pointer() pointer.Pointer {
	last := w.releases[len(w.releases)-1]
	return pointer.Pointer{
		Schema: pointer.Signed, Generation: int64(len(w.releases)), Release: last.ID, Digest: last.Digest, Store: "0123456789abcdef",
		Snapshots: map[string]string{"eu-west-1": "snap-0123456789abcdef0"}, Edges: w.edges,
	}
}

// holds fails unless a release is on the member, whole.
func (w *world) holds(t *testing.T, r release.Ingested) {
	t.Helper()
	if err := w.member.Verify(t.Context(), r.ID); err != nil {
		t.Error(err)
	}
	if digest, err := w.member.ManifestDigest(r.ID); err != nil || digest != r.Digest {
		t.Errorf("release %s has digest %s, %v, want %s", r.ID, digest, err, r.Digest)
	}
}

func TestVolumeCatchesUp(t *testing.T) {
	for name, tc := range map[string]struct {
		releases       int
		served, secret bool
	}{
		"one pack, in place":              {2, false, false},
		"one pack, beside":                {2, true, false},
		"a chain, in place and encrypted": {5, false, true},
		"a chain, beside and encrypted":   {5, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, tc.releases, tc.secret)
			first, last := w.releases[0], w.releases[tc.releases-1]
			way, err := w.volume(tc.served).To(t.Context(), w.pointer())
			if err != nil || way.Packs != tc.releases-1 || way.From != first.ID || way.Bytes == 0 {
				t.Fatalf("%+v, %v", way, err)
			}
			w.holds(t, last)
			if err := w.member.Verify(t.Context(), first.ID); (err == nil) != tc.served {
				t.Errorf("the release before, served %v: %v", tc.served, err)
			}
			if err := w.member.Activate(t.Context(), last.ID, last.Digest, int64(tc.releases)); err != nil {
				t.Error(err)
			}
			w.web.Close()
			if way, err := w.volume(tc.served).To(t.Context(), w.pointer()); err != nil || way.Packs != 0 {
				t.Errorf("once more, without a store: %+v, %v", way, err)
			}
		})
	}
}

// A pack that is encrypted for the volume says nothing to who reads the store.
func TestSecretPackIsNotReadable(t *testing.T) {
	w := newWorld(t, 2, true)
	file, err := os.Open(filepath.Join(w.dir, w.edges[0].Pack))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	if _, err := open(file, ""); err == nil || !strings.Contains(err.Error(), "the volume has no key") {
		t.Errorf("without a key: %v", err)
	}
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(file, other.String()); err == nil || strings.Contains(err.Error(), other.String()) {
		t.Errorf("with another key: %v", err)
	}
}

func answer(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

// Whatever is wrong with a pack, the volume stays as it was, and what is wrong is said in one line.
func TestBadPacksChangeNothing(t *testing.T) {
	type bad struct {
		with func(t *testing.T, w *world, p *pointer.Pointer)
		kind error // nil: none of ours
		want string
	}
	replace := func(change func([]byte) []byte) func(*testing.T, *world, *pointer.Pointer) {
		return func(t *testing.T, w *world, p *pointer.Pointer) {
			path := filepath.Join(w.dir, p.Edges[0].Pack)
			data, err := os.ReadFile(path)
			if err == nil {
				err = os.WriteFile(path, change(data), 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	instead := func(do http.HandlerFunc) func(*testing.T, *world, *pointer.Pointer) {
		return func(_ *testing.T, w *world, _ *pointer.Pointer) { w.refuse.Store(&do) }
	}
	// vouched puts a pack under a signed pointer: its maker has the store's key.
	vouched := func(head func(*pack.Head), text func([]byte) []byte) func(*testing.T, *world, *pointer.Pointer) {
		return func(t *testing.T, w *world, p *pointer.Pointer) {
			c, err := w.server.Changes(t.Context(), w.releases[0].ID, w.releases[1].ID)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			h := pack.Head{From: c.FromDigest, To: c.ToDigest, Release: c.To}
			head(&h)
			var plain, sealed bytes.Buffer
			if err := pack.Write(t.Context(), &plain, h, c.All(t.Context()), c.Open); err != nil {
				t.Fatal(err)
			}
			seal, err := pack.NewSeal(&sealed, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := seal.Write(text(plain.Bytes())); err != nil {
				t.Fatal(err)
			}
			sum, err := seal.Close()
			if err != nil {
				t.Fatal(err)
			}
			p.Edges[0].Bytes, p.Edges[0].SHA256 = sum.Bytes, sum.SHA256
			if err := os.WriteFile(filepath.Join(w.dir, p.Edges[0].Pack), sealed.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	same := func(b []byte) []byte { return b }
	none := func(*pack.Head) {}
	for name, tc := range map[string]bad{
		"gone": {func(t *testing.T, w *world, p *pointer.Pointer) {
			if err := os.Remove(filepath.Join(w.dir, p.Edges[0].Pack)); err != nil {
				t.Fatal(err)
			}
		}, ErrGone, "404"},
		"cut off":               {replace(func(b []byte) []byte { return b[:len(b)-1] }), ErrStore, "bytes, want"},
		"a byte changed":        {replace(func(b []byte) []byte { b[len(b)/2] ^= 1; return b }), ErrStore, "sha256"},
		"too long":              {replace(func(b []byte) []byte { return append(b, 'x') }), ErrStore, "more than"},
		"empty":                 {replace(func([]byte) []byte { return nil }), ErrStore, "0 bytes"},
		"a web page":            {instead(answer(200, "<html>Sign in</html>")), ErrStore, "not the pack"},
		"forbidden":             {instead(answer(403, "")), ErrStore, "403"},
		"a part of another":     {instead(answer(206, "x")), ErrStore, "206"},
		"from another release":  {vouched(func(h *pack.Head) { h.From = strings.Repeat("a", 64) }, same), nil, "the pointer says"},
		"to another release":    {vouched(func(h *pack.Head) { h.To = strings.Repeat("a", 64) }, same), nil, "the pointer says"},
		"a path that leads out": {vouched(none, func(b []byte) []byte { return bytes.Replace(b, []byte(" only-2\n"), []byte(" ../x-2\n"), 1) }), nil, "change"},
		"no end":                {vouched(none, func(b []byte) []byte { return b[:len(b)-4] }), nil, "cut off"},
		"no way from what is held": {func(_ *testing.T, w *world, p *pointer.Pointer) {
			p.Edges = []pointer.Edge{{From: strings.Repeat("b", 64), To: p.Digest, Release: p.Release, Pack: w.edges[0].Pack, Bytes: 1}}
		}, ErrNoWay, "lists 1 packs"},
		"a higher fence": {func(_ *testing.T, _ *world, p *pointer.Pointer) { p.Generation = 0 }, release.ErrOldPointer, "the pointer says 0"},
	} {
		for _, served := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, served %v", name, served), func(t *testing.T) {
				w := newWorld(t, 2, false)
				p := w.pointer()
				tc.with(t, w, &p)
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				_, err := w.volume(served).To(ctx, p)
				if err == nil || tc.kind != nil && !errors.Is(err, tc.kind) || tc.kind == nil && (errors.Is(err, ErrStore) || errors.Is(err, ErrGone)) ||
					!strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
					t.Fatalf("got %v, want a %v with %q", err, tc.kind, tc.want)
				}
				w.holds(t, w.releases[0])
				if current, err := w.member.Current(); err != nil || current != w.releases[0].ID {
					t.Errorf("current is %s, %v", current, err)
				}
				if held, err := w.member.Releases(); err != nil || len(held) != 1 {
					t.Errorf("it holds %v, %v", held, err)
				}
			})
		}
	}
}

func TestWhatIsInReachIsReadAndNotKept(t *testing.T) {
	w := newWorld(t, 2, false)
	p := w.pointer()
	v := w.volume(true)
	v.Tries = 2
	name := filepath.Join(w.dir, p.Edges[0].Pack)
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Clone(whole)
	changed[len(changed)/2]++
	noWay := p
	noWay.Edges = nil
	for _, tc := range []struct {
		name string
		to   pointer.Pointer
		do   func() error
		want error
	}{
		{"all of it", p, func() error { return nil }, nil},
		{"no way", noWay, func() error { return nil }, ErrNoWay},
		{"another byte", p, func() error { return os.WriteFile(name, changed, 0o600) }, ErrStore},
		{"cut off", p, func() error { return os.WriteFile(name, whole[:len(whole)-1], 0o600) }, ErrStore},
		{"gone", p, func() error { return os.Remove(name) }, ErrGone},
	} {
		if err := tc.do(); err != nil {
			t.Fatal(err)
		}
		if err := v.InReach(t.Context(), tc.to); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
	w.holds(t, w.releases[0])
}

// What may be over in a moment is tried again, from the beginning.
func TestTroubleOfTheStoreIsTriedAgain(t *testing.T) {
	for name, fail := range map[string]func(w *world, rw http.ResponseWriter, whole []byte){
		"no answer": func(*world, http.ResponseWriter, []byte) { panic(http.ErrAbortHandler) },
		"busy":      func(_ *world, rw http.ResponseWriter, _ []byte) { rw.WriteHeader(503) },
		"cut off": func(_ *world, rw http.ResponseWriter, whole []byte) {
			rw.Header().Set("Content-Length", fmt.Sprint(len(whole)))
			_, _ = rw.Write(whole[:len(whole)/2])
			panic(http.ErrAbortHandler)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2, false)
			whole, err := os.ReadFile(filepath.Join(w.dir, w.edges[0].Pack))
			if err != nil {
				t.Fatal(err)
			}
			var asked atomic.Int32
			do := http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
				if asked.Add(1) <= 3 {
					fail(w, rw, whole)
					return
				}
				_, _ = rw.Write(whole)
			})
			w.refuse.Store(&do)
			if _, err := w.volume(false).To(t.Context(), w.pointer()); err != nil {
				t.Fatal(err)
			}
			w.holds(t, w.releases[1])
			if asked.Load() < 4 {
				t.Errorf("the store was asked %d times", asked.Load())
			}
		})
	}
}

func TestWhomAVolumeBelieves(t *testing.T) {
	w := newWorld(t, 2, false)
	other, err := pointer.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	p := w.pointer()
	sign := func(k pointer.SecretKey) []byte {
		document, err := p.Sign(k)
		if err != nil {
			t.Fatal(err)
		}
		return document
	}
	plain := p
	plain.Schema, plain.Edges = pointer.Schema, nil
	ours, theirs := p.Store+":"+w.secret.Public().String(), p.Store+":"+other.Public().String()
	bare := blank.Volume(t) // of before there were keys
	for name, tc := range map[string]struct {
		on       *release.Volume
		document []byte
		trusted  []string
		packs    int // -1: it is not believed
	}{
		"the volume's key":                {w.member, sign(w.secret), nil, 1},
		"another key":                     {w.member, sign(other), nil, -1},
		"trusted-keys":                    {w.member, sign(w.secret), []string{ours}, 1},
		"trusted-keys go before":          {w.member, sign(w.secret), []string{theirs}, -1},
		"trusted-keys of another store":   {w.member, sign(w.secret), []string{"ffff456789abcdef:" + w.secret.Public().String()}, -1},
		"not signed":                      {w.member, plain.Render(), nil, -1},
		"a plain line":                    {w.member, []byte("snap-0123456789abcdef0"), nil, -1},
		"no document":                     {w.member, nil, nil, -1},
		"no document, and trusted-keys":   {bare, nil, []string{ours}, -1},
		"not signed, and nobody has keys": {bare, plain.Render(), nil, 0},
		"not signed, and trusted-keys":    {w.member, plain.Render(), []string{ours}, -1},
		"no key on the volume":            {bare, sign(w.secret), nil, 0},
		"no key there, but trusted-keys":  {bare, sign(w.secret), []string{ours}, 1},
		"no key there, and trusted-keys'": {bare, sign(other), []string{ours}, -1},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Believe(tc.on, tc.document, tc.trusted)
			if tc.packs < 0 {
				if !errors.Is(err, pointer.ErrUnsigned) {
					t.Errorf("got %v, want an ErrUnsigned", err)
				}
				return
			}
			if err != nil || got.Generation != p.Generation || len(got.Edges) != tc.packs {
				t.Errorf("got %+v, %v, want %d packs", got, err, tc.packs)
			}
		})
	}
}

// damaged is a store that loses a byte of what it is given.
type damaged struct{ store.Store }

func (d damaged) Put(ctx context.Context, key string, body io.ReadSeeker) error {
	data, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	data[len(data)/2] ^= 1
	return d.Store.Put(ctx, key, bytes.NewReader(data))
}

// A pack is read back before anybody is told of it.
func TestPackThatDidNotArriveWholeIsNoPack(t *testing.T) {
	w := newWorld(t, 2, false)
	for _, secret := range []bool{false, true} {
		if _, err := Make(t.Context(), w.server, damaged{w.objects}, w.releases[0].ID, w.releases[1].ID, secret); !errors.Is(err, pack.ErrSum) ||
			!strings.Contains(err.Error(), "read pack packs/") {
			t.Errorf("encrypted %v: got %v", secret, err)
		}
	}
}

func TestEditedReleaseIsNotPacked(t *testing.T) {
	w := newWorld(t, 2, false)
	if err := os.WriteFile(filepath.Join(w.server.Path(w.releases[1].ID), "number"), []byte("9"), 0o644); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadDir(filepath.Join(w.dir, "packs"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Make(t.Context(), w.server, w.objects, w.releases[0].ID, w.releases[1].ID, false); err == nil || !strings.Contains(err.Error(), "edited in place") {
		t.Errorf("got %v", err)
	}
	if after, err := os.ReadDir(filepath.Join(w.dir, "packs")); err != nil || len(after) != len(before) {
		t.Errorf("the store has %d packs, had %d, %v", len(after), len(before), err)
	}
}

func TestNothingIsLeftOnTheVolume(t *testing.T) {
	w := newWorld(t, 3, true)
	if _, err := w.volume(true).To(t.Context(), w.pointer()); err != nil {
		t.Fatal(err)
	}
	for _, v := range []*release.Volume{w.server, w.member} {
		left, err := filepath.Glob(filepath.Join(v.Root(), ".ebs-release", "*.partial"))
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

// What may go for the new tree goes for its pack, too.
func TestRoomIsMadeForThePack(t *testing.T) {
	w := newWorld(t, 1, false)
	w.web.Close()
	w.web = nil
	disk := scratch.Disk(t, 64<<20, "mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal")
	point := t.TempDir()
	scratch.Mount(t, disk, point, "ext4", 0, "")
	var err error
	if w.member, err = release.Open(point); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.member.Close() })
	if err := w.member.Init(0, 0); err != nil {
		t.Fatal(err)
	}
	w.edges = nil
	for n, mib := range []int{4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 24} { // the ten leave about 20 MiB: the last pack alone does not fit
		dir, content := t.TempDir(), make([]byte, mib<<20)
		_, _ = rand.Read(content)
		if err := os.WriteFile(filepath.Join(dir, "big"), content, 0o644); err != nil {
			t.Fatal(err)
		}
		made, err := w.server.Ingest(t.Context(), dir, time.Now().Add(time.Duration(n)*time.Second), gc.Wanted{Keep: 50})
		if err != nil {
			t.Fatal(err)
		}
		from := ""
		if n > 0 {
			from = w.releases[len(w.releases)-1].ID
		}
		e, err := Make(t.Context(), w.server, w.objects, from, made.ID, false)
		if err != nil {
			t.Fatal(err)
		}
		w.edges, w.releases = append(w.edges, e), append(w.releases, made)
		p := w.pointer()
		to := w.volume(true)
		to.Wanted.Keep = 20
		if _, err := to.To(t.Context(), p); err != nil {
			t.Fatalf("release %d: %v", n+1, err)
		}
		w.holds(t, made)
		if err := w.member.Activate(t.Context(), made.ID, made.Digest, p.Generation); err != nil {
			t.Fatal(err)
		}
	}
}
