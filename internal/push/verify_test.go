package push

import (
	"errors"
	"os"
	"testing"

	"ebs-release/internal/test/blank"
)

func TestVerifyHasTheMemberReadItsFiles(t *testing.T) {
	_, f, first, _ := two(t, blank.Volume(t))
	s := f.open(t)
	if files, err := s.Verify(t.Context(), first.ID, first.Digest, 1); err != nil || files != 9 {
		t.Fatalf("%d files, %v", files, err)
	}
	if err := os.WriteFile(f.Path(first.ID)+"/same", []byte("one of sane"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := s.Verify(t.Context(), first.ID, first.Digest, 1)
	wantError(t, err, nil, "verify "+first.ID, "same", "sha256")
	if _, err := s.Verify(t.Context(), first.ID, "x; rm -rf /", 1); err == nil {
		t.Error("a digest that is none became part of a command")
	}
}

// What an application reads is what `current` leads to: the tree that the tags name may be whole,
// and nobody serves it.
func TestVerifyLooksAtWhatIsServed(t *testing.T) {
	server, f, first, second := two(t, blank.Volume(t))
	s := f.open(t)
	if _, err := s.Stage(t.Context(), f.desired(t, server, second, first.ID)); err != nil {
		t.Fatal(err)
	}
	_, err := s.Verify(t.Context(), second.ID, second.Digest, 1)
	wantError(t, err, nil, "generation 1", first.ID, "want generation 1, release "+second.ID)
	_, err = s.Verify(t.Context(), first.ID, first.Digest, 2)
	wantError(t, err, nil, "want generation 2")
	if err := errors.Join(os.Remove(f.Root()+"/current"), os.Symlink("releases/"+second.ID, f.Root()+"/current")); err != nil {
		t.Fatal(err)
	}
	_, err = s.Verify(t.Context(), first.ID, first.Digest, 1)
	wantError(t, err, nil, "current leads to", second.ID)
	if err := errors.Join(os.Remove(f.Root()+"/current"), os.Symlink("/etc", f.Root()+"/current")); err != nil {
		t.Fatal(err)
	}
	_, err = s.Verify(t.Context(), first.ID, first.Digest, 1)
	wantError(t, err, nil, "current", "/etc")
}
