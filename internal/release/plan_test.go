package release

import (
	"crypto/sha256"
	"reflect"
	"testing"

	"ebs-release/internal/manifest"
)

func TestPlanSendsOnlyContentThatTheBaseHasNot(t *testing.T) {
	sum := func(s string) [32]byte { return sha256.Sum256([]byte(s)) }
	base := manifest.Manifest{
		{Path: "mode", Type: 'f', Mode: 0o644, Size: 1, SHA256: sum("m")},
		{Path: "old-name", Type: 'f', Mode: 0o644, Size: 1, SHA256: sum("n")},
		{Path: "same", Type: 'f', Mode: 0o644, Size: 1, SHA256: sum("s")},
		{Path: "same-size", Type: 'f', Mode: 0o644, Size: 1, SHA256: sum("a")},
	}
	next := manifest.Manifest{
		{Path: "mode", Type: 'f', Mode: 0o755, Size: 1, SHA256: sum("m")},
		{Path: "new", Type: 'f', Mode: 0o644, Size: 1, SHA256: sum("x")},
		{Path: "new-name", Type: 'f', Mode: 0o644, Size: 1, SHA256: sum("n")},
		{Path: "same", Type: 'f', Mode: 0o644, Size: 1, SHA256: sum("s")},
		{Path: "same-size", Type: 'f', Mode: 0o644, Size: 1, SHA256: sum("b")},
	}
	want := []step{{how: byCopy, from: "mode"}, {}, {how: byLink, from: "old-name"}, {how: byLink, from: "same"}, {}}
	if got := plan(base, next); !reflect.DeepEqual(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	var names []string
	for _, e := range Missing(base, next) {
		names = append(names, e.Path)
	}
	if !reflect.DeepEqual(names, []string{"new", "same-size"}) {
		t.Fatalf("missing: %v", names)
	}
}
