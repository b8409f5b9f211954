package report_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"ebs-release/internal/report"
	"ebs-release/internal/store"
	"ebs-release/internal/test/s3"
	"ebs-release/internal/trouble"
	"ebs-release/internal/volume"
)

const release = "20261122T231500Z-9f31c0de77aa"

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T) *store.S3 {
	t.Helper()
	s, err := store.OpenS3(t.Context(), "s3://releases/prod", s3.Start(t).Config)
	must(t, err)
	return s
}

// of is the report of an instance: its name ends with a number.
func of(n int, generation int64, state, on string) report.Report {
	return report.Report{
		Caller: fmt.Sprintf("AROAEXAMPLE:i-%d", n), InstanceID: fmt.Sprintf("i-%d", n), Generation: generation, State: state,
		VolumeID: on, Release: release, HostKey: "ssh-ed25519 AAAA",
	}
}

// asked counts what a reader asks of its store.
type asked struct {
	*store.S3
	mu          sync.Mutex
	lists, gets int
}

func (a *asked) List(ctx context.Context, prefix, after string, most int) ([]store.Item, error) {
	a.mu.Lock()
	a.lists++
	a.mu.Unlock()
	return a.S3.List(ctx, prefix, after, most)
}

func (a *asked) Get(ctx context.Context, key string, unless store.Version) (store.Object, error) {
	a.mu.Lock()
	a.gets++
	a.mu.Unlock()
	return a.S3.Get(ctx, key, unless)
}

func (a *asked) counts() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	defer func() { a.lists, a.gets = 0, 0 }()
	return fmt.Sprintf("%d lists, %d reads", a.lists, a.gets)
}

func said(r report.Report) string {
	return fmt.Sprintf("%s: %d %s on %s", r.InstanceID, r.Generation, r.State, r.VolumeID)
}

// TestTheNewestReportOfEachMember: what counts is by the number of the generation, then by whether
// the programs have succeeded, and only what is about a volume that the member has.
func TestTheNewestReportOfEachMember(t *testing.T) {
	s := open(t)
	put := func(r report.Report) { must(t, report.Put(t.Context(), s, r)) }
	const ready, failed = volume.StateReady, volume.StateHookFailed
	put(of(1, 41, ready, "vol-1"))
	put(of(1, 42, ready, "vol-1"))
	put(of(1, 42, failed, "vol-1")) // before its programs succeeded, and its answer came late
	put(of(2, 41, ready, "vol-2"))
	put(of(2, 42, failed, "vol-2"))
	put(of(3, 9, ready, "vol-3"))
	put(of(3, 40, ready, "vol-old")) // that volume was replaced
	put(of(4, 43, ready, "vol-4"))   // ahead
	put(of(5, 42, ready, "vol-2"))   // it names the volume of another
	put(of(6, 42, ready, "vol-6"))   // nobody's member
	put(of(7, 1042, ready, "vol-7"))
	must(t, report.Withdraw(t.Context(), s, of(7, 0, "", "").Caller, 1042))
	put(of(7, 42, ready, "vol-7"))
	put(of(8, 42, ready, "vol-8"))
	for key, text := range map[string]string{
		"0000000000000042/ready/AROAEXAMPLE:i-5":         `{"schema":1,"volume_id":"vol-5/../vol-8"}`,
		"0000000000000042/ready/deep/er/AROAEXAMPLE:i-5": `{"schema":1,"volume_id":"vol-5"}`,
		"42/ready/AROAEXAMPLE:i-5":                       `{"schema":1,"volume_id":"vol-5"}`,
		"0000000000000042/current/AROAEXAMPLE:i-5":       `{"schema":1,"volume_id":"vol-5"}`,
		"0000000000000042/ready/i-5":                     `{"schema":1,"volume_id":"vol-5"}`,
		"0000000000000043/ready/AROAEXAMPLE:i-5":         strings.Repeat(" ", report.MaxSize) + `{"schema":1,"volume_id":"vol-5"}`,
		"0000000000000044/ready/AROAEXAMPLE:i-5":         `{"schema":2,"volume_id":"vol-5"}`,
		"0000000000000042/hook-failed/AROAEXAMPLE:i-5":   `no report`,
		"9999999999999999/ready/AROAEXAMPLE:i-5":         `{"schema":1,"volume_id":"vol-5"}`,
	} {
		must(t, s.Put(t.Context(), report.Prefix+key, strings.NewReader(text)))
	}
	members := map[string]report.Wanted{}
	for n := 1; n <= 9; n++ {
		if n != 6 {
			members[fmt.Sprintf("i-%d", n)] = report.Wanted{Volumes: []string{fmt.Sprintf("vol-%d", n)}, Least: 5}
		}
	}
	members["i-8"] = report.Wanted{} // its volume is not attached yet
	from := &asked{S3: s}
	reader := report.NewReader(from)
	found, err := reader.Newest(t.Context(), 42, members)
	must(t, err)
	var got []string
	for _, id := range slices.Sorted(maps.Keys(found)) {
		got = append(got, said(found[id]))
	}
	want := []string{"i-1: 42 ready on vol-1", "i-2: 42 hook-failed on vol-2", "i-3: 9 ready on vol-3", "i-4: 43 ready on vol-4", "i-7: 42 ready on vol-7"}
	if !slices.Equal(got, want) {
		t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if r := found["i-1"]; r.Release != release || r.HostKey != "ssh-ed25519 AAAA" || r.Caller != "AROAEXAMPLE:i-1" {
		t.Errorf("%+v", r)
	}

	// What did not change is not read again.
	delete(members, "i-3")
	delete(members, "i-5")
	delete(members, "i-9")
	from.counts()
	if _, err := reader.Newest(t.Context(), 42, members); err != nil || from.counts() != "1 lists, 0 reads" {
		t.Errorf("%s, %v", from.counts(), err)
	}
	other := of(1, 42, ready, "vol-1")
	other.HostKey = "ssh-ed25519 BBBB"
	put(other)
	put(of(2, 42, ready, "vol-2"))
	found, err = reader.Newest(t.Context(), 42, members)
	if got := from.counts(); err != nil || found["i-2"].State != ready || found["i-1"].HostKey != other.HostKey || got != "1 lists, 2 reads" {
		t.Errorf("%s, %v: %+v, %+v", got, err, found["i-1"], found["i-2"])
	}
}

// TestItDoesNotGoBackForEver: as far as a volume's own report can be, and no further than a bound.
func TestItDoesNotGoBackForEver(t *testing.T) {
	from := &asked{S3: open(t)}
	for least, want := range map[int64]string{4990: "11 lists, 0 reads", 5000: "1 lists, 0 reads", 1: "1009 lists, 0 reads"} {
		_, err := report.NewReader(from).Newest(t.Context(), 5000, map[string]report.Wanted{"i-1": {Volumes: []string{"vol-1"}, Least: least}})
		if got := from.counts(); err != nil || got != want {
			t.Errorf("from %d on: %s, %v, want %s", least, got, err, want)
		}
	}
	if _, err := report.NewReader(from).Newest(t.Context(), 5000, nil); err != nil || from.counts() != "0 lists, 0 reads" {
		t.Errorf("of nobody: %v", err)
	}
}

func TestAReportThatCannotBeReadIsAnError(t *testing.T) {
	server := s3.Start(t)
	s, err := store.OpenS3(t.Context(), "s3://releases/prod", server.Config)
	must(t, err)
	server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := report.NewReader(s).Newest(ctx, 1, map[string]report.Wanted{"i-1": {Volumes: []string{"vol-1"}}}); err == nil {
		t.Error("nobody answers, and all is well")
	}
}

func TestNames(t *testing.T) {
	r := of(1, 42, volume.StateReady, "vol-1")
	if r.Key() != "reports/0000000000000042/ready/AROAEXAMPLE:i-1" {
		t.Error(r.Key())
	}
	for _, bad := range []report.Report{of(1, 42, "booting", ""), of(1, -1, "ready", ""), {Caller: "x/y", Generation: 1, State: "ready"}} {
		if err := report.Put(t.Context(), nil, bad); err == nil {
			t.Errorf("%s was written", bad.Key())
		}
	}
	for id, ok := range map[string]bool{
		"AROAEXAMPLE:i-1": true, "AROAEXAMPLE:i-2": false, "AROAEXAMPLE:session": false, "AIDAEXAMPLE": false, "AROA/x:i-1": false, "": false,
	} {
		if err := report.CallerOf(id, "i-1"); (err == nil) != ok {
			t.Errorf("%q: %v", id, err)
		}
	}
}

// A member may write anything into its report: of its trouble only what is one is shown, and not
// more than a line.
func TestTroubleInAReport(t *testing.T) {
	s := open(t)
	at := func(n int) map[string]report.Wanted {
		return map[string]report.Wanted{fmt.Sprintf("i-%d", n): {Volumes: []string{"vol-1"}}}
	}
	r := of(1, 41, volume.StateReady, "vol-1")
	r.Trouble = trouble.Trouble{Generation: 42, Refused: true, Why: strings.Repeat("stage.d says no\n", 1000)}
	must(t, report.Put(t.Context(), s, r))
	found, err := report.NewReader(s).Newest(t.Context(), 41, at(1))
	must(t, err)
	if got := found["i-1"].Trouble; got.Generation != 42 || !got.Refused || !strings.HasPrefix(got.Why, "stage.d says no stage.d") || len(got.Why) > 250 {
		t.Errorf("%+v", got)
	}
	for n, said := range []string{`{"generation":-1,"why":"x"}`, `{"generation":42,"why":"\u001b\n"}`, `{"generation":42}`, `null`} {
		r := of(n+2, 41, volume.StateReady, "vol-1")
		must(t, s.PutDocument(t.Context(), r.Key(), fmt.Appendf(nil, `{"schema":1,"volume_id":"vol-1","trouble":%s}`, said)))
		found, err := report.NewReader(s).Newest(t.Context(), 41, at(n+2))
		must(t, err)
		if got, is := found[r.InstanceID]; !is || got.Trouble != (trouble.Trouble{}) {
			t.Errorf("%s: %+v", said, found)
		}
	}
}

// A member that has not reported yet is not looked for all the way down again and again.
func TestWhoHasNotReportedIsLookedForOnce(t *testing.T) {
	from := &asked{S3: open(t)}
	reader := report.NewReader(from)
	members := map[string]report.Wanted{"i-1": {Volumes: []string{"vol-1"}}}
	for _, want := range []string{"101 lists, 0 reads", "17 lists, 0 reads"} {
		if _, err := reader.Newest(t.Context(), 100, members); err != nil {
			t.Fatal(err)
		}
		if got := from.counts(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	must(t, report.Put(t.Context(), from.S3, of(1, 98, volume.StateReady, "vol-1")))
	if found, err := reader.Newest(t.Context(), 100, members); err != nil || found["i-1"].Generation != 98 {
		t.Errorf("%+v, %v", found, err)
	}
}
