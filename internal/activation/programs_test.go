package activation

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/exit"
	"ebs-release/internal/gc"
	"ebs-release/internal/hook"
	"ebs-release/internal/release"
)

// rig is a volume that serves its first release, and has a second one. Each directory has a program
// that notes its run, and fails while a file of its name is there.
type rig struct {
	*testing.T
	Programs
	v          *release.Volume
	one, two   Target
	did, fails string
}

func newRig(t *testing.T, folders ...string) *rig {
	t.Helper()
	programs, v, first, _, _ := installed(t)
	r := &rig{T: t, Programs: programs, v: v, one: Target{first.ID, first.Digest, 1}, did: programs.Folder + "/did", fails: programs.Folder}
	source := t.TempDir()
	r.must(os.WriteFile(source+"/file", []byte("two"), 0o644))
	second, err := v.Ingest(t.Context(), source, time.Now().Add(time.Hour), gc.Wanted{Keep: 5})
	r.must(err)
	r.two = Target{second.ID, second.Digest, 2}
	r.must(os.RemoveAll(r.Folder + "/activate.d"))
	for _, folder := range folders {
		r.program(folder, "10-note", "")
	}
	r.must(Run(t.Context(), v, r.Programs, r.one))
	r.want(r.one, true)
	r.must(os.WriteFile(r.did, nil, 0o644))
	return r
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) program(folder, name, script string) {
	r.Helper()
	r.must(os.MkdirAll(filepath.Join(r.Folder, folder), 0o755))
	text := fmt.Sprintf("#!/bin/sh\necho %s $EBS_RELEASE_GENERATION $EBS_RELEASE_ID >> %s\n%s\ntest ! -e %s/%[1]s-fails || { echo broken; exit 7; }\n",
		strings.TrimSuffix(folder, ".d"), r.did, script, r.fails)
	r.must(os.WriteFile(filepath.Join(r.Folder, folder, name), []byte(text), 0o755))
}

// fail makes the programs of a directory fail, or succeed again.
func (r *rig) fail(what string, on bool) {
	r.Helper()
	if on {
		r.must(os.WriteFile(r.fails+"/"+what+"-fails", nil, 0o644))
	} else {
		r.must(os.Remove(r.fails + "/" + what + "-fails"))
	}
}

// ran is what ran since the last time: directory and release.
func (r *rig) ran() string {
	r.Helper()
	data, err := os.ReadFile(r.did)
	r.must(err)
	r.must(os.WriteFile(r.did, nil, 0o644))
	return strings.Join(strings.Fields(strings.NewReplacer(r.one.Release, "one", r.two.Release, "two").Replace(string(data))), " ")
}

// want is what is current, and whether its programs have succeeded.
func (r *rig) want(is Target, done bool) {
	r.Helper()
	r.must(r.v.CheckActive(is.Release, is.Generation))
	if have, err := r.v.ProgramsDone(); err != nil || have != done {
		r.Errorf("programs done %v, %v", have, err)
	}
	if drained, err := r.v.Drained(); err != nil || drained && done {
		r.Errorf("drained %v, %v", drained, err)
	}
}

func TestDrainFlipProgramsReady(t *testing.T) {
	r := newRig(t, Folders()...)
	r.program(DrainFolder, "20-look", `test "$(cat $EBS_RELEASE_PATH/file) $(cat $EBS_RELEASE_STAGED/file) $EBS_RELEASE_PREVIOUS" = "one two `+r.one.Release+`" || exit 9`)
	r.program(ActivateFolder, "20-look", `test "$(cat $EBS_RELEASE_PATH/file) $EBS_RELEASE_PREVIOUS" = "two `+r.one.Release+`" || exit 9`)
	r.must(Stage(t.Context(), r.v, r.Programs, r.two))
	r.must(Run(t.Context(), r.v, r.Programs, r.two))
	r.want(r.two, true)
	if got := r.ran(); got != "stage 2 two drain 2 two drain 2 two activate 2 two activate 2 two ready 2 two" {
		t.Errorf("it ran %s", got)
	}
	r.must(os.Remove(r.Folder + "/drain.d/20-look"))
	r.must(os.Remove(r.Folder + "/activate.d/20-look"))

	// The same release under a higher generation goes out of service for nothing.
	r.two.Generation = 3
	r.must(Run(t.Context(), r.v, r.Programs, r.two))
	r.want(r.two, true)
	if got := r.ran(); got != "" {
		t.Errorf("for the fence alone it ran %s", got)
	}
	// What is refused anyway does not either.
	if err := Run(t.Context(), r.v, r.Programs, r.one); exit.Code(err) != exit.Conflict || r.ran() != "" {
		t.Error(err)
	}
	missing := Target{"20261122T231500Z-aaaaaaaaaaaa", strings.Repeat("a", 64), 9}
	if err := Run(t.Context(), r.v, r.Programs, missing); err == nil || r.ran() != "" {
		t.Error(err)
	}
	r.want(r.two, true)
}

// A failure on the way to the flip leaves what is current in service.
func TestWhatIsDrainedComesBack(t *testing.T) {
	for name, spoil := range map[string]func(r *rig){
		"a program fails":                 func(r *rig) { r.fail("drain", true) },
		"a program fails after another":   func(r *rig) { r.program(DrainFolder, "20-b", "exit 7") },
		"nobody has patience":             func(r *rig) { r.program(DrainFolder, "20-b", "sleep 60") },
		"a program takes too long":        func(r *rig) { r.program(DrainFolder, "20-b", "sleep 60"); r.Timeout = time.Second },
		"everybody may write the program": func(r *rig) { r.must(os.Chmod(r.Folder+"/drain.d/10-note", 0o777)) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, DrainFolder, ActivateFolder, ReadyFolder)
			spoil(r)
			ctx := t.Context()
			if strings.Contains(name, "patience") {
				var end context.CancelFunc
				ctx, end = context.WithTimeout(ctx, time.Second)
				defer end()
			}
			err := Run(ctx, r.v, r.Programs, r.two)
			if _, active := errors.AsType[*hook.Failure](err); err == nil || active || errors.Is(err, ErrRefused) != (ctx.Err() == nil) {
				t.Errorf("%v", err)
			}
			r.want(r.one, true)
			if got := r.ran(); !strings.HasSuffix(got, "activate 1 one ready 1 one") {
				t.Errorf("it ran %s", got)
			}
		})
	}
}

// The programs that are to bring it back may fail, too: then the mark is missing until they
// succeed.
func TestWhatDoesNotComeBackIsSaid(t *testing.T) {
	r := newRig(t, DrainFolder, ActivateFolder)
	r.fail("drain", true)
	r.fail("activate", true)
	err := Run(t.Context(), r.v, r.Programs, r.two)
	if _, active := errors.AsType[*hook.Failure](err); active || !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "the one before was not put into service again: run "+r.Folder+"/activate.d") {
		t.Errorf("%v", err)
	}
	r.want(r.one, false)
	r.fail("activate", false)
	r.ran()
	r.must(Pending(t.Context(), r.v, r.Programs))
	r.want(r.one, true)
	if got := r.ran(); got != "activate 1 one" {
		t.Errorf("it ran %s", got)
	}
}

// The disk is full between the fence and the flip.
func TestAFlipThatFailsAfterTheDrain(t *testing.T) {
	r := newRig(t, DrainFolder, ActivateFolder)
	block := r.v.Root() + "/.ebs-release/.current"
	r.must(os.MkdirAll(block+"/in the way", 0o755))
	if err := Run(t.Context(), r.v, r.Programs, r.two); err == nil {
		t.Fatal("it flips")
	}
	if got := r.ran(); got != "drain 2 two activate 2 one" {
		t.Errorf("it ran %s", got)
	}
	if current, err := r.v.Current(); current != r.one.Release || err != nil {
		t.Errorf("%s, %v", current, err)
	}
	if done, err := r.v.ProgramsDone(); done || err != nil {
		t.Errorf("done %v, %v", done, err)
	}
	if err := Pending(t.Context(), r.v, r.Programs); err == nil || r.ran() != "activate 2 one" {
		t.Errorf("what is half way is done: %v", err)
	}
	r.must(os.RemoveAll(block))
	r.must(Run(t.Context(), r.v, r.Programs, r.two))
	r.want(r.two, true)
}

// Killed between the drain and the flip, or between flip and programs: the volume says so, whoever
// comes next runs what has to be run, and a boot that adopts the volume leaves it to them.
func TestKilledOnTheWay(t *testing.T) {
	for name, way := range map[string]func(r *rig){
		"before the flip": func(r *rig) {},
		"after the flip": func(r *rig) {
			r.must(r.v.Activate(r.Context(), r.two.Release, r.two.Digest, r.two.Generation))
		},
	} {
		for next, run := range map[string]func(r *rig) error{
			"the programs": func(r *rig) error { return Pending(r.Context(), r.v, r.Programs) },
			"a push":       func(r *rig) error { return Run(r.Context(), r.v, r.Programs, r.two) },
			"a push of what was current": func(r *rig) error {
				r.one.Generation = 3
				return Run(r.Context(), r.v, r.Programs, r.one)
			},
			"a higher fence": func(r *rig) error {
				id, err := r.v.Current()
				r.must(err)
				to := map[string]*Target{r.one.Release: &r.one, r.two.Release: &r.two}[id]
				to.Generation = 3
				r.must(r.v.Raise(r.Context(), to.Release, to.Digest, 3))
				r.want(*to, false)
				return Pending(r.Context(), r.v, r.Programs)
			},
		} {
			t.Run(name+", then "+next, func(t *testing.T) {
				r := newRig(t, DrainFolder, ActivateFolder, ReadyFolder)
				r.must(Drain(t.Context(), r.v, r.Programs, r.two))
				if drained, err := r.v.Drained(); err != nil || !drained {
					t.Errorf("drained %v, %v", drained, err)
				}
				way(r)
				r.ran()
				r.must(run(r))
				if done, err := r.v.ProgramsDone(); err != nil || !done {
					t.Errorf("done %v, %v", done, err)
				}
				if drained, err := r.v.Drained(); err != nil || drained {
					t.Errorf("drained %v, %v", drained, err)
				}
				now := "one"
				if id, err := r.v.Current(); err != nil || id == r.two.Release {
					now = "two"
				}
				n, err := r.v.Generation()
				r.must(err)
				if got := r.ran(); !strings.HasSuffix(got, fmt.Sprintf("activate %d %s ready %[1]d %[2]s", n, now)) {
					t.Errorf("it ran %s", got)
				}
			})
		}
	}
}

// Programs that put an earlier release into service end before those that take it out begin.
func TestDrainWaitsForEarlierPrograms(t *testing.T) {
	r := newRig(t, DrainFolder)
	unlock, err := r.v.LockPrograms(t.Context())
	r.must(err)
	ctx, end := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer end()
	if err := Run(ctx, r.v, r.Programs, r.two); !errors.Is(err, context.DeadlineExceeded) || r.ran() != "" {
		t.Errorf("%v", err)
	}
	unlock()
	r.must(Run(t.Context(), r.v, r.Programs, r.two))
	r.want(r.two, true)
}

func TestReadyIsAskedUntilItSucceeds(t *testing.T) {
	r := newRig(t, ActivateFolder, ReadyFolder)
	r.program(ReadyFolder, "20-http", `test $(grep -c '^ready' `+r.did+`) -gt 4 || { echo connection refused; exit 7; }`)
	r.must(Run(t.Context(), r.v, r.Programs, r.two))
	r.want(r.two, true)
	if got := r.ran(); got != "activate 2 two"+strings.Repeat(" ready 2 two", 6) {
		t.Errorf("it ran %s", got)
	}
}

func TestReadyHasItsTime(t *testing.T) {
	for name, tc := range map[string]struct{ script, line string }{
		"it fails": {"echo connection refused; exit 7", "connection refused"},
		"it hangs": {"sleep 60", "no round of its programs came to its end"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, ActivateFolder)
			r.Ready = 1500 * time.Millisecond
			r.program(ReadyFolder, "10-http", tc.script)
			began := time.Now()
			failed, ok := errors.AsType[*hook.Failure](Run(t.Context(), r.v, r.Programs, r.two))
			if !ok || !strings.HasPrefix(failed.Name, "ready.d") || failed.Line != tc.line || time.Since(began) > 20*time.Second {
				t.Errorf("%+v after %v", failed, time.Since(began))
			}
			r.want(r.two, false)
			r.must(os.Remove(r.Folder + "/ready.d/10-http"))
			r.ran()
			r.must(Pending(t.Context(), r.v, r.Programs))
			r.want(r.two, true)
			if got := r.ran(); got != "activate 2 two" {
				t.Errorf("it ran %s", got)
			}
		})
	}
}

// Nobody waits for what is not current any more.
func TestReadyEndsWithAnotherRelease(t *testing.T) {
	r := newRig(t, ActivateFolder)
	r.Ready = time.Hour
	r.program(ReadyFolder, "10-http", "exit 7")
	ended := make(chan error, 1)
	go func() { ended <- Run(t.Context(), r.v, r.Programs, r.two) }()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if data, err := os.ReadFile(r.did); err == nil && strings.Contains(string(data), "ready") {
			break
		} else if time.Now().After(end) {
			t.Fatal("ready.d did not run")
		}
	}
	r.must(r.v.Activate(t.Context(), r.one.Release, r.one.Digest, 3))
	if err := <-ended; exit.Code(err) != exit.Conflict {
		t.Errorf("%v", err)
	}
}

func TestStageRefuses(t *testing.T) {
	r := newRig(t, StageFolder)
	r.fail("stage", true)
	if err := Stage(t.Context(), r.v, r.Programs, r.two); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "stage.d: 10-note ended with exit code 7: broken") {
		t.Errorf("%v", err)
	}
	r.must(Stage(t.Context(), r.v, r.Programs, r.one)) // it is current
	r.fail("stage", false)
	r.must(Stage(t.Context(), r.v, r.Programs, r.two))
	r.must(Run(t.Context(), r.v, r.Programs, r.two))
	r.fail("stage", true)
	r.must(Stage(t.Context(), r.v, r.Programs, r.one)) // the way back
	if got := r.ran(); got != "stage 2 two stage 2 two" {
		t.Errorf("it ran %s", got)
	}
}

// An application that does not come up does not keep the way back waiting, where drain.d waits for
// its programs.
func TestReadyGivesWayToADrain(t *testing.T) {
	r := newRig(t, DrainFolder, ActivateFolder)
	r.Ready = time.Hour
	r.program(ReadyFolder, "10-http", `test "$(cat $EBS_RELEASE_PATH/file)" = one || exit 7`)
	ended := make(chan error, 1)
	go func() { ended <- Run(t.Context(), r.v, r.Programs, r.two) }()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if data, err := os.ReadFile(r.did); err == nil && strings.Contains(string(data), "ready") {
			break
		} else if time.Now().After(end) {
			t.Fatal("ready.d did not run")
		}
	}
	r.one.Generation = 3
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	r.must(Run(ctx, r.v, r.Programs, r.one))
	r.want(r.one, true)
	if err := <-ended; exit.Code(err) != exit.Conflict {
		t.Errorf("%v", err)
	}
}
