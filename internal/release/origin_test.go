package release

import (
	"os"
	"path/filepath"
	"testing"
)

func TestVolumeSaysWhereItIsFrom(t *testing.T) {
	tree := open(t, t.TempDir())
	if err := tree.Init(os.Getuid(), os.Getgid()); err != nil {
		t.Fatal(err)
	}
	if o, err := tree.Origin(); err != nil || o != (Origin{}) {
		t.Fatalf("a new one: %+v, %v", o, err)
	}
	for _, want := range []Origin{{"vol-0123456789abcdef0", true}, {"vol-0123456789abcdef0", false}, {"vol-0123456789abcdef1", true}} {
		if err := tree.SetOrigin(want); err != nil {
			t.Fatal(err)
		}
		if o, err := tree.Origin(); err != nil || o != want {
			t.Errorf("%+v, %v, want %+v", o, err, want)
		}
	}
	if err := tree.SetOrigin(Origin{VolumeID: "vol-1 made\nx"}); err == nil {
		t.Error("that is no volume id")
	}
	file := filepath.Join(tree.Root(), originPath)
	for _, text := range []string{"", "vol-0123", "vol-0123 made", "vol-0123 made\nvol-0124 made\n", "vol-0123 lent\n"} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if o, err := tree.Origin(); err != nil || o != (Origin{}) {
			t.Errorf("%q: %+v, %v", text, o, err)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/hostname", file); err != nil {
		t.Fatal(err)
	}
	if _, err := tree.Origin(); err == nil {
		t.Error("a symlink was followed")
	}
}
