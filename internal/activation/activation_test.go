package activation

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/gc"
	"ebs-release/internal/hook"
	"ebs-release/internal/release"
	"ebs-release/internal/test/blank"
)

// installed is a volume with a release that can be activated, and a directory of programs with one
// that counts its runs, and fails while a file is there.
func installed(t *testing.T) (programs Programs, tree *release.Volume, in release.Ingested, ran func() int, fail string) {
	t.Helper()
	tree = blank.Volume(t)
	dir := t.TempDir()
	source, activate, runs := dir+"/source", dir+"/activate.d", dir+"/runs"
	fail = dir + "/fail"
	script := fmt.Sprintf("#!/bin/sh\necho $EBS_RELEASE_GENERATION $EBS_RELEASE_PREVIOUS >> %s\nif test -e %s; then echo broken; exit 7; fi\n", runs, fail)
	if err := errors.Join(os.Mkdir(source, 0o755), os.WriteFile(source+"/file", []byte("one"), 0o644),
		os.Mkdir(activate, 0o755), os.WriteFile(activate+"/50-reload", []byte(script), 0o755)); err != nil {
		t.Fatal(err)
	}
	in, err := tree.Ingest(t.Context(), source, time.Now(), gc.Wanted{})
	if err != nil {
		t.Fatal(err)
	}
	return Programs{Folder: dir, Timeout: 10 * time.Second, Ready: 3 * time.Second}, tree, in, func() int {
		data, err := os.ReadFile(runs)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		return bytes.Count(data, []byte("\n"))
	}, fail
}

// A report follows only from the mark that the programs have succeeded: who finds it missing has
// them run again.
func TestProgramsRunUntilTheySucceedAndThenNoMore(t *testing.T) {
	programs, tree, in, ran, fail := installed(t)
	run := func(n int64) *hook.Failure {
		t.Helper()
		err := Run(t.Context(), tree, programs, Target{in.ID, in.Digest, n})
		failed, ok := errors.AsType[*hook.Failure](err)
		if err != nil && !ok {
			t.Fatal(err)
		}
		return failed
	}
	done := func() bool {
		t.Helper()
		done, err := tree.ProgramsDone()
		if err != nil {
			t.Fatal(err)
		}
		return done
	}
	if err := os.WriteFile(fail, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for try := 1; try <= 2; try++ {
		if f := run(1); f == nil || f.Code != 7 || f.Line != "broken" || ran() != try || done() {
			t.Fatalf("try %d: %+v, %d runs, done %v", try, f, ran(), done())
		}
	}
	if err := os.Remove(fail); err != nil {
		t.Fatal(err)
	}
	if f := run(1); f != nil || ran() != 3 || !done() {
		t.Fatalf("%+v, %d runs, done %v", f, ran(), done())
	}
	if f := run(1); f != nil || ran() != 3 {
		t.Errorf("what is done is done again: %+v, %d runs", f, ran())
	}
	// A higher generation of what is current changes nothing for the application: the mark goes along,
	// at a boot and by a push.
	if err := tree.Raise(t.Context(), in.ID, in.Digest, 2); err != nil || !done() {
		t.Errorf("%v, done %v", err, done())
	}
	if f := run(3); f != nil || ran() != 3 || !done() {
		t.Errorf("%+v, %d runs", f, ran())
	}
	if n, err := tree.Generation(); n != 3 || err != nil {
		t.Errorf("the fence is at %d, %v", n, err)
	}
}

// Programs that have not succeeded for a release run under its next generation.
func TestARaiseDoesNotHideThatProgramsFailed(t *testing.T) {
	hooks, tree, in, ran, fail := installed(t)
	if err := os.WriteFile(fail, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for n := range int64(2) {
		err := Run(t.Context(), tree, hooks, Target{in.ID, in.Digest, n + 1})
		if _, failed := errors.AsType[*hook.Failure](err); !failed || ran() != int(n)+1 {
			t.Errorf("generation %d: %v, %d runs", n+1, err, ran())
		}
	}
}

// The programs of an activation whose publisher is gone go on. Those of a newer one wait for them,
// and its flip does not; the older one leaves no mark.
func TestANewerActivationDoesNotWaitToFlip(t *testing.T) {
	programs, tree, in, ran, _ := installed(t)
	unlock, err := tree.LockPrograms(t.Context()) // as an older activation does
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() { answered <- Run(t.Context(), tree, programs, Target{in.ID, in.Digest, 2}) }()
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		if n, err := tree.Generation(); err != nil || time.Since(start) > 10*time.Second {
			t.Fatalf("generation %d, %v: it waits to flip", n, err)
		} else if n == 2 {
			break
		}
	}
	if err := tree.MarkDone(t.Context(), in.ID, 1); !errors.Is(err, release.ErrFenced) {
		t.Errorf("the older activation says that it is done: %v", err)
	}
	if ran() != 0 {
		t.Error("programs of two activations run at the same time")
	}
	unlock()
	if err := <-answered; err != nil || ran() != 1 {
		t.Errorf("%v, %d runs", err, ran())
	}
}

// One wrong number must not be taken from anybody, nor fence a member for good.
func TestAGenerationThatNoPublishMakesIsRefused(t *testing.T) {
	programs, tree, in, _, _ := installed(t)
	for _, n := range []int64{-1, 0, 1 << 53, 1<<63 - 1} {
		if err := Run(t.Context(), tree, programs, Target{in.ID, in.Digest, n}); err == nil {
			t.Errorf("%d is activated", n)
		}
	}
	if n, err := tree.Generation(); n != 0 || err != nil {
		t.Errorf("the fence is at %d, %v", n, err)
	}
	for _, poison := range []string{"9007199254740989 " + in.ID + "\n", "9223372036854775807 " + in.ID + "\n", "\x1b[2J"} {
		if err := tree.Activate(t.Context(), in.ID, in.Digest, 7); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(tree.Root()+"/.ebs-release/generation", []byte(poison), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := Run(t.Context(), tree, programs, Target{in.ID, in.Digest, 8}); err == nil || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%q: a fence that is not lowered lets generation 8 in, or: %v", poison, err)
		}
		if err := tree.LowerFence(t.Context(), 7); err != nil {
			t.Fatal(err)
		}
		if n, id, err := tree.Fence(); n != 7 || id != in.ID || err != nil {
			t.Errorf("%d, %s, %v", n, id, err)
		}
	}
	if err := tree.LowerFence(t.Context(), 9); err == nil {
		t.Error("lowering it raised the fence")
	}
}
