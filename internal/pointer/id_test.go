package pointer

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestStoreKeepsItsID(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	f, err := Open(ctx, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := f.ID(ctx); err != nil || id != "" {
		t.Fatalf("a new one: %q, %v", id, err)
	}
	const one, two = "0123456789abcdef", "fedcba9876543210"
	for range 2 { // once more is nothing
		if err := f.SetID(ctx, one); err != nil {
			t.Fatal(err)
		}
	}
	if id, err := f.ID(ctx); err != nil || id != one {
		t.Fatalf("%q, %v", id, err)
	}
	if err := f.SetID(ctx, two); err == nil || !strings.Contains(err.Error(), one) || !strings.Contains(err.Error(), two) {
		t.Errorf("another id: %v", err)
	}
	if err := f.SetID(ctx, "x"); err == nil {
		t.Error("x became an id")
	}
	for content, want := range map[string]string{"": "want 16 hex digits", one + one + one + one + one: "want 16 hex digits", "ABCDEF0123456789": "want 16 hex digits"} {
		if err := os.WriteFile(filepath.Join(dir, idName), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if id, err := f.ID(ctx); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %q, %v", content, id, err)
		}
	}
}

func TestPointerSaysItsStore(t *testing.T) {
	p := Pointer{
		Generation: 1, Release: "20261122T231500Z-9f31c0de77aa", Digest: strings.Repeat("a", 64), Store: "0123456789abcdef",
		Snapshots: map[string]string{"us-east-1": "snap-0123456789abcdef0"},
	}
	got, err := Parse(p.Render())
	if err != nil || got.Store != p.Store {
		t.Fatalf("%q, %v", got.Store, err)
	}
	for _, wrong := range []string{"x", "0123456789ABCDEF", "0123456789abcdef0", "0123456789abcde\n"} {
		p.Store = wrong
		if _, err := Parse(p.Render()); err == nil || !strings.Contains(err.Error(), "store") {
			t.Errorf("%q: %v", wrong, err)
		}
	}
}
