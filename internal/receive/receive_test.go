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
	"ebs-release/internal/manifest"
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
