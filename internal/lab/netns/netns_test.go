package netns

import (
	"errors"
	"os"
	"runtime"
	"testing"
)

func TestThreadComesBack(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home := here(t)
	ns, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if got := here(t); got != home {
		t.Fatalf("after New the thread is in %s, was in %s", got, home)
	}
	var inside []string
	failure := errors.New("no")
	for _, want := range []error{nil, failure} {
		err := Do(ns, func() error {
			inside = append(inside, here(t))
			return want
		})
		if !errors.Is(err, want) {
			t.Errorf("Do says %v, want %v", err, want)
		}
		if got := here(t); got != home {
			t.Fatalf("after Do the thread is in %s, was in %s", got, home)
		}
	}
	if inside[0] == home || inside[1] != inside[0] {
		t.Errorf("Do ran in %s, at home is %s", inside, home)
	}
}

func TestNoNamespaceRunsNothing(t *testing.T) {
	if err := Do(nil, func() error { t.Error("it ran at home"); return nil }); err == nil {
		t.Error("no error")
	}
}

// here is the network namespace of the calling thread.
func here(t *testing.T) string {
	t.Helper()
	name, err := os.Readlink(own)
	if err != nil {
		t.Fatal(err)
	}
	return name
}
