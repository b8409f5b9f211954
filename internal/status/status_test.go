package status_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ebs-release/internal/status"
)

var ready = status.Status{
	State: status.Ready, Stage: "ready", Generation: 42, Release: "20261122T231500Z-9f31c0de77aa", SnapshotID: "snap-1", VolumeID: "vol-1",
	Device: "/dev/nvme1n1", InstanceID: "i-1", MountPoint: "/release", Started: time.Date(2026, 11, 22, 23, 15, 0, 0, time.UTC),
	Stages: []status.Stage{{Name: "attach", Milliseconds: 12}},
}

func TestStatusIsReadBackAsWritten(t *testing.T) {
	dir := status.Dir(filepath.Join(t.TempDir(), "run"))
	if s, err := dir.Read(); err != nil || s.State != status.NotStarted {
		t.Fatalf("before the first boot: %+v, %v", s, err)
	}
	if err := dir.Make(); err != nil {
		t.Fatal(err)
	}
	old := syscall.Umask(0o077)
	err := dir.Write(ready)
	syscall.Umask(old)
	if err != nil {
		t.Fatal(err)
	}
	got, err := dir.Read()
	if err != nil || got.Generation != 42 || got.State != status.Ready || !got.Started.Equal(ready.Started) || len(got.Stages) != 1 {
		t.Fatalf("got %+v, %v", got, err)
	}
	info, err := os.Stat(dir.Path())
	if err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("mode = %v, %v, want 0644 whatever the umask", info.Mode(), err)
	}
	data, err := os.ReadFile(dir.Path())
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"schema", "state", "stage", "generation", "release", "snapshot_id", "volume_id", "device", "error", "instance_id", "mount_point", "started", "stages"} {
		if !strings.Contains(string(data), `"`+key+`":`) {
			t.Errorf("status.json lacks %q", key)
		}
	}
	if strings.Contains(string(data), "finished") {
		t.Error("a boot that goes on has a finish")
	}
}

func TestEnvironmentOfTheApplication(t *testing.T) {
	dir := status.Dir(t.TempDir())
	if err := dir.WriteEnvironment(ready); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(string(dir), "release.env"))
	want := "EBS_RELEASE_GENERATION=42\nEBS_RELEASE_ID=20261122T231500Z-9f31c0de77aa\nEBS_RELEASE_PATH=/release/current\n" +
		"EBS_RELEASE_VOLUME_ID=vol-1\nEBS_RELEASE_SNAPSHOT_ID=snap-1\n"
	if err != nil || string(got) != want {
		t.Fatalf("release.env = %q, %v", got, err)
	}
}

func TestAStatusThatIsNoneIsAnError(t *testing.T) {
	for name, text := range map[string]string{"garbage": "{", "another schema": `{"schema": 2}`} {
		dir := status.Dir(t.TempDir())
		if err := os.WriteFile(dir.Path(), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if s, err := dir.Read(); err == nil || !strings.Contains(err.Error(), "status.json") {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
}
