package receive

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ebs-release/internal/gc"
	"ebs-release/internal/hook"
	"ebs-release/internal/manifest"
	"ebs-release/internal/push/wire"
	"ebs-release/internal/release"
)

// start runs a receiver of an empty volume on what the test writes. All that it said is in out once
// it ended.
func start(t *testing.T, tree *release.Volume) (say io.WriteCloser, out *bytes.Buffer, ended <-chan error) {
	t.Helper()
	r := &Receiver{Ready: func() (*release.Volume, error) { return release.Open(tree.Root()) }, Keep: 3, Log: slog.New(slog.DiscardHandler)}
	in, say := io.Pipe()
	out = &bytes.Buffer{}
	done := make(chan error, 1)
	go func() { done <- r.Run(t.Context(), in, out) }()
	return say, out, done
}

func volume(t *testing.T) *release.Volume {
	t.Helper()
	tree, err := release.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tree.Close() })
	if err := tree.Init(0, 0); err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestAPublisherThatFallsSilentIsNotWaitedForWithoutEnd(t *testing.T) {
	for name, tc := range map[string]struct {
		said  string
		after time.Duration
	}{
		"between requests":       {"", betweenRequests},
		"in a request":           {`{"do":"sta`, betweenRequests},
		"with the volume locked": {stageRequest(t), withinRequest},
		"behind a request":       {`{"do":"stage","release":"20261122T231500Z-9f31c0de77aa","bytes":100}` + "\nebs-release", withinRequest},
	} {
		t.Run(name, func(t *testing.T) {
			tree := volume(t)
			synctest.Test(t, func(t *testing.T) {
				say, _, ended := start(t, tree)
				begun := time.Now()
				if _, err := io.WriteString(say, tc.said); err != nil {
					t.Fatal(err)
				}
				if err := <-ended; err == nil {
					t.Error("it ended as if all were well")
				}
				if waited := time.Since(begun); waited < tc.after || waited > tc.after+2*time.Minute {
					t.Errorf("it waited for %v, want %v", waited, tc.after)
				}
				_ = say.Close()
			})
		})
	}
}

func TestWhatIsNoRequestEndsTheConversation(t *testing.T) {
	for _, said := range []string{"hello\n", "{}{}\n", strings.Repeat("x", 2<<20), `{"do":`} {
		say, _, ended := start(t, volume(t))
		go func() {
			_, _ = io.WriteString(say, said)
			_ = say.Close()
		}()
		if err := <-ended; err == nil || !strings.Contains(err.Error(), "read a request") {
			t.Errorf("%.20q: %v", said, err)
		}
	}
}

// stageRequest stages a release with one file, which then is missing.
func stageRequest(t *testing.T) string {
	t.Helper()
	m := manifest.Manifest{{Path: "a", Type: 'f', Mode: 0o644, Size: 1}}
	var delta bytes.Buffer
	if err := manifest.Diff(nil, m).Encode(&delta); err != nil {
		t.Fatal(err)
	}
	id := manifest.NewID(time.Now(), m.Digest())
	return fmt.Sprintf("{\"do\":\"stage\",\"release\":%q,\"digest\":%q,\"bytes\":%d}\n%s", id, m.Digest(), delta.Len(), delta.String())
}

// A publisher that goes away between stage and files leaves nothing behind, and no lock.
func TestWhatWasStagedAndNeverSentGoes(t *testing.T) {
	tree, stage := volume(t), stageRequest(t)
	say, out, ended := start(t, tree)
	if _, err := io.WriteString(say, stage+stage); err != nil { // twice: the first is forgotten
		t.Fatal(err)
	}
	if err := errors.Join(say.Close(), <-ended); err != nil {
		t.Fatal(err)
	}
	if strings.Count(out.String(), `"state":"staged"`) != 2 {
		t.Errorf("answers:\n%s", out)
	}
	if gone, err := tree.Prune(t.Context(), gc.Wanted{Keep: 1}); err != nil || len(gone) != 0 {
		t.Errorf("%v, %v", gone, err)
	}
	if left, err := os.ReadDir(tree.Root() + "/releases"); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// What is staged has the volume locked: a request that is not for it must not wait for that lock.
func TestAnotherRequestLetsGoOfWhatIsStaged(t *testing.T) {
	for name, request := range map[string]string{
		"activate": `{"do":"activate","release":"20261122T231500Z-9f31c0de77aa","generation":1}`,
		"verify":   `{"do":"verify","release":"20261122T231500Z-9f31c0de77aa"}`,
		"files of a member whose boot begins anew": `{"do":"files"}`,
	} {
		t.Run(name, func(t *testing.T) {
			tree, asked := volume(t), 0
			r := &Receiver{Keep: 3, Log: slog.New(slog.DiscardHandler), Ready: func() (*release.Volume, error) {
				if asked++; asked > 1 && strings.Contains(request, "files") {
					return nil, errors.New("booting")
				}
				return release.Open(tree.Root())
			}}
			in, say := io.Pipe()
			answers, out := io.Pipe()
			ended := make(chan error, 1)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			go func() { ended <- r.Run(ctx, in, out) }()
			said := stageRequest(t) + request + "\n"
			go func() { _, _ = io.WriteString(say, said) }()
			lines := bufio.NewReader(answers)
			for _, want := range []string{`"listening"`, `"staged"`, `"error"`} {
				if line, err := lines.ReadString('\n'); err != nil || !strings.Contains(line, want) || strings.Contains(line, "lock") {
					t.Fatalf("%q, %v; want %s", line, err, want)
				}
			}
			if _, err := tree.Prune(ctx, gc.Wanted{Keep: 1}); err != nil { // nobody has it locked, though the connection is open
				t.Error(err)
			}
			_ = say.Close()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}

// installed is a volume with a release that can be activated, and a directory of programs with one
// that counts its runs, and fails while a file is there.
func installed(t *testing.T) (r *Receiver, tree *release.Volume, in release.Ingested, ran func() int, fail string) {
	t.Helper()
	tree = volume(t)
	dir := t.TempDir()
	source, programs, runs := dir+"/source", dir+"/activate.d", dir+"/runs"
	fail = dir + "/fail"
	script := fmt.Sprintf("#!/bin/sh\necho $EBS_RELEASE_GENERATION $EBS_RELEASE_PREVIOUS >> %s\nif test -e %s; then echo broken; exit 7; fi\n", runs, fail)
	if err := errors.Join(os.Mkdir(source, 0o755), os.WriteFile(source+"/file", []byte("one"), 0o644),
		os.Mkdir(programs, 0o755), os.WriteFile(programs+"/50-reload", []byte(script), 0o755)); err != nil {
		t.Fatal(err)
	}
	in, err := tree.Ingest(t.Context(), source, time.Now(), gc.Wanted{})
	if err != nil {
		t.Fatal(err)
	}
	r = &Receiver{Keep: 3, Log: slog.New(slog.DiscardHandler), Hooks: hook.Dir{Path: programs, Timeout: 10 * time.Second}}
	return r, tree, in, func() int {
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
	r, tree, in, ran, fail := installed(t)
	ask := func(n int64) wire.Activated {
		t.Helper()
		answer, err := r.activate(t.Context(), tree, wire.Request{Do: wire.Activate, Release: in.ID, Digest: in.Digest, Generation: n})
		if err != nil {
			t.Fatal(err)
		}
		return answer.(wire.Activated)
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
		if a := ask(1); a.Hook == nil || a.Hook.Code != 7 || a.Hook.Line != "broken" || ran() != try || done() {
			t.Fatalf("try %d: %+v, %d runs, done %v", try, a.Hook, ran(), done())
		}
	}
	if err := os.Remove(fail); err != nil {
		t.Fatal(err)
	}
	if a := ask(1); a.Hook != nil || ran() != 3 || !done() {
		t.Fatalf("%+v, %d runs, done %v", a.Hook, ran(), done())
	}
	if a := ask(1); a.Hook != nil || ran() != 3 {
		t.Errorf("what is done is done again: %+v, %d runs", a.Hook, ran())
	}
	// A boot that finds it under a higher generation takes the mark along; the next push runs them
	// anew.
	if err := tree.Raise(t.Context(), in.ID, in.Digest, 2); err != nil || !done() {
		t.Errorf("%v, done %v", err, done())
	}
	if a := ask(3); a.Hook != nil || ran() != 4 || !done() {
		t.Errorf("%+v, %d runs", a.Hook, ran())
	}
}

// The programs of an activation whose publisher is gone go on. Those of a newer one wait for them,
// and its flip does not; the older one leaves no mark.
func TestANewerActivationDoesNotWaitToFlip(t *testing.T) {
	r, tree, in, ran, _ := installed(t)
	unlock, err := tree.LockPrograms(t.Context()) // as an older activation does
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		_, err := r.activate(t.Context(), tree, wire.Request{Do: wire.Activate, Release: in.ID, Digest: in.Digest, Generation: 2})
		answered <- err
	}()
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
	r, tree, in, _, _ := installed(t)
	for _, n := range []int64{-1, 0, 1 << 53, 1<<63 - 1} {
		if _, err := r.activate(t.Context(), tree, wire.Request{Do: wire.Activate, Release: in.ID, Digest: in.Digest, Generation: n}); err == nil {
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
		if _, err := r.activate(t.Context(), tree, wire.Request{Do: wire.Activate, Release: in.ID, Digest: in.Digest, Generation: 8}); err == nil || strings.Contains(err.Error(), "\x1b") {
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
