// Package receive is the agent's end of a push: it answers what package push asks, on one
// connection. What is said is package wire's.
package receive

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"ebs-release/internal/activation"
	"ebs-release/internal/exit"
	"ebs-release/internal/gc"
	"ebs-release/internal/hook"
	"ebs-release/internal/manifest"
	"ebs-release/internal/push/wire"
	"ebs-release/internal/release"
)

// How long the publisher may say nothing: between two requests it waits for other members and for a
// snapshot; what belongs to a request comes at once.
const (
	betweenRequests = 2 * time.Hour
	withinRequest   = time.Minute
)

// Receiver serves one connection.
type Receiver struct {
	// Ready opens the release volume, or fails while a boot is under way: the boot may be looking at
	// the volume. It is called for each request, as an `up` may start between two of them; the volume
	// is closed after the request.
	Ready   func() (*release.Volume, error)
	Keep    int      // releases on the volume, when the publisher says nothing of it
	Hooks   hook.Dir // programs to run after an activation
	Version string   // of the agent
	Log     *slog.Logger

	// Between stage and files:
	staging *release.Staging
	staged  *release.Volume
}

// Run answers requests until the end of in.
func (r *Receiver) Run(ctx context.Context, in io.Reader, out io.Writer) (err error) {
	input, stop := listen(ctx, in)
	defer stop()
	defer func() { err = errors.Join(err, r.drop()) }()
	lines := bufio.NewReaderSize(input, 64<<10)
	if err := wire.Write(out, wire.Hello{Schema: wire.Schema, State: wire.StateListening, Agent: r.Version}); err != nil {
		return err
	}
	for {
		if r.staging == nil {
			input.patience(betweenRequests)
		} else {
			input.patience(withinRequest) // the files come at once, and the volume is locked for them
		}
		line, err := wire.Read(lines)
		if errors.Is(err, io.EOF) {
			return nil
		}
		var request wire.Request
		if err == nil {
			err = json.Unmarshal(line, &request)
		}
		if err != nil {
			return fmt.Errorf("read a request: %w", err)
		}
		input.patience(withinRequest)
		body := &io.LimitedReader{R: lines, N: request.Bytes}
		answer, err := r.serve(ctx, request, body)
		if err != nil {
			answer = wire.Failure{Schema: wire.Schema, Error: strings.Join(strings.Fields(err.Error()), " "), Code: exit.Code(err)}
		}
		if err := wire.Write(out, answer); err != nil {
			return fmt.Errorf("write the answer: %w", err)
		}
		if err == nil && request.Do == wire.Activate {
			r.prune(ctx, request) // now that nobody waits for it
		}
		// What a request that failed did not read. It may be a lot: then the publisher has to call
		// again.
		if _, err := io.CopyN(io.Discard, body, min(body.N, 1<<20)); err != nil || body.N > 0 {
			return errors.Join(err, errors.New("a request failed before all of it was read"))
		}
	}
}

func (r *Receiver) serve(ctx context.Context, q wire.Request, body io.Reader) (answer any, err error) {
	if q.Bytes < 0 {
		return nil, exit.With(exit.Usage, fmt.Errorf("a request with %d bytes behind it", q.Bytes))
	}
	// Only files go on with what is staged. All else is done without it: it has the volume locked.
	if q.Do != wire.Files {
		if err := r.drop(); err != nil {
			return nil, err
		}
	}
	v, err := r.Ready()
	if err != nil {
		return nil, errors.Join(err, r.drop())
	}
	defer func() {
		if v != r.staged {
			_ = v.Close()
		}
	}()
	switch q.Do {
	case wire.Stage:
		return r.stage(ctx, v, q, body)
	case wire.Files:
		return r.files(ctx, q, body)
	case wire.Activate:
		return r.activate(ctx, v, q)
	case wire.Verify:
		return Verify(ctx, v, q.Release, q.Digest, q.Generation)
	default:
		return nil, exit.With(exit.Usage, fmt.Errorf("an unknown request, %q: this agent is older than the publisher", q.Do))
	}
}

func (r *Receiver) stage(ctx context.Context, v *release.Volume, q wire.Request, delta io.Reader) (any, error) {
	wanted, err := r.wanted(q)
	if err != nil {
		return nil, err
	}
	result, staging, err := v.Stage(ctx,
		release.StageRequest{ID: q.Release, Digest: q.Digest, Base: q.Base, Delta: delta, Wanted: wanted, More: q.More})
	if staging != nil {
		r.staging, r.staged = staging, v
	}
	return wire.Staged{Schema: wire.Schema, StageResult: result}, err
}

func (r *Receiver) files(ctx context.Context, q wire.Request, files io.Reader) (any, error) {
	if r.staging == nil {
		return nil, errors.New("files come before anything is staged")
	}
	err := r.staging.Receive(ctx, files)
	return wire.Done{Schema: wire.Schema, State: wire.StatePresent, Release: q.Release}, errors.Join(err, r.drop())
}

// drop lets go of what is staged.
func (r *Receiver) drop() error {
	if r.staging == nil {
		return nil
	}
	err := errors.Join(r.staging.Close(), r.staged.Close())
	r.staging, r.staged = nil, nil
	return err
}

// activate answers without a Hook only once all programs have succeeded.
func (r *Receiver) activate(ctx context.Context, v *release.Volume, q wire.Request) (any, error) {
	active := wire.Activated{Schema: wire.Schema, State: wire.StateActive, Generation: q.Generation, Release: q.Release}
	err := activation.Run(ctx, v, r.Hooks, activation.Target{Release: q.Release, Digest: q.Digest, Generation: q.Generation})
	if failed, ok := errors.AsType[*hook.Failure](err); ok {
		active.Hook = &wire.Hook{Name: failed.Name, Code: failed.Code, Line: failed.Line}
		return active, nil
	}
	return active, err
}

// wanted is what a request says of what to keep.
func (r *Receiver) wanted(q wire.Request) (gc.Wanted, error) {
	if q.Keep < 0 || len(q.Committed) > max(q.Keep, 2) {
		return gc.Wanted{}, exit.With(exit.Usage, fmt.Errorf("a request to keep %d releases that names %d", q.Keep, len(q.Committed)))
	}
	for _, id := range q.Committed {
		if !manifest.ValidID(id) {
			return gc.Wanted{}, exit.With(exit.Usage, fmt.Errorf("a request to keep %.40q, which is no release", id))
		}
	}
	return gc.Wanted{Keep: cmp.Or(q.Keep, r.Keep), Committed: q.Committed}, nil
}

// prune removes the releases that are not wanted any more. The release is active all the same when
// it cannot.
func (r *Receiver) prune(ctx context.Context, q wire.Request) {
	v, err := r.Ready()
	var wanted gc.Wanted
	if err == nil {
		defer func() { _ = v.Close() }()
		wanted, err = r.wanted(q)
	}
	if err == nil {
		_, err = v.Prune(ctx, wanted)
	}
	if err != nil {
		r.Log.Warn("cannot remove old releases", "error", err)
	}
}

// Verify reads every file of a release, whose manifest has to have a digest; "": any. With a
// generation, that and this release have to be what is active here, by the fence and by where
// `current` leads; 0: the release need not be the current one.
func Verify(ctx context.Context, v *release.Volume, id, digest string, generation int64) (wire.Verified, error) {
	answer := wire.Verified{Schema: wire.Schema, State: wire.StateVerified, Release: id, Generation: generation}
	if generation != 0 {
		if err := v.CheckActive(id, generation); err != nil {
			return answer, err
		}
	}
	have, err := v.ManifestDigest(id)
	if err != nil {
		return answer, err
	}
	if digest != "" && have != digest {
		return answer, fmt.Errorf("the manifest of release %s has digest %s, want %s", id, have, digest)
	}
	manifest, err := v.Manifest(id)
	if err != nil {
		return answer, err
	}
	answer.Digest = have
	answer.Files, answer.Bytes = manifest.Size()
	return answer, v.Verify(ctx, id)
}
