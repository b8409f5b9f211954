package boot_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/boot"
)

func TestFirstBootGoesThroughAllStagesInOrder(t *testing.T) {
	w := newWorld(7)
	f, _, err := w.boot(t)
	if err != nil {
		t.Fatal(err)
	}
	want := boot.Facts{
		InstanceID: "i-me", Generation: 7, Release: "release-7", SnapshotID: "snap-7", VolumeID: "vol-new1", Device: "/dev/disk-of-vol-new1",
	}
	if f != want {
		t.Errorf("facts = %+v, want %+v", f, want)
	}
	stages := "identify resolve adopt create look for newer (skipped) attach protect find device check mount catch up verify may serve report re-read ready"
	if got := strings.Join(w.stages, " "); got != stages {
		t.Errorf("stages = %s", got)
	}
	w.want(t, "create vol-new1", "attach vol-new1", "protect vol-new1", "mount vol-new1", "report 7 ready=true",
		"place vol-new1", "close vol-new1", "ready 7 on vol-new1")
}

func TestIdentifyAndResolveRunSideBySide(t *testing.T) {
	w := newWorld(7)
	w.instance.identify = func(ctx context.Context) (boot.Identity, error) {
		time.Sleep(3 * time.Second)
		return boot.Identity{InstanceID: "i-me", Region: "eu-west-1"}, nil
	}
	w.pointers.fetch = func(context.Context) (boot.Pointer, error) {
		if len(w.effects) == 0 { // not the re-read
			time.Sleep(4 * time.Second)
		}
		return pointer(7), nil
	}
	if _, took, err := w.boot(t); err != nil || took != 4*time.Second {
		t.Fatalf("took %v, %v, want as long as the slower one", took, err)
	}
}

func TestProtectIsNotOnTheCriticalPath(t *testing.T) {
	w := newWorld(7)
	w.volumes.protect = func(_ context.Context, v boot.Volume) error {
		time.Sleep(4 * time.Second)
		w.did("protect %s", v.ID)
		return nil
	}
	w.disks.find = func(context.Context, boot.Volume) (boot.Disk, error) {
		time.Sleep(2 * time.Second)
		return boot.Disk{Path: "/dev/x"}, nil
	}
	w.disks.check = func(d boot.Disk) (boot.Disk, error) {
		time.Sleep(3 * time.Second)
		d.Kind = "ext4"
		return d, nil
	}
	if _, took, err := w.boot(t); err != nil || took != 5*time.Second {
		t.Fatalf("took %v, %v, want as long as find and check", took, err)
	}
}

func TestNothingIsReportedBeforeItIsProtected(t *testing.T) {
	w := newWorld(7)
	w.volumes.protect = func(_ context.Context, v boot.Volume) error {
		time.Sleep(10 * time.Second)
		w.did("protect %s", v.ID)
		return nil
	}
	if _, took, err := w.boot(t); err != nil || took != 10*time.Second {
		t.Fatalf("took %v, %v", took, err)
	}
	w.want(t, "create vol-new1", "attach vol-new1", "mount vol-new1", "protect vol-new1", "report 7 ready=true", "place vol-new1", "close vol-new1", "ready 7 on vol-new1")
}

func TestSecondUpChangesNothing(t *testing.T) {
	w := newWorld(7)
	w.have(boot.Volume{
		ID: "vol-1", SnapshotID: "snap-7", Attached: true, Device: "/dev/xvdaa", Protected: true,
		Reported: boot.Report{Ready: true, Generation: 7, Release: "release-7", HostKey: hostKey},
	}, 7)
	w.mounted = "vol-1"
	w.volumes.create, w.volumes.attach, w.volumes.protect, w.volumes.remove, w.volumes.report = nil, nil, nil, nil, nil
	w.mounts.prepare, w.mounts.unmount = nil, nil
	f, took, err := w.boot(t)
	if err != nil || took != 0 || f.VolumeID != "vol-1" {
		t.Fatalf("%+v after %v, %v", f, took, err)
	}
	w.want(t, "ready 7 on vol-1")
}

// Row 87: EC2's answer is from before the attachment, and the kernel has the disk.
func TestADiskThatIsHereIsAttachedWhateverEC2Says(t *testing.T) {
	for name, tc := range map[string]struct {
		mounted string
		effects []string
	}{
		"serving": {"vol-1", []string{"protect vol-1", "ready 7 on vol-1"}},
		"attached": {"", []string{
			"protect vol-1", "mount vol-1", "place vol-1", "close vol-1", "ready 7 on vol-1",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(7)
			w.have(boot.Volume{
				// Not the pointer's snapshot: a push has moved it on, which only a look inside
				// tells.
				ID: "vol-1", SnapshotID: "snap-6", Reported: boot.Report{Ready: true, Generation: 7, Release: "release-7", HostKey: hostKey},
			}, 7)
			w.mounted = tc.mounted
			w.disks.here = func(v boot.Volume) (bool, error) { return v.ID == "vol-1", nil }
			w.volumes.create, w.volumes.attach, w.volumes.remove, w.mounts.unmount = nil, nil, nil, nil
			if f, _, err := w.boot(t); err != nil || f.VolumeID != "vol-1" {
				t.Fatalf("%+v, %v", f, err)
			}
			w.want(t, tc.effects...)
		})
	}
}

// Row 87, a sibling: what something here still uses is not removed because EC2 calls it unattached.
func TestADiskInUseIsNotRemovedWhateverEC2Says(t *testing.T) {
	w := newWorld(7)
	w.have(boot.Volume{ID: "vol-1", SnapshotID: "snap-6"}, 6)
	w.disks.unused = func(boot.Volume) error { return errors.New("in use by pid 42 (app)") }
	if f, _, err := w.boot(t); err != nil || f.VolumeID != "vol-new1" {
		t.Fatalf("%+v, %v: want the boot to go on with another", f, err)
	}
	if w.effects[0] != "leave vol-1" || slices.Contains(w.effects, "remove vol-1") {
		t.Errorf("effects: %v", w.effects)
	}
}

func TestCrashBeforeTheReportIsMadeGood(t *testing.T) {
	w := newWorld(7)
	w.have(boot.Volume{ID: "vol-1", SnapshotID: "snap-7", Attached: true}, 7)
	w.mounted = "vol-1"
	if _, _, err := w.boot(t); err != nil {
		t.Fatal(err)
	}
	w.want(t, "protect vol-1", "report 7 ready=true", "ready 7 on vol-1")
}

// A push put the release there, and its programs failed: the boot must not report what the push
// could not.
func TestSecondUpDoesNotSayThatProgramsHaveSucceeded(t *testing.T) {
	for _, pending := range []bool{true, false} {
		w := newWorld(7)
		w.have(boot.Volume{
			ID: "vol-1", SnapshotID: "snap-7", Attached: true, Device: "/dev/xvdaa", Protected: true,
			Reported: boot.Report{Ready: true, Pending: !pending, Generation: 7, Release: "release-7", HostKey: hostKey},
		}, 7)
		w.mounted, w.pending = "vol-1", pending
		var told []boot.Report
		w.volumes.report = func(_ boot.Volume, r boot.Report) error { told = append(told, r); return nil }
		facts, _, err := w.boot(t)
		if err != nil {
			t.Fatal(err)
		}
		if len(told) != 1 || !told[0].Ready || told[0].Pending != pending || facts.Pending != pending {
			t.Errorf("pending %v: it reports %+v, and says %+v", pending, told, facts)
		}
		w.want(t, "ready 7 on vol-1")
	}
}

// What starts after the mount reads the new release: there is nothing for programs to tell it.
func TestAMountThatNobodySawNeedsNoPrograms(t *testing.T) {
	for _, drained := range []bool{false, true} { // but what drain.d has told others stands
		w := newWorld(7)
		w.have(boot.Volume{ID: "vol-1", SnapshotID: "snap-7", Attached: true}, 7)
		w.pending, w.drained = true, drained
		var told []boot.Report
		w.volumes.report = func(_ boot.Volume, r boot.Report) error { told = append(told, r); return nil }
		if _, _, err := w.boot(t); err != nil {
			t.Fatal(err)
		}
		if len(told) != 1 || !told[0].Ready || told[0].Pending != drained {
			t.Errorf("drained %v: it reports %+v", drained, told)
		}
	}
}

func TestRebootAdoptsVolume(t *testing.T) {
	reported := boot.Report{Ready: true, Generation: 7, Release: "release-7", HostKey: hostKey}
	for _, tc := range []struct {
		name    string
		have    []boot.Volume
		holds   int64
		effects []string
	}{
		{
			"attached", []boot.Volume{{ID: "vol-1", SnapshotID: "snap-7", Attached: true, Protected: true, Reported: reported}}, 7,
			[]string{"mount vol-1", "place vol-1", "close vol-1", "ready 7 on vol-1"},
		},
		{
			"attached, moved on by a push that did not tag it", []boot.Volume{{ID: "vol-1", SnapshotID: "snap-5", Attached: true, Protected: true}}, 7,
			[]string{"mount vol-1", "report 7 ready=true", "place vol-1", "close vol-1", "ready 7 on vol-1"},
		},
		{
			"available", []boot.Volume{{ID: "vol-1", SnapshotID: "snap-7"}}, 7,
			[]string{"attach vol-1", "protect vol-1", "mount vol-1", "report 7 ready=true", "place vol-1", "close vol-1", "ready 7 on vol-1"},
		},
		{
			"two: the attached one stays", []boot.Volume{{ID: "vol-1", SnapshotID: "snap-7"}, {ID: "vol-2", SnapshotID: "snap-7", Attached: true, Protected: true}}, 7,
			[]string{"remove vol-1", "mount vol-2", "report 7 ready=true", "place vol-2", "close vol-2", "ready 7 on vol-2"},
		},
		{
			"older, attached: looked at, then replaced", []boot.Volume{{ID: "vol-1", SnapshotID: "snap-6", Attached: true, Protected: true}}, 6,
			[]string{
				"mount vol-1", "close vol-1", "remove vol-1", "create vol-new1", "attach vol-new1", "protect vol-new1", "mount vol-new1",
				"report 7 ready=true", "place vol-new1", "close vol-new1", "ready 7 on vol-new1",
			},
		},
		{
			"older, not attached: not worth a look", []boot.Volume{{ID: "vol-1", SnapshotID: "snap-6"}}, 6,
			[]string{
				"remove vol-1", "create vol-new1", "attach vol-new1", "protect vol-new1", "mount vol-new1", "report 7 ready=true",
				"place vol-new1", "close vol-new1", "ready 7 on vol-new1",
			},
		},
		{
			"on its way off", []boot.Volume{{ID: "vol-1", SnapshotID: "snap-7", Attached: true, Leaving: true}}, 7,
			[]string{
				"remove vol-1", "create vol-new1", "attach vol-new1", "protect vol-new1", "mount vol-new1", "report 7 ready=true",
				"place vol-new1", "close vol-new1", "ready 7 on vol-new1",
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(7)
			for _, v := range tc.have {
				w.have(v, tc.holds)
			}
			if _, _, err := w.boot(t); err != nil {
				t.Fatal(err)
			}
			w.want(t, tc.effects...)
			if len(w.account) != 1 {
				t.Errorf("the account has %v, want one volume", w.account)
			}
		})
	}
}

func TestVolumeOfALostRunIsSeenBeforeItIsTrusted(t *testing.T) {
	w := newWorld(7)
	first := true
	create := w.volumes.create
	w.volumes.create = func(ctx context.Context, want boot.Wanted) (boot.Volume, error) {
		v, err := create(ctx, want)
		if first { // the client token led to a volume that an earlier run attached, and that holds something else
			first, v.Attached, w.holds[v.ID] = false, true, 3
			w.account[v.ID] = v
		}
		return v, err
	}
	f, _, err := w.boot(t)
	if err != nil || f.VolumeID != "vol-new2" || len(w.account) != 1 {
		t.Fatalf("%+v, %v, account %v", f, err, w.account)
	}
}

func TestOlderMountIsReplaced(t *testing.T) {
	w := newWorld(7)
	w.have(boot.Volume{ID: "vol-1", SnapshotID: "snap-6", Attached: true, Protected: true}, 6)
	w.mounted = "vol-1"
	if _, _, err := w.boot(t); err != nil {
		t.Fatal(err)
	}
	w.want(t, "unmount vol-1", "remove vol-1", "create vol-new1", "attach vol-new1", "protect vol-new1", "mount vol-new1",
		"report 7 ready=true", "place vol-new1", "close vol-new1", "ready 7 on vol-new1")
}

// TestAnOlderPointerChangesNothing: whatever shows that this machine holds a newer generation than
// the pointer names, that volume and its mount stay.
func TestAnOlderPointerChangesNothing(t *testing.T) {
	attached := boot.Volume{ID: "vol-8", SnapshotID: "snap-8", Attached: true, Protected: true, Reported: boot.Report{Ready: true, Generation: 8, Release: "release-8", HostKey: hostKey}}
	pushed := attached // and its tags are those of the boot
	pushed.SnapshotID, pushed.Reported.Generation = "snap-7", 7
	loose := attached
	loose.Attached, loose.Protected, loose.Device = false, false, ""
	exact := boot.Volume{ID: "vol-7", SnapshotID: "snap-7", Attached: true, Protected: true}
	for _, tc := range []struct {
		name    string
		have    []boot.Volume
		mounted string
		stage   string
		effects []string
		older   []string // the effects when the operator wants the older one
	}{
		{"mounted", []boot.Volume{attached}, "vol-8", boot.StageAdopt, nil, []string{"unmount vol-8", "remove vol-8"}},
		{"mounted, pushed to and not tagged", []boot.Volume{pushed}, "vol-8", boot.StageAdopt, nil, []string{"unmount vol-8", "remove vol-8"}},
		{"attached after a reboot", []boot.Volume{attached}, "", boot.StageVerify, []string{"mount vol-8", "close vol-8"}, []string{"mount vol-8", "close vol-8", "remove vol-8"}},
		{
			"attached after a reboot, pushed to and not tagged", []boot.Volume{pushed}, "", boot.StageVerify,
			[]string{"mount vol-8", "close vol-8"}, []string{"mount vol-8", "close vol-8", "remove vol-8"},
		},
		{"not attached: its tags are all that is known", []boot.Volume{loose}, "", boot.StageAdopt, nil, []string{"remove vol-8"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, older := range []bool{false, true} {
				w := newWorld(7)
				for _, v := range tc.have {
					w.have(v, 8)
				}
				w.mounted, w.parts.Older = tc.mounted, older
				_, _, err := w.boot(t)
				if older {
					if err != nil {
						t.Fatal(err)
					}
					w.want(t, append(tc.older, "create vol-new1", "attach vol-new1", "protect vol-new1", "mount vol-new1", "report 7 ready=true",
						"place vol-new1", "close vol-new1", "ready 7 on vol-new1")...)
					continue
				}
				failed, _ := errors.AsType[*boot.Error](err)
				if !errors.Is(err, boot.ErrOlder) || failed == nil || failed.Stage != tc.stage || strings.Count(err.Error(), "Try: ") != 1 {
					t.Fatalf("error = %v", err)
				}
				w.want(t, tc.effects...)
				if w.mounted != tc.mounted || len(w.account) != len(tc.have) {
					t.Errorf("mounted %q, account %v", w.mounted, w.account)
				}
			}
		})
	}
	t.Run("one that fits is there, too", func(t *testing.T) {
		w := newWorld(7)
		w.have(loose, 8)
		w.have(exact, 7)
		if _, _, err := w.boot(t); !errors.Is(err, boot.ErrOlder) {
			t.Fatalf("error = %v", err)
		}
		w.want(t)
	})
	t.Run("a killed boot did not protect it", func(t *testing.T) {
		w := newWorld(7)
		pushed := pushed
		pushed.Protected = false
		w.have(pushed, 8)
		w.volumes.protect = func(context.Context, boot.Volume) error { time.Sleep(20 * time.Second); return errors.New("denied") }
		if _, _, err := w.boot(t); !errors.Is(err, boot.ErrOlder) || len(w.account) != 1 {
			t.Fatalf("error = %v, account %v", err, w.account)
		}
	})
	t.Run("it cannot be looked into", func(t *testing.T) {
		w := newWorld(7)
		w.have(attached, 8)
		w.disks.check = func(d boot.Disk) (boot.Disk, error) { return d, errors.New("input/output error") }
		_, _, err := w.boot(t)
		if !errors.Is(err, boot.ErrOlder) || !strings.Contains(err.Error(), "input/output error") || len(w.account) != 1 {
			t.Fatalf("error = %v, account %v", err, w.account)
		}
	})
	t.Run("a right is missing before it was looked into", func(t *testing.T) {
		w := newWorld(7)
		loose := attached
		loose.Protected = false
		w.have(loose, 8)
		w.volumes.protect = func(context.Context, boot.Volume) error { return errors.New("denied") }
		w.disks.check = func(d boot.Disk) (boot.Disk, error) { time.Sleep(time.Second); return d, nil }
		if _, _, err := w.boot(t); err == nil || len(w.account) != 1 {
			t.Fatalf("error = %v, account %v", err, w.account)
		}
	})
	t.Run("re-read", func(t *testing.T) {
		w := newWorld(7)
		report := w.volumes.report
		w.volumes.report = func(v boot.Volume, r boot.Report) error {
			w.pointer = 6 // a cache on the way has another copy
			return report(v, r)
		}
		_, _, err := w.boot(t)
		if !errors.Is(err, boot.ErrOlder) || !strings.HasPrefix(err.Error(), "re-read: ") || w.mounted != "" || len(w.account) != 1 {
			t.Fatalf("error = %v, mounted %q, account %v", err, w.mounted, w.account)
		}
	})
}

func TestOlderMountInUseStops(t *testing.T) {
	w := newWorld(7)
	w.have(boot.Volume{ID: "vol-1", SnapshotID: "snap-6", Attached: true}, 6)
	w.mounted = "vol-1"
	w.mounts.unmount = func() error { return errors.New("in use by pid 42 (app)") }
	_, _, err := w.boot(t)
	if err == nil || !strings.Contains(err.Error(), "pid 42") || !strings.Contains(err.Error(), "generation 6, not 7") {
		t.Fatalf("error = %v", err)
	}
	w.want(t)
}

func TestVolumeThatAContainerStillHoldsIsNotRemoved(t *testing.T) {
	w := newWorld(7)
	w.have(boot.Volume{ID: "vol-1", SnapshotID: "snap-6", Attached: true}, 6)
	w.mounted = "vol-1"
	w.disks.unused = func(v boot.Volume) error { return errors.New("in use by pid 42 (app)") }
	f, _, err := w.boot(t)
	if err != nil || f.VolumeID != "vol-new1" {
		t.Fatalf("%+v, %v: want the boot to go on with another", f, err)
	}
	w.want(t, "unmount vol-1", "leave vol-1", "create vol-new1", "attach vol-new1", "protect vol-new1", "mount vol-new1",
		"report 7 ready=true", "place vol-new1", "close vol-new1", "ready 7 on vol-new1")
}

// Row 83: a push holds the volume's lock, the disk has an error: nobody knows what is there, so it
// stays.
func TestMountThatCannotBeLookedAtStays(t *testing.T) {
	w := newWorld(7)
	w.have(boot.Volume{ID: "vol-1", SnapshotID: "snap-7", Attached: true, Protected: true}, 7)
	w.mounted = "vol-1"
	look := w.mounts.look
	w.mounts.look = func(mine []boot.Volume) (*boot.Mounted, error) {
		mounted, err := look(mine)
		tree := w.tree("vol-1")
		tree.check = func(boot.Wanted) error { return errors.New("lock /release: held by another process") }
		mounted.Tree = tree
		return mounted, err
	}
	_, _, err := w.boot(t)
	if err == nil || !strings.HasPrefix(err.Error(), "adopt: look whether the release at /dev/x is the wanted one (it stays mounted): lock /release: held") {
		t.Fatalf("error = %v", err)
	}
	w.want(t)
	if w.mounted != "vol-1" || len(w.account) != 1 {
		t.Errorf("mounted %q, account %v", w.mounted, w.account)
	}
}

// Row 85: EC2 keeps the volume of an earlier boot, whatever is asked of it.
func TestAVolumeThatCannotBeRemovedDoesNotStopTheBoot(t *testing.T) {
	for name, have := range map[string]boot.Volume{
		"another snapshot's":         {ID: "vol-1", SnapshotID: "snap-6"},
		"attached, holds another":    {ID: "vol-1", SnapshotID: "snap-6", Attached: true, Protected: true},
		"left by a boot before this": {ID: "vol-1", SnapshotID: "snap-7", Attached: true, Leaving: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(7)
			w.have(have, 6)
			w.volumes.remove = func(boot.Volume) error { return errors.New("EC2 says `in-use detaching`") }
			f, _, err := w.boot(t)
			if err != nil || f.VolumeID != "vol-new1" {
				t.Fatalf("%+v, %v", f, err)
			}
			if n := strings.Count(strings.Join(w.effects, "\n"), "leave vol-1"); n != 1 {
				t.Errorf("vol-1 was left %d times: %v", n, w.effects)
			}
		})
	}
}

// Row 80: the disk does not answer. Another volume is tried once; what nobody has looked at is
// left, not deleted.
func TestADiskThatDoesNotAnswerIsReplacedOnce(t *testing.T) {
	for _, stage := range []string{boot.StageCheck, boot.StageMount, boot.StageCatchUp, boot.StageVerify} {
		for silent := 1; silent <= 2; silent++ {
			t.Run(fmt.Sprintf("%s, %d disks", stage, silent), func(t *testing.T) {
				w := newWorld(7)
				disks := 0
				hangs := func(at string) error {
					if at != stage {
						return nil
					}
					if disks++; disks > silent {
						return nil
					}
					time.Sleep(20 * time.Second)
					return fmt.Errorf("the disk does not answer: %w", context.DeadlineExceeded)
				}
				w.disks.check = func(d boot.Disk) (boot.Disk, error) {
					d.Kind = "ext4"
					return d, hangs(boot.StageCheck)
				}
				prepare := w.mounts.prepare
				w.mounts.prepare = func(v boot.Volume) (boot.Prepared, error) {
					if err := hangs(boot.StageMount); err != nil {
						return nil, err
					}
					p, err := prepare(v)
					own := p.(fakePrepared)
					check := own.check
					own.catchUp = func(context.Context, boot.Wanted) error { return hangs(boot.StageCatchUp) }
					own.check = func(want boot.Wanted) error { return errors.Join(hangs(boot.StageVerify), check(want)) }
					return own, err
				}
				f, took, err := w.boot(t)
				if silent == 1 && (err != nil || f.VolumeID != "vol-new2") || silent == 2 && (err == nil || !strings.HasPrefix(err.Error(), stage+": ")) {
					t.Errorf("%+v, %v", f, err)
				}
				if took > time.Minute || !slices.Contains(w.effects, "leave vol-new1") || slices.Contains(w.effects, "remove vol-new1") {
					t.Errorf("after %v: %v", took, w.effects)
				}
			})
		}
	}
}

func TestForeignMountAndBadMountPointStopBeforeAnyEffect(t *testing.T) {
	for name, look := range map[string]func([]boot.Volume) (*boot.Mounted, error){
		"foreign": func([]boot.Volume) (*boot.Mounted, error) { return &boot.Mounted{What: "tmpfs at /release"}, nil },
		"symlink": func([]boot.Volume) (*boot.Mounted, error) { return nil, errors.New("/release is a symbolic link") },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(7)
			w.mounts.look = look
			_, _, err := w.boot(t)
			if err == nil || !strings.HasPrefix(err.Error(), "adopt: ") || !strings.Contains(err.Error(), "Try: ") {
				t.Fatalf("error = %v", err)
			}
			w.want(t)
		})
	}
}

func TestPointerThatMovedAtTheRereadLeadsBackWithNothingServed(t *testing.T) {
	w := newWorld(7)
	report := w.volumes.report
	w.volumes.report = func(v boot.Volume, r boot.Report) error {
		w.pointer = 8 // the commit comes right after the report
		return report(v, r)
	}
	f, _, err := w.boot(t)
	if err != nil || f.Generation != 8 || len(w.account) != 1 {
		t.Fatalf("%+v, %v, account %v", f, err, w.account)
	}
	w.want(t, "create vol-new1", "attach vol-new1", "protect vol-new1", "mount vol-new1", "report 7 ready=true", "close vol-new1",
		"mount vol-new1", "close vol-new1", "remove vol-new1", // looked at once more, and replaced
		"create vol-new2", "attach vol-new2", "protect vol-new2", "mount vol-new2", "report 8 ready=true", "place vol-new2", "close vol-new2", "ready 8 on vol-new2")
}

func TestReportComesBeforeTheRereadAndThatBeforeReady(t *testing.T) {
	w := newWorld(7)
	fetches := 0
	w.pointers.fetch = func(context.Context) (boot.Pointer, error) {
		if fetches++; fetches == 2 {
			w.did("re-read")
		}
		return pointer(7), nil
	}
	if _, _, err := w.boot(t); err != nil {
		t.Fatal(err)
	}
	at := func(effect string) int { return slices.Index(w.effects, effect) }
	if !(at("report 7 ready=true") < at("re-read") && at("re-read") < at("place vol-new1") && at("place vol-new1") < at("ready 7 on vol-new1")) {
		t.Errorf("effects = %v", w.effects)
	}
}

func TestPlainPointerIsVerifiedByTheSnapshotAlone(t *testing.T) {
	w := newWorld(0)
	w.have(boot.Volume{ID: "vol-1", SnapshotID: "snap-other", Attached: true}, 3)
	w.volumes.create = func(_ context.Context, want boot.Wanted) (boot.Volume, error) {
		w.holds["vol-2"] = 5
		return boot.Volume{ID: "vol-2", SnapshotID: want.SnapshotID}, nil
	}
	f, _, err := w.boot(t)
	if err != nil || f.VolumeID != "vol-2" || f.Generation != 5 || f.Release != "release-5" {
		t.Fatalf("%+v, %v", f, err)
	}
}

func TestFailureSaysStageCauseAndNextStepAndLeavesNothingBehind(t *testing.T) {
	broken := errors.New("broken")
	for _, tc := range []struct {
		name  string
		fail  func(w *world)
		stage string
		left  int // volumes in the account
	}{
		{"identify", func(w *world) {
			w.instance.identify = func(context.Context) (boot.Identity, error) { return boot.Identity{}, broken }
		}, boot.StageIdentify, 0},
		{"resolve", func(w *world) {
			w.pointers.fetch = func(context.Context) (boot.Pointer, error) { return boot.Pointer{}, broken }
		}, boot.StageResolve, 0},
		{"no snapshot for the Region", func(w *world) {
			w.instance.identify = func(context.Context) (boot.Identity, error) {
				return boot.Identity{InstanceID: "i-me", Region: "us-east-1"}, nil
			}
		}, boot.StageAdopt, 0},
		{"create", func(w *world) {
			w.volumes.create = func(context.Context, boot.Wanted) (boot.Volume, error) { return boot.Volume{}, broken }
		}, boot.StageCreate, 0},
		{"create, and the volume exists", func(w *world) {
			create := w.volumes.create
			w.volumes.create = func(ctx context.Context, want boot.Wanted) (boot.Volume, error) {
				v, _ := create(ctx, want)
				return v, broken
			}
		}, boot.StageCreate, 0},
		{"attach", func(w *world) {
			w.volumes.attach = func(_ context.Context, v boot.Volume, _ []string) (boot.Volume, error) { return v, broken }
		}, boot.StageAttach, 0},
		{"protect", func(w *world) {
			w.volumes.protect = func(context.Context, boot.Volume) error { return broken }
		}, boot.StageProtect, 0},
		{"find", func(w *world) {
			w.disks.find = func(context.Context, boot.Volume) (boot.Disk, error) {
				time.Sleep(time.Second)
				return boot.Disk{}, broken
			}
		}, boot.StageFind, 1}, // attached and protected: the next start goes on with it
		{"check", func(w *world) {
			w.disks.check = func(boot.Disk) (boot.Disk, error) { return boot.Disk{}, broken }
		}, boot.StageCheck, 0},
		{"mount", func(w *world) {
			w.mounts.prepare = func(boot.Volume) (boot.Prepared, error) { return nil, broken }
		}, boot.StageMount, 0},
		{"catch up", func(w *world) {
			w.catchUp = func(context.Context, string, boot.Wanted) error {
				return fmt.Errorf("no way leads there: %w", boot.ErrMismatch)
			}
		}, boot.StageCatchUp, 0},
		{"catch up, and the store does not answer", func(w *world) {
			w.catchUp = func(context.Context, string, boot.Wanted) error { return broken }
		}, boot.StageCatchUp, 1},
		{"verify", func(w *world) {
			prepare := w.mounts.prepare
			w.mounts.prepare = func(v boot.Volume) (boot.Prepared, error) {
				w.holds[v.ID] = 2
				return prepare(v)
			}
		}, boot.StageVerify, 0},
		{"report", func(w *world) {
			w.volumes.report = func(boot.Volume, boot.Report) error { return broken }
		}, boot.StageReport, 1},
		{"re-read", func(w *world) {
			first := true
			w.pointers.fetch = func(context.Context) (boot.Pointer, error) {
				if first {
					first = false
					return pointer(7), nil
				}
				return boot.Pointer{}, broken
			}
		}, boot.StageReread, 1},
		{"ready", func(w *world) {
			w.mounts.visible = func() error { return broken }
		}, boot.StageReady, 1},
		{"gate", func(w *world) {
			w.gate.open = func(boot.Facts) error { return broken }
		}, boot.StageReady, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(7)
			tc.fail(w)
			_, _, err := w.boot(t)
			var failed *boot.Error
			if !errors.As(err, &failed) || failed.Stage != tc.stage {
				t.Fatalf("error = %v, want of stage %s", err, tc.stage)
			}
			text := err.Error()
			if !strings.HasPrefix(text, tc.stage+": ") || strings.Count(text, "Try: ") != 1 || strings.Contains(text, "\n") {
				t.Errorf("error = %q, want one line with stage, cause and next step", text)
			}
			if len(w.account) != tc.left || w.mounted != "" {
				t.Errorf("left: %v, mounted %q, want %d volumes and nothing mounted", w.account, w.mounted, tc.left)
			}
			if slices.ContainsFunc(w.effects, func(e string) bool { return strings.HasPrefix(e, "ready") }) {
				t.Errorf("the gate was opened: %v", w.effects)
			}
			told := ""
			for _, e := range w.effects {
				if strings.HasPrefix(e, "report") {
					told = e
				}
			}
			if told != "" && told != "report 7 ready=false" {
				t.Errorf("the last report is %q, want one that takes `ready` back", told)
			}
		})
	}
}

func TestMissingSnapshotIsLookedForInAPointerThatMovesOn(t *testing.T) {
	w := newWorld(7)
	create := w.volumes.create
	w.volumes.create = func(ctx context.Context, want boot.Wanted) (boot.Volume, error) {
		if want.Generation == 7 {
			w.pointer = 8
			return boot.Volume{}, fmt.Errorf("create from %s: %w", want.SnapshotID, boot.ErrSnapshot)
		}
		return create(ctx, want)
	}
	if f, took, err := w.boot(t); err != nil || f.Generation != 8 || took > 5*time.Second {
		t.Fatalf("%+v after %v, %v", f, took, err)
	}
}

func TestMissingSnapshotEndsTheBootAfterAWhile(t *testing.T) {
	w := newWorld(7)
	w.volumes.create = func(_ context.Context, want boot.Wanted) (boot.Volume, error) {
		return boot.Volume{}, fmt.Errorf("create from %s: %w", want.SnapshotID, boot.ErrSnapshot)
	}
	_, took, err := w.boot(t)
	if !errors.Is(err, boot.ErrSnapshot) || took < 30*time.Second || took > 40*time.Second {
		t.Fatalf("%v after %v", err, took)
	}
}

func TestStuckAttachmentIsReplacedUnderAnotherName(t *testing.T) {
	w := newWorld(7)
	w.disks.find = func(ctx context.Context, v boot.Volume) (boot.Disk, error) {
		if v.ID == "vol-new1" {
			<-ctx.Done()
			return boot.Disk{}, ctx.Err()
		}
		return boot.Disk{Path: "/dev/x"}, nil
	}
	var names []string
	attach := w.volumes.attach
	w.volumes.attach = func(ctx context.Context, v boot.Volume, skip []string) (boot.Volume, error) {
		v, err := attach(ctx, v, skip)
		names = append(names, v.Device)
		return v, err
	}
	f, took, err := w.boot(t)
	if err != nil || f.VolumeID != "vol-new2" || took != 90*time.Second || len(w.account) != 1 {
		t.Fatalf("%+v after %v, %v, account %v", f, took, err, w.account)
	}
	if !slices.Equal(names, []string{"/dev/xvdaa", "/dev/xvdab"}) {
		t.Errorf("names = %v", names)
	}
}

func TestAVolumeThatEC2DoesNotKeepIsReplaced(t *testing.T) {
	for _, tc := range []struct {
		lost int // this many of the first volumes
		ok   bool
	}{{1, true}, {2, true}, {3, false}} {
		t.Run(fmt.Sprint(tc.lost), func(t *testing.T) {
			w := newWorld(7)
			attach, lost := w.volumes.attach, 0
			w.volumes.attach = func(ctx context.Context, v boot.Volume, skip []string) (boot.Volume, error) {
				if lost++; lost <= tc.lost {
					return v, fmt.Errorf("attach %s: %w: it is gone", v.ID, boot.ErrVolume)
				}
				return attach(ctx, v, skip)
			}
			f, _, err := w.boot(t)
			if tc.ok && (err != nil || f.VolumeID != fmt.Sprintf("vol-new%d", tc.lost+1) || len(w.account) != 1) {
				t.Errorf("%+v, %v, account %v", f, err, w.account)
			}
			if !tc.ok && (err == nil || !strings.HasPrefix(err.Error(), "attach: 3 volumes, and EC2 kept none; the last: attach vol-new3: ") || len(w.account) != 0 || lost != 3) {
				t.Errorf("%v after %d volumes, account %v", err, lost, w.account)
			}
		})
	}
}

func TestDeadlineEndsTheBoot(t *testing.T) {
	w := newWorld(7)
	w.disks.find = func(ctx context.Context, v boot.Volume) (boot.Disk, error) {
		<-ctx.Done()
		return boot.Disk{}, ctx.Err()
	}
	_, took, err := w.boot(t)
	if !errors.Is(err, context.DeadlineExceeded) || took > 4*time.Minute {
		t.Fatalf("%v after %v", err, took)
	}
}

func TestAStageThatTakesTooLongSaysSo(t *testing.T) {
	w := newWorld(7)
	w.volumes.attach = func(ctx context.Context, v boot.Volume, _ []string) (boot.Volume, error) {
		<-ctx.Done()
		return v, fmt.Errorf("attach it: %w", ctx.Err())
	}
	_, took, err := w.boot(t)
	if err == nil || !strings.HasPrefix(err.Error(), "attach: not done in 2m0s: attach it: ") || took != 2*time.Minute || len(w.account) != 0 {
		t.Errorf("%v after %v, account %v", err, took, w.account)
	}
}

func TestAVolumeThatEC2GoesOnListingIsNotTakenTwice(t *testing.T) {
	w := newWorld(7)
	w.have(boot.Volume{ID: "vol-1", SnapshotID: "snap-6", Attached: true, Protected: true}, 6)
	mine := w.volumes.mine
	w.volumes.mine = func() ([]boot.Volume, error) {
		list, err := mine()
		if !slices.ContainsFunc(list, func(v boot.Volume) bool { return v.ID == "vol-1" }) {
			list = append(list, boot.Volume{ID: "vol-1", SnapshotID: "snap-6", Attached: true, Protected: true})
		}
		return list, err
	}
	if f, _, err := w.boot(t); err != nil || f.VolumeID != "vol-new1" {
		t.Fatalf("%+v, %v", f, err)
	}
}

func TestAVolumeThatEC2DoesNotListYetIsReplacedAllTheSame(t *testing.T) {
	w := newWorld(7)
	w.volumes.mine = func() ([]boot.Volume, error) { return nil, nil }
	report := w.volumes.report
	w.volumes.report = func(v boot.Volume, r boot.Report) error {
		w.pointer = 8
		return report(v, r)
	}
	if f, _, err := w.boot(t); err != nil || f.VolumeID != "vol-new2" || len(w.account) != 1 {
		t.Fatalf("%+v, %v, account %v", f, err, w.account)
	}
}
