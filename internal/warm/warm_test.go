package warm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ebs-release/internal/catchup"
	"ebs-release/internal/gc"
	"ebs-release/internal/release"
	"ebs-release/internal/status"
	"ebs-release/internal/test/blank"
)

// world is a member whose volume holds some releases.
type world struct {
	t      *testing.T
	volume *release.Volume
	ids    []string
	gets   func(bad []release.Damage) // what is to be healed; nil: nobody wants to know

	mu       sync.Mutex
	serves   Place
	looks    int
	onLook   func(look int)
	opened   error
	heal     func() (int, error)
	heals    int
	report   error
	reports  []status.Verified
	told     status.Warm
	troubles []string
}

const volumeID = "vol-1"

func newWorld(t *testing.T, releases int) *world {
	t.Helper()
	w := &world{t: t, volume: blank.Volume(t)}
	for n := 1; n <= releases; n++ {
		dir := t.TempDir()
		for name, text := range map[string]string{"same": "same", "number": fmt.Sprint(n)} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		made, err := w.volume.Ingest(t.Context(), dir, time.Now(), gc.Wanted{Keep: 10})
		if err == nil {
			err = w.volume.Activate(t.Context(), made.ID, made.Digest, int64(n))
		}
		if err != nil {
			t.Fatal(err)
		}
		w.ids = append(w.ids, made.ID)
	}
	w.serves = Place{volumeID, w.ids[releases-1]}
	return w
}

func (w *world) Serves() Place {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looks++
	if w.onLook != nil {
		w.onLook(w.looks)
	}
	return w.serves
}

func (w *world) Volume(context.Context) (*release.Volume, string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.opened != nil {
		return nil, "", w.opened
	}
	v, err := release.Open(w.volume.Root())
	return v, volumeID, err
}

func (w *world) Heal(_ context.Context, _ *release.Volume, bad []release.Damage) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.heals++
	if w.gets != nil {
		w.gets(bad)
	}
	return w.heal()
}

func (w *world) Report(_ context.Context, v status.Verified) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.report != nil {
		return w.report
	}
	w.reports = append(w.reports, v)
	return nil
}

func (w *world) Tell(now status.Warm) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = now
	if n := len(w.troubles); now.Trouble != "" && (n == 0 || w.troubles[n-1] != now.Trouble) {
		w.troubles = append(w.troubles, now.Trouble)
	}
	return nil
}

// run runs a Warmer until something is so.
func (w *world) run(until func() bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	warmer := Warmer{Member: w, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Timing: Timing{
		Look: time.Millisecond, Idle: time.Millisecond, Stall: 20 * time.Second, Grace: 10 * time.Second, Retry: 20 * time.Millisecond,
	}}
	ended := make(chan struct{})
	go func() {
		warmer.Run(ctx)
		close(ended)
	}()
	for {
		w.mu.Lock()
		so := until()
		w.mu.Unlock()
		if so {
			break
		}
		if ctx.Err() != nil {
			w.t.Fatalf("it did not come to this: told %+v", w.told)
		}
		time.Sleep(time.Millisecond)
	}
	cancel()
	<-ended
}

func (w *world) reported(n int) func() bool { return func() bool { return len(w.reports) == n } }

func TestEachReleaseIsReadOnce(t *testing.T) {
	w := newWorld(t, 1)
	w.run(func() bool { return len(w.reports) == 1 && w.looks > 100 })
	v := w.reports[0]
	if v.Generation != 1 || v.Release != w.ids[0] || v.VolumeID != volumeID || v.Files != 2 || v.Bytes != 5 || v.Bad != 0 || time.Since(v.When) > time.Minute {
		t.Errorf("%+v", v)
	}
	if w.told.Files != 2 || w.told.AllFiles != 2 || w.told.Trouble != "" || w.told.Verified == nil {
		t.Errorf("%+v", w.told)
	}
}

// While a boot is under way nothing is opened; what cannot be opened is said once, and tried again.
func TestNothingIsReadBeforeItIsServed(t *testing.T) {
	w := newWorld(t, 1)
	ready := w.serves
	w.serves, w.opened = Place{}, errors.New("the boot goes on")
	w.onLook = func(look int) {
		switch look {
		case 20:
			if w.told.Trouble != "" {
				t.Error("it was opened")
			}
			w.serves = ready
		case 40:
			w.opened = nil
		}
	}
	w.run(w.reported(1))
	if len(w.troubles) != 1 || w.troubles[0] != "the boot goes on" {
		t.Errorf("%q", w.troubles)
	}
}

// Another release becomes current while one is read: what came of the first is not reported.
func TestTheReleaseChangesMeanwhile(t *testing.T) {
	w := newWorld(t, 2)
	w.serves = Place{volumeID, w.ids[0]} // which `current` does not lead to any more
	w.onLook = func(look int) {
		if look == 50 {
			w.serves = Place{volumeID, w.ids[1]}
		}
	}
	w.run(w.reported(1))
	if w.reports[0].Release != w.ids[1] || len(w.troubles) > 0 {
		t.Errorf("%+v, %q", w.reports, w.troubles)
	}
}

func (w *world) edit(text string) {
	w.t.Helper()
	if err := os.WriteFile(w.volume.Path(w.ids[0])+"/number", []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// What cannot be healed is named, and only what may heal later is tried again.
func TestHealingIsTriedAgainWhereThatMayHelp(t *testing.T) {
	w := newWorld(t, 1)
	w.edit("x")
	w.heal = func() (int, error) {
		if w.heals < 3 {
			return 0, errors.New("the store is away")
		}
		w.edit("1")
		return 1, nil
	}
	w.run(func() bool { return len(w.reports) > 0 && w.reports[len(w.reports)-1].Healed == 1 })
	if last := w.reports[len(w.reports)-1]; last.Bad != 0 || w.told.Trouble != "" || w.heals != 3 {
		t.Errorf("%+v, %+v, %d", last, w.told, w.heals)
	}
	if len(w.troubles) == 0 || !strings.Contains(w.troubles[0], "1 file damaged, the first: number: its content has another sha256: the store is away. Try: replace") {
		t.Errorf("%q", w.troubles)
	}

	w = newWorld(t, 1)
	w.edit("x")
	w.heal = func() (int, error) { return 0, catchup.ErrNoPack }
	w.run(func() bool { return len(w.reports) > 0 && w.looks > 200 })
	if w.heals != 1 || w.reports[0].Bad != 1 || len(w.reports[0].Named) != 1 {
		t.Errorf("%d, %+v", w.heals, w.reports)
	}
}

// A volume lost more files than one reading keeps.
func TestAllOfAGreatDamageIsHealed(t *testing.T) {
	const files = 1100
	w := &world{t: t, volume: blank.Volume(t)}
	write := func(dir, text string) {
		for n := range files {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(n)), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	dir := t.TempDir()
	write(dir, "good")
	made, err := w.volume.Ingest(t.Context(), dir, time.Now(), gc.Wanted{Keep: 10})
	if err == nil {
		err = w.volume.Activate(t.Context(), made.ID, made.Digest, 1)
	}
	if err != nil {
		t.Fatal(err)
	}
	write(w.volume.Path(made.ID), "evil")
	w.serves = Place{volumeID, made.ID}
	healed := 0
	w.gets = func(bad []release.Damage) {
		healed = len(bad)
		for _, d := range bad {
			if err := os.WriteFile(filepath.Join(w.volume.Path(made.ID), d.Path), []byte("good"), 0o644); err != nil {
				t.Error(err)
			}
		}
	}
	w.heal = func() (int, error) { return healed, nil }
	w.run(w.reported(1))
	if r := w.reports[0]; r.Bad != 0 || r.Healed != files || w.heals != 2 || len(w.troubles) > 0 {
		t.Errorf("%+v after %d, %q", r, w.heals, w.troubles)
	}
}

func TestAReportIsMadeWhenItCanBe(t *testing.T) {
	for name, failure := range map[string]error{"the programs go on": ErrNotYet, "EC2 is away": errors.New("no answer")} {
		w := newWorld(t, 1)
		w.report = failure
		w.onLook = func(look int) {
			if look == 50 {
				w.report = nil
			}
		}
		w.run(w.reported(1))
		if len(w.troubles) > 0 {
			t.Errorf("%s: %q", name, w.troubles)
		}
	}
}
