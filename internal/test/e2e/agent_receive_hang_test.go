package e2e

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab/host"
	"ebs-release/internal/push/wire"
)

// Row 80, in a push: the disk takes no writes any more within a request. The agent's end answers
// before the publisher's time is up, with a line, and ends. What it had begun comes to its end when
// the disk answers again, without a publisher.
func TestAgentsEndOfAPushOutlivesADisk(t *testing.T) {
	r := published(t, nil)
	p := r.pointerNow()
	thaw := func() {
		if err := r.lab.ThawDisks(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(thaw)
	const limit = 4 * time.Second
	says := func(ctx context.Context, h *host.Host, q wire.Request) (took time.Duration, answer wire.Failure) {
		t.Helper()
		q.Release, q.Digest, q.Store, q.Within = p.Release, p.Digest, p.Store, limit.Milliseconds()
		line, err := json.Marshal(q)
		must(t, err)
		began := time.Now()
		out, err := h.RunWith(ctx, host.Command{Argv: []string{"ebs-release-agent", "receive"}, Stdin: strings.NewReader(string(line) + "\n")})
		took = time.Since(began)
		must(t, err)
		must(t, json.Unmarshal([]byte(lastLine(out.Stdout)), &answer))
		return took, answer
	}
	ctx := within(t, 3*time.Minute)
	h := r.machine()
	must(t, failed(agent(ctx, h)))
	must(t, r.lab.FreezeDisks())
	took, answer := says(ctx, h, wire.Request{Do: wire.Activate, Generation: p.Generation + 1})
	if took < limit || took > limit+hangSlack || !strings.Contains(answer.Error, "the volume does not answer: ") || !strings.Contains(answer.Error, "describe-volume-status") {
		t.Errorf("after %v: %+v", took, answer)
	}
	if stuck(t, h) == 0 {
		t.Error("no child hangs: the disk did not stop answering")
	}
	thaw()
	r.eventually("the activation has come to its end", func() bool {
		return strings.Contains(r.on(h, "ebs-release-agent fence --output json"), `"generation": 2`)
	})
	if _, answer := says(ctx, h, wire.Request{Do: wire.Verify, Generation: p.Generation + 1}); answer.Error != "" {
		t.Errorf("then: %+v", answer)
	}

	t.Run("any look at it", func(t *testing.T) {
		trace := diskTracer(0)
		line, err := json.Marshal(wire.Request{Do: wire.Verify, Release: p.Release, Digest: p.Digest, Within: limit.Milliseconds()})
		must(t, err)
		receive := host.Command{Argv: []string{"sh", "-c", "printf '%s\\n' '" + string(line) + "' | exec ebs-release-agent receive"}}
		must(t, failed((&supervised{host: h, start: trace.attach}).run(ctx, receive)))
		must(t, <-trace.done)
		held := 0
		for i := 0; i < len(trace.seen); i += 4 {
			hang := diskTracer(i + 1)
			out := (&supervised{host: h, start: hang.attach}).run(ctx, receive)
			must(t, <-hang.done)
			if strings.Contains(out.Stdout, "the volume does not answer: ") {
				held++
			} else if !strings.Contains(out.Stdout, `"verified"`) {
				t.Errorf("at %s: exit %d: %s", trace.seen[i], out.Code, out.Stdout)
			}
			if out.Code != 0 || out.took > 10*time.Second+limit+hangSlack { // whether the boot is over takes 10 s at most
				t.Errorf("at %s: exit %d after %v", trace.seen[i], out.Code, out.took)
			}
		}
		if held < len(trace.seen)/8 {
			t.Errorf("%d of %d looks were held", held, len(trace.seen)/4)
		}
	})
}
