package up

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/boot"
	"ebs-release/internal/logging"
	"ebs-release/internal/status"
)

// of is an up on a mount point.
func of(dir status.Dir, serves func(status.Status) bool) Up {
	return Up{Dir: dir, Point: "/release", Where: &logging.Where{}, Log: slog.New(slog.DiscardHandler), Serves: serves}
}

func TestReporterTellsSystemdAndWritesTheFilesFirst(t *testing.T) {
	dir := status.Dir(t.TempDir())
	socket := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", socket)
	r := newReporter(of(dir, nil))
	facts := boot.Facts{InstanceID: "i-1", Generation: 7, Release: "r7", SnapshotID: "snap-7", VolumeID: "vol-1", Device: "/dev/nvme1n1", Pending: true}
	heard := func() string {
		t.Helper()
		buf := make([]byte, 4096)
		conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	r.Started(boot.StageAttach, facts)
	if got := heard(); got != "STATUS=attach, generation 7, snap-7, vol-1" {
		t.Errorf("systemd was told %q", got)
	}
	if s, err := dir.Read(); err != nil || s.State != status.Booting || s.Stage != "attach" || s.VolumeID != "vol-1" {
		t.Errorf("status = %+v, %v", s, err)
	}
	r.Ended(boot.StageAttach, 12*time.Millisecond, false, nil)
	if err := r.Open(t.Context(), facts); err != nil {
		t.Fatal(err)
	}
	if got := heard(); !strings.HasPrefix(got, "READY=1\n") {
		t.Errorf("systemd was told %q", got)
	}
	if s, err := dir.Read(); err != nil || s.State != status.Ready || !s.Pending || s.Finished.IsZero() || len(s.Stages) != 1 {
		t.Errorf("status = %+v, %v", s, err)
	}
	if _, err := os.Stat(filepath.Join(string(dir), "release.env")); err != nil {
		t.Error(err)
	}
	if err := r.finish(errors.New("attach: no\nroom")); err != nil {
		t.Fatal(err)
	}
	if got := heard(); got != "STATUS=failed: attach: no; room" {
		t.Errorf("systemd was told %q", got)
	}
	if s, err := dir.Read(); err != nil || s.State != status.Failed || s.Error != "attach: no; room" {
		t.Errorf("status = %+v, %v", s, err)
	}
}

func TestARunThatFailsLeavesAServedVolumeReady(t *testing.T) {
	served := status.Status{State: status.Ready, Generation: 6, MountPoint: "/release", VolumeID: "vol-6"}
	for name, tc := range map[string]struct {
		still bool   // vol-6 is mounted in the end
		next  string // the volume that the run came to
		want  string
	}{
		"before anything was done":  {true, "", status.Ready},
		"with the same volume":      {true, "vol-6", status.Ready},
		"it was unmounted":          {false, "", status.Failed},
		"another volume was chosen": {true, "vol-7", status.Failed},
	} {
		t.Run(name, func(t *testing.T) {
			dir := status.Dir(t.TempDir())
			if err := dir.Write(served); err != nil {
				t.Fatal(err)
			}
			still := true
			r := newReporter(of(dir, func(s status.Status) bool { return still && s.VolumeID == "vol-6" }))
			if err := r.begin(); err != nil {
				t.Fatal(err)
			}
			r.Started(boot.StageAdopt, boot.Facts{VolumeID: tc.next})
			if s, err := dir.Read(); err != nil || (s.State == status.Ready) != (tc.next != "vol-7") { // what a kill would leave
				t.Errorf("on the way: %+v, %v", s, err)
			}
			still = tc.still
			if err := r.finish(errors.New("no pointer")); err != nil {
				t.Fatal(err)
			}
			s, err := dir.Read()
			if err != nil || s.State != tc.want || s.State == status.Ready && (!strings.Contains(s.Warning, "no pointer") || s.Generation != 6) {
				t.Errorf("status = %+v, %v", s, err)
			}
		})
	}
}

func TestASystemdThatDoesNotReadHoldsNobody(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", socket)
	r := newReporter(of(status.Dir(t.TempDir()), nil))
	began := time.Now()
	for range 2000 { // more than a socket holds: net.unix.max_dgram_qlen
		r.notify("STATUS=attach")
	}
	if !r.unheard || time.Since(began) > 10*logging.Mention {
		t.Errorf("after %v, given up: %t", time.Since(began), r.unheard)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := r.Open(ctx, boot.Facts{}); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "say ready to systemd: nobody reads") {
		t.Errorf("ready: %v", err)
	}
	if err := os.Remove(socket); err != nil {
		t.Fatal(err)
	}
	if err := r.Open(t.Context(), boot.Facts{}); err == nil {
		t.Error("ready was said to nobody")
	}
}
