package bench

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/pointer"
	"ebs-release/internal/store"

	"golang.org/x/sync/errgroup"
)

// BenchmarkStormOfBoots has 1,000 members boot at the same moment from one `ebs-release serve`, by
// the agent's own client: each reads the pointer, fetches a pack of 400 KiB, and reads the pointer
// again, on a connection of its own. It measures what the server uses for all of them.
func BenchmarkStormOfBoots(b *testing.B) {
	const members = 1000
	at := servedByUs(b)
	digest := func(letter string) string { return strings.Repeat(letter, 64) }
	key := pointer.PackKey(digest("a"), digest("b"), digest("c"))
	pack := make([]byte, 400<<10)
	_, err := rand.Read(pack)
	must(b, err)
	must(b, at.to.Put(b.Context(), key, bytes.NewReader(pack)))
	secret, err := pointer.NewKey()
	must(b, err)
	p := pointer.Pointer{
		Schema: pointer.Signed, Store: benchStore, Generation: 7, Revision: 9,
		Release: "20261122T231500Z-" + digest("b")[:12], Digest: digest("b"),
		Snapshots:  map[string]string{"us-east-1": "snap-0123456789abcdef0"},
		SnapshotOf: &pointer.Held{Generation: 6, Release: "20261121T231500Z-" + digest("a")[:12], Digest: digest("a")},
		Created:    time.Now(), By: "alice", Keys: []string{secret.Public().String()},
		Edges: []pointer.Edge{{
			From: digest("a"), To: digest("b"), Release: "20261122T231500Z-" + digest("b")[:12], Bytes: int64(len(pack)),
			SHA256: digest("c"), Pack: key, Made: time.Now(),
		}},
	}
	document, err := p.Sign(secret)
	must(b, err)
	_, err = at.to.PutIf(b.Context(), "release.json", document, "")
	must(b, err)
	f := &followers{B: b}
	boot := func(ctx context.Context) (time.Duration, error) {
		began := time.Now()
		fetcher, err := pointer.NewFetcher(at.reach, nil, slog.New(slog.DiscardHandler))
		if err != nil {
			return 0, err
		}
		if _, err := fetcher.Fetch(ctx); err != nil {
			return 0, err
		}
		from, err := fetcher.Store(ctx)
		if err != nil {
			return 0, err
		}
		for try := 1; ; try++ {
			data, _, err := store.ReadAll(ctx, from, key, int64(len(pack)), "")
			if err == nil && !bytes.Equal(data, pack) {
				return 0, fmt.Errorf("another pack of %d bytes", len(data))
			}
			if err == nil {
				break
			}
			if try == 20 {
				return 0, err
			}
			time.Sleep(store.Backoff(try, 0))
		}
		_, err = fetcher.Fetch(ctx)
		return time.Since(began), err
	}
	var used, wall time.Duration
	var took []time.Duration
	for b.Loop() {
		before, began := f.cpuOf(at.pid), time.Now()
		ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
		var all errgroup.Group
		each := make([]time.Duration, members)
		for n := range members {
			all.Go(func() (err error) {
				each[n], err = boot(ctx)
				return err
			})
		}
		must(b, all.Wait())
		cancel()
		wall, used, took = wall+time.Since(began), used+f.cpuOf(at.pid)-before, append(took, each...)
	}
	slices.Sort(took)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(used.Seconds()/float64(b.N), "server-CPU-s")
	b.ReportMetric(wall.Seconds()/float64(b.N), "s-all")
	b.ReportMetric(took[len(took)*99/100].Seconds(), "s-99%")
}
