package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/exit"
	"ebs-release/internal/mount"
	"ebs-release/internal/status"

	"golang.org/x/sys/unix"
)

// Row 80: what is mounted does not answer. It is a FUSE whose daemon says nothing.
func TestStatusAndWaitDoNotHangWithTheDisk(t *testing.T) {
	a, point := member(t)
	if err := mount.Unmount(point); err != nil {
		t.Fatal(err)
	}
	daemon, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { daemon.Close() }) // which ends whoever waits for it
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", daemon.Fd())
	if err := unix.Mount("silent", point, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) })

	const limit = time.Second
	check := func(verb string, began time.Time, code int, stderr string) {
		t.Helper()
		if code != exit.Unchanged || !strings.Contains(stderr, "look at "+point+": it does not come to an end") || !strings.Contains(stderr, "Try: aws ec2 describe-volume-status") {
			t.Errorf("%s: exit %d, %q", verb, code, stderr)
		}
		if took := time.Since(began); took > leastLook+12*time.Second {
			t.Errorf("%s took %v", verb, took)
		}
	}
	began := time.Now()
	code, _, stderr := a.do(t, "wait", "--timeout", limit.String())
	check("wait", began, code, stderr)

	began = time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	now, err := a.observe(ctx)
	if err != nil || now.State != status.Failed {
		t.Errorf("%+v, %v", now, err)
	}
	err = notReady(now)
	check("status", began, exit.Code(err), err.Error())
}
