package receive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ebs-release/internal/gc"
	"ebs-release/internal/pointer"
	"ebs-release/internal/push/wire"
	"ebs-release/internal/release"
	"ebs-release/internal/store"
	"ebs-release/internal/test/blank"
)

// receiver is one whose store is not to be asked.
func receiver(tree *release.Volume) *Receiver {
	return &Receiver{
		Ready: func() (*release.Volume, error) { return release.Open(tree.Root()) }, Keep: 3,
		Packs: func(context.Context) (store.Reader, error) { return nil, errors.New("nobody needs the store") },
	}
}

// talks is the conversation of a receiver.
func talks(r *Receiver) Conversation {
	return Conversation{Worker: r, Log: slog.New(slog.DiscardHandler)}
}

// start runs a receiver of an empty volume on what the test writes. All that it said is in out once
// it ended.
func start(t *testing.T, tree *release.Volume) (say io.WriteCloser, out *bytes.Buffer, ended <-chan error) {
	t.Helper()
	in, say := io.Pipe()
	out = &bytes.Buffer{}
	done := make(chan error, 1)
	go func() { done <- talks(receiver(tree)).Run(t.Context(), in, out) }()
	return say, out, done
}

func TestAPublisherThatFallsSilentIsNotWaitedForWithoutEnd(t *testing.T) {
	for name, said := range map[string]string{
		"between requests": "",
		"in a request":     `{"do":"sta`,
		"after a request":  "{\"do\":\"dance\"}\n",
	} {
		t.Run(name, func(t *testing.T) {
			tree := blank.Volume(t)
			synctest.Test(t, func(t *testing.T) {
				say, _, ended := start(t, tree)
				begun := time.Now()
				if _, err := io.WriteString(say, said); err != nil {
					t.Fatal(err)
				}
				if err := <-ended; !errors.Is(err, errSilent) {
					t.Errorf("it ended with %v", err)
				}
				if waited := time.Since(begun); waited != betweenRequests {
					t.Errorf("it waited for %v, want %v", waited, betweenRequests)
				}
				_ = say.Close()
			})
		})
	}
}

func TestWhatIsNoRequestEndsTheConversation(t *testing.T) {
	for _, said := range []string{"hello\n", "{}{}\n", strings.Repeat("x", 2<<20), `{"do":`} {
		say, _, ended := start(t, blank.Volume(t))
		go func() {
			_, _ = io.WriteString(say, said)
			_ = say.Close()
		}()
		if err := <-ended; err == nil || !strings.Contains(err.Error(), "read a request") {
			t.Errorf("%.20q: %v", said, err)
		}
	}
}

const one = "20261122T231500Z-aaaaaaaaaaaa"

// stageRequest asks for a release by a pack from nothing.
func stageRequest(t *testing.T, change func(*pointer.Edge)) string {
	t.Helper()
	digest := strings.Repeat("a", 64)
	e := pointer.Edge{To: digest, Release: one, Pack: pointer.PackKey("", digest, strings.Repeat("b", 64)), Bytes: 1, SHA256: strings.Repeat("b", 64)}
	change(&e)
	line, err := json.Marshal(wire.Request{Do: wire.Stage, Generation: 1, Release: one, Digest: digest, Edges: []pointer.Edge{e}})
	if err != nil {
		t.Fatal(err)
	}
	return string(line) + "\n"
}

// Nobody waits for a release whose publisher is gone: the lock of the volume is free again, and
// nothing is left behind.
func TestAPublisherThatIsGoneEndsWhatIsFetched(t *testing.T) {
	tree, asked := blank.Volume(t), make(chan struct{})
	r := receiver(tree)
	r.Packs = func(ctx context.Context) (store.Reader, error) {
		close(asked)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	in, say := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- talks(r).Run(t.Context(), in, io.Discard) }()
	if _, err := io.WriteString(say, stageRequest(t, func(*pointer.Edge) {})); err != nil {
		t.Fatal(err)
	}
	<-asked
	if err := errors.Join(say.Close(), <-ended); err != nil {
		t.Fatal(err)
	}
	if _, err := tree.Prune(t.Context(), gc.Wanted{Keep: 1}); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(tree.Root() + "/releases"); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestPacksThatCannotBeAreRefused(t *testing.T) {
	for name, change := range map[string]func(*pointer.Edge){
		"a key that leads out": func(e *pointer.Edge) { e.Pack = "packs/../../etc/passwd" },
		"of no size":           func(e *pointer.Edge) { e.Bytes = 0 },
		"of another digest":    func(e *pointer.Edge) { e.SHA256 = "x" },
	} {
		say, out, ended := start(t, blank.Volume(t))
		if _, err := io.WriteString(say, stageRequest(t, change)); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(say.Close(), <-ended); err != nil || !strings.Contains(out.String(), "pack 1 of the request") {
			t.Errorf("%s: %v, %s", name, err, out)
		}
	}
}
