package release

import (
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestVolumeKeepsItsKeys(t *testing.T) {
	tree := volume(t)
	if keys, err := tree.Keys(); err != nil || keys != nil {
		t.Fatalf("a new one: %q, %v", keys, err)
	}
	if key, err := tree.PackKey(); err != nil || key != "" {
		t.Fatalf("a new one: %q, %v", key, err)
	}
	most := make([]string, mostKeys)
	for i := range most {
		most[i] = strings.Repeat(string(rune('a'+i)), maxKey)
	}
	for _, want := range [][]string{{"ed25519:one of them"}, most, {"ed25519:b", "ed25519:a"}} {
		if err := tree.SetKeys(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		if keys, err := tree.Keys(); err != nil || !slices.Equal(keys, want) {
			t.Fatalf("%q, %v, want %q", keys, err, want)
		}
	}
	for _, want := range []string{"AGE-SECRET-KEY-1", strings.Repeat("k", maxPackKey-1)} {
		// An older one that others could read does not make the new one so.
		if err := os.WriteFile(tree.Root()+"/"+packKeyPath, nil, 0o666); err != nil {
			t.Fatal(err)
		}
		if err := tree.SetPackKey(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		if key, err := tree.PackKey(); err != nil || key != want {
			t.Fatalf("%q, %v", key, err)
		}
	}
	for name, mode := range map[string]os.FileMode{keysPath: 0o644, packKeyPath: 0o600} {
		info, err := os.Lstat(tree.Root() + "/" + name)
		if err != nil || info.Mode() != mode || info.Sys().(*syscall.Stat_t).Uid != ordinary {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if left := listing(t, tree); strings.Contains(left, "/.pack-key") || strings.Contains(left, "/.keys") {
		t.Errorf("a temporary file is left:\n%s", left)
	}
}

// TestWhatCannotBeKeysIsRefused: on the way in nothing changes, on the way out nothing is returned,
// and no error shows what is in a file that may be secret.
func TestWhatCannotBeKeysIsRefused(t *testing.T) {
	tree := volume(t)
	if err := tree.SetKeys(t.Context(), []string{"good"}); err != nil {
		t.Fatal(err)
	}
	if err := tree.SetPackKey(t.Context(), "good"); err != nil {
		t.Fatal(err)
	}
	for name, keys := range map[string][]string{
		"none": nil, "an empty one": {"a", ""}, "too many": slices.Repeat([]string{"a"}, mostKeys+1), "too long": {strings.Repeat("a", maxKey+1)},
		"two lines in one": {"a\nb"}, "a NUL": {"a\x00"}, "a control byte": {"a\x7f"}, "no ASCII": {"schlüssel"}, "no UTF-8": {"a\xff"},
	} {
		if err := tree.SetKeys(t.Context(), keys); err == nil {
			t.Errorf("%s: they were taken", name)
		}
		if err := os.WriteFile(tree.Root()+"/"+keysPath+".bad", []byte(strings.Join(keys, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if name == "two lines in one" {
			continue
		}
		bad := volume(t)
		if err := os.Rename(tree.Root()+"/"+keysPath+".bad", bad.Root()+"/"+keysPath); err != nil {
			t.Fatal(err)
		}
		if keys, err := bad.Keys(); err == nil || keys != nil {
			t.Errorf("%s: %q was read", name, keys)
		}
	}
	for name, key := range map[string]string{
		"none": "", "two lines": "SECRET\nSECRET", "too long": strings.Repeat("SECRET", maxPackKey/6+1), "a NUL": "SECRET\x00", "no ASCII": "SECRETü",
	} {
		err := tree.SetPackKey(t.Context(), key)
		wantError(t, err, tree.Root())
		bad := volume(t)
		if err := os.WriteFile(bad.Root()+"/"+packKeyPath, []byte(key+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		got, readErr := bad.PackKey()
		wantError(t, readErr, packKeyPath)
		if got != "" || strings.Contains(err.Error()+readErr.Error(), "SECRET") {
			t.Errorf("%s: %q, %v, %v", name, got, err, readErr)
		}
	}
	if keys, err := tree.Keys(); err != nil || !slices.Equal(keys, []string{"good"}) {
		t.Errorf("%q, %v", keys, err)
	}
	if key, err := tree.PackKey(); err != nil || key != "good" {
		t.Errorf("%q, %v", key, err)
	}
}

// TestKeysAreReadFromTheirFileAlone: a volume may come from anywhere.
func TestKeysAreReadFromTheirFileAlone(t *testing.T) {
	for name, put := range map[string]func(path string) error{
		"a symlink":   func(path string) error { return os.Symlink("/etc/hostname", path) },
		"a fifo":      func(path string) error { return unix.Mkfifo(path, 0o644) },
		"a directory": func(path string) error { return os.Mkdir(path, 0o755) },
	} {
		tree := volume(t)
		for _, path := range []string{keysPath, packKeyPath} {
			if err := put(tree.Root() + "/" + path); err != nil {
				t.Fatal(err)
			}
		}
		if keys, err := tree.Keys(); err == nil {
			t.Errorf("%s: %q", name, keys)
		}
		if key, err := tree.PackKey(); err == nil {
			t.Errorf("%s: %q", name, key)
		}
	}
}
