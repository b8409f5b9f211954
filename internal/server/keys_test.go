package server

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/pointer"
	"ebs-release/internal/release"

	"filippo.io/age"
	"golang.org/x/sys/unix"
)

const storeOne = "1111111111111111"

// opened is the release volume that init left mounted.
func opened(t *testing.T, point string) *release.Volume {
	t.Helper()
	v, err := release.Open(point)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	return v
}

// inited is a server with a pointer store, after init.
func inited(t *testing.T) (*account, *Server, *release.Volume) {
	t.Helper()
	s := newAccount(t, 32<<20)
	i := s.server(Wish{})
	i.PointerStore = t.TempDir()
	if _, err := i.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.unmount(i) })
	return s, i, opened(t, i.MountPoint)
}

// again is a later init of the same server.
func (s *account) again(i *Server) *Server {
	next := s.server(Wish{})
	next.PointerStore, next.SigningKey = i.PointerStore, i.SigningKey
	return next
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestInitMakesTheKeysOnce(t *testing.T) {
	s, i, v := inited(t)
	ring, err := Keys{i.SigningKey, v}.Open()
	if err != nil || len(ring.Signing) != 1 || !slices.Equal(ring.Trusted, []pointer.PublicKey{ring.Signing[0].Public()}) {
		t.Fatalf("trusted %v, %v", ring.Trusted, err)
	}
	secret := ring.Signing[0]
	if time.Since(ring.Since) > time.Minute {
		t.Errorf("made at %v", ring.Since)
	}
	info, err := os.Stat(i.SigningKey)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if left, err := os.ReadDir(filepath.Dir(i.SigningKey)); err != nil || len(left) != 2 {
		t.Errorf("beside the key: %v, %v", left, err)
	}
	packs, err := v.PackKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := age.ParseX25519Identity(packs); err != nil {
		t.Errorf("what opens the packs: %v", err)
	}
	did := strings.Join(i.report.Did, "\n")
	for _, words := range []string{secret.Public().ID(), i.SigningKey, "key of the packs"} {
		if !strings.Contains(did, words) {
			t.Errorf("it did %q, want %q in it", did, words)
		}
	}
	if strings.Contains(did, packs) || strings.Contains(did, strings.TrimSpace(secret.Text())) {
		t.Error("it said a secret")
	}
	before := read(t, i.SigningKey)
	report, err := s.again(i).Init(t.Context())
	if err != nil || len(report.Did) != 0 {
		t.Errorf("once more: %q, %v", report.Did, err)
	}
	if now, err := v.PackKey(); err != nil || now != packs || read(t, i.SigningKey) != before {
		t.Errorf("a key was replaced: %v", err)
	}
}

// A crash between the file and the volume: the key of the file is taken.
func TestInitGoesOnFromTheKeyFile(t *testing.T) {
	s := newAccount(t, 32<<20)
	i := s.server(Wish{})
	secret := writeKey(t, i.SigningKey)
	if _, err := i.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.unmount(i) })
	if ring, err := (Keys{i.SigningKey, opened(t, i.MountPoint)}).Open(); err != nil || !slices.Equal(ring.Trusted, []pointer.PublicKey{secret.Public()}) {
		t.Errorf("trusted %v, %v", ring.Trusted, err)
	}
}

// writeKey writes a new key over what is there.
func writeKey(t *testing.T, path string) pointer.SecretKey {
	t.Helper()
	secret, err := pointer.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(secret.Text()), 0o600)); err != nil {
		t.Fatal(err)
	}
	return secret
}

// Another server's volume, or a server that lost its key: nothing is overwritten, and it is said
// whose the volume is.
func TestInitRefusesAVolumeWhoseKeyIsNotHere(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, path string){
		"no key":      func(t *testing.T, path string) { must(t, os.Remove(path)) },
		"another key": func(t *testing.T, path string) { writeKey(t, path) },
	} {
		t.Run(name, func(t *testing.T) {
			s, i, v := inited(t)
			old, store := read(t, i.SigningKey), ""
			var err error
			if store, err = v.StoreID(); err != nil || store == "" {
				t.Fatalf("store %q, %v", store, err)
			}
			ring, err := Keys{i.SigningKey, v}.Open()
			must(t, err)
			trusted := ring.Trusted
			change(t, i.SigningKey)
			_, statErr := os.Stat(i.SigningKey)
			report, err := s.again(i).Init(t.Context())
			if err == nil || len(report.Did) != 0 {
				t.Fatalf("%q, %v", report.Did, err)
			}
			for _, words := range []string{store, trusted[0].ID(), i.SigningKey, "Try: put the key file", "key init --lost"} {
				if !strings.Contains(err.Error(), words) {
					t.Errorf("%v: want %q in it", err, words)
				}
			}
			if _, now := os.Stat(i.SigningKey); errors.Is(now, fs.ErrNotExist) != errors.Is(statErr, fs.ErrNotExist) {
				t.Error("a key file was made")
			}
			if now, _ := (Keys{i.SigningKey, v}).Open(); !slices.Equal(now.Trusted, trusted) {
				t.Errorf("it believes %v now", now.Trusted)
			}
			must(t, os.WriteFile(i.SigningKey, []byte(old), 0o600))
			if report, err := s.again(i).Init(t.Context()); err != nil || len(report.Did) != 0 {
				t.Errorf("with its key again: %q, %v", report.Did, err)
			}
		})
	}
}

func TestReplaceIsForALostKey(t *testing.T) {
	_, i, v := inited(t)
	keys := Keys{i.SigningKey, v}
	said := func(string, ...any) {}
	if err := keys.Replace(t.Context(), said); err == nil || !strings.Contains(err.Error(), "is not lost") {
		t.Errorf("a key that is there: %v", err)
	}
	before, err := keys.Open()
	must(t, err)
	must(t, os.Remove(i.SigningKey))
	must(t, keys.Replace(t.Context(), said))
	now, err := keys.Open()
	if err != nil || len(now.Trusted) != 1 || slices.Equal(now.Trusted, before.Trusted) {
		t.Errorf("it believes %v, before %v, %v", now.Trusted, before.Trusted, err)
	}
	if lines, err := v.Keys(); err != nil || !slices.Equal(lines, now.Public()) {
		t.Errorf("the volume believes %v, %v", lines, err)
	}
}

// A store whose pointer is not signed: its members may not be able to read another one.
func TestInitLeavesAStoreFromBeforeKeysAlone(t *testing.T) {
	for name, signed := range map[string]bool{"not signed": false, "signed by a key of before": true} {
		t.Run(name, func(t *testing.T) {
			s := newAccount(t, 32<<20)
			i := s.server(Wish{})
			i.PointerStore = t.TempDir()
			store, err := pointer.Open(t.Context(), i.PointerStore, nil)
			must(t, err)
			if signed {
				store.SignWith(nil, writeKey(t, i.SigningKey))
			}
			must(t, store.CompareAndSwap(t.Context(), pointer.Pointer{}, samplePointer(1)))
			must(t, store.SetID(t.Context(), storeOne))
			if signed {
				must(t, os.Remove(i.SigningKey))
			}
			_, err = i.Init(t.Context())
			t.Cleanup(func() { s.unmount(i) })
			if (err != nil) != signed || err != nil && !strings.Contains(err.Error(), "Try: put that key in "+i.SigningKey) {
				t.Fatal(err)
			}
			if keys, err := opened(t, i.MountPoint).Keys(); err != nil || len(keys) != 0 {
				t.Errorf("keys %v, %v", keys, err)
			}
			if _, err := os.Stat(i.SigningKey); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a key file was made: %v", err)
			}
		})
	}
}

func samplePointer(generation int64) pointer.Pointer {
	digest := strings.Repeat("a", 64)
	return pointer.Pointer{
		Schema: pointer.Schema, Generation: generation, Release: "20261122T231500Z-" + digest[:12], Digest: digest,
		Snapshots: map[string]string{"eu-central-1": "snap-0123456789abcdef0"}, Created: time.Date(2026, 11, 22, 23, 15, 0, 0, time.UTC),
	}
}

func TestKeyFileThatOthersCouldChangeOrReadIsRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(t *testing.T, path string)
		want   string
	}{
		"missing":         {func(t *testing.T, path string) { must(t, os.Remove(path)) }, "no such file"},
		"read by a group": {func(t *testing.T, path string) { must(t, os.Chmod(path, 0o640)) }, "mode 0640"},
		"read by all":     {func(t *testing.T, path string) { must(t, os.Chmod(path, 0o604)) }, "chmod 0600"},
		"written by all":  {func(t *testing.T, path string) { must(t, os.Chmod(path, 0o602)) }, "chmod 0600"},
		"somebody else's": {func(t *testing.T, path string) { must(t, os.Chown(path, 1234, 0)) }, "user id 1234"},
		"a link": {func(t *testing.T, path string) {
			must(t, os.Rename(path, path+".1"))
			must(t, os.Symlink(path+".1", path))
		}, "symbolic link"},
		"a fifo": {func(t *testing.T, path string) {
			must(t, os.Remove(path))
			must(t, unix.Mkfifo(path, 0o600))
		}, "not a regular file"},
		"a directory": {func(t *testing.T, path string) {
			must(t, os.Remove(path))
			must(t, os.Mkdir(path, 0o700))
		}, "not a regular file"},
		"large":          {func(t *testing.T, path string) { must(t, os.Truncate(path, mostKeyFile+1)) }, "bytes"},
		"cut off":        {func(t *testing.T, path string) { must(t, os.Truncate(path, 30)) }, "it is no key"},
		"as it was made": {func(*testing.T, string) {}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "signing.key")
			secret := writeKey(t, path)
			tc.change(t, path)
			got, err := readKeys(path)
			switch {
			case tc.want == "":
				if err != nil || len(got) != 1 || got[0].Public() != secret.Public() {
					t.Errorf("%v", err)
				}
			case err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), path):
				t.Errorf("%v: want %q in it", err, tc.want)
			case strings.Contains(err.Error(), strings.TrimSpace(secret.Text())):
				t.Error("it said the secret")
			}
			if (name == "missing") != errors.Is(err, fs.ErrNotExist) {
				t.Errorf("missing: %v", err)
			}
		})
	}
}

// What lies on the release volume is on each snapshot, and so on each member.
func TestKeyIsNotMadeOnTheReleaseVolume(t *testing.T) {
	s := newAccount(t, 32<<20)
	i := s.server(Wish{})
	i.SigningKey = filepath.Join(i.MountPoint, "signing.key")
	_, err := i.Init(t.Context())
	t.Cleanup(func() { s.unmount(i) })
	if err == nil || !strings.Contains(err.Error(), "another signing-key") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(i.SigningKey); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is there: %v", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
