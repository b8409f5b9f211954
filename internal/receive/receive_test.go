package receive

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ebs-release/internal/release"
)

// start runs a receiver of an empty volume on what the test writes. All that it said is in out once it ended.
func start(t *testing.T, tree release.Tree) (say io.WriteCloser, out *bytes.Buffer, ended <-chan error) {
	t.Helper()
	r := &Receiver{Ready: func() (release.Tree, error) { return tree, nil }, Keep: 3, Log: slog.New(slog.DiscardHandler)}
	in, say := io.Pipe()
	out = &bytes.Buffer{}
	done := make(chan error, 1)
	go func() { done <- r.Run(t.Context(), in, out) }()
	return say, out, done
}

func volume(t *testing.T) release.Tree {
	t.Helper()
	tree := release.Tree{Root: t.TempDir()}
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
		"between requests": {"", betweenRequests},
		"in a request":     {`{"do":"sta`, betweenRequests},
		"behind a request": {`{"do":"stage","release":"20261122T231500Z-9f31c0de77aa","bytes":100}` + "\nebs-release", withinRequest},
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

// A publisher that goes away between stage and files leaves nothing behind, and no lock.
func TestWhatWasStagedAndNeverSentGoes(t *testing.T) {
	tree := volume(t)
	entry := release.Entry{Path: "a", Type: 'f', Mode: 0o644, Size: 1}
	manifest := release.Manifest{entry}
	var delta bytes.Buffer
	if err := release.Diff(nil, manifest).Encode(&delta); err != nil {
		t.Fatal(err)
	}
	id := release.NewID(time.Now(), manifest.Digest())
	stage := fmt.Sprintf("{\"do\":\"stage\",\"release\":%q,\"digest\":%q,\"bytes\":%d}\n%s", id, manifest.Digest(), delta.Len(), delta.String())
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
	if gone, err := tree.Prune(t.Context(), 1); err != nil || len(gone) != 0 {
		t.Errorf("%v, %v", gone, err)
	}
	if left, err := os.ReadDir(tree.Root + "/releases"); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
