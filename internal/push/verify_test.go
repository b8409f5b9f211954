package push

import (
	"os"
	"testing"
)

func TestVerifyHasTheMemberReadItsFiles(t *testing.T) {
	_, f, first, _ := two(t, volume(t))
	s := f.open(t)
	if files, err := s.Verify(t.Context(), first.ID, first.Digest); err != nil || files != 9 {
		t.Fatalf("%d files, %v", files, err)
	}
	if err := os.WriteFile(f.Path(first.ID)+"/same", []byte("one of sane"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := s.Verify(t.Context(), first.ID, first.Digest)
	wantError(t, err, nil, "verify "+first.ID, "same", "sha256")
	if _, err := s.Verify(t.Context(), first.ID, "x; rm -rf /"); err == nil {
		t.Error("a digest that is none became part of a command")
	}
}
