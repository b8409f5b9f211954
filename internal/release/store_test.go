package release

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
)

func TestVolumeKeepsItsStore(t *testing.T) {
	ctx, tree := context.Background(), open(t, t.TempDir())
	if err := tree.Init(os.Getuid(), os.Getgid()); err != nil {
		t.Fatal(err)
	}
	if id, err := tree.StoreID(); err != nil || id != "" {
		t.Fatalf("a new one: %q, %v", id, err)
	}
	const one, two = "0123456789abcdef", "fedcba9876543210"
	for range 2 {
		if err := tree.SetStore(ctx, one); err != nil {
			t.Fatal(err)
		}
	}
	if id, err := tree.StoreID(); err != nil || id != one {
		t.Fatalf("%q, %v", id, err)
	}
	if err := tree.SetStore(ctx, two); err == nil || !strings.Contains(err.Error(), one) || !strings.Contains(err.Error(), two) {
		t.Errorf("another id: %v", err)
	}
	if err := tree.SetStore(ctx, "../../x"); err == nil {
		t.Error("a path became an id")
	}
	if err := os.WriteFile(tree.Root()+"/"+storePath, []byte("x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if id, err := tree.StoreID(); err == nil {
		t.Errorf("x was read as %q", id)
	}
}

func TestOnePublishHoldsTheVolume(t *testing.T) {
	tree := open(t, t.TempDir())
	if err := tree.Init(os.Getuid(), os.Getgid()); err != nil {
		t.Fatal(err)
	}
	unlock, err := tree.LockPublish()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tree.LockPublish(); !errors.Is(err, ErrPublishing) {
		t.Errorf("a second one: %v", err)
	}
	if err := tree.SetStore(context.Background(), "0123456789abcdef"); err != nil { // a step's own lock is another one
		t.Error(err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	again, err := tree.LockPublish()
	if err != nil {
		t.Fatal(err)
	}
	if err := again(); err != nil {
		t.Fatal(err)
	}
}
