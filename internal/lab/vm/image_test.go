package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestInstallPutsPackagesFilesAndCommandsIntoAnImage(t *testing.T) {
	dir := t.TempDir()
	golden := goldenImage(t)
	image, err := golden.Install(within(t, bootTime), dir, Extras{
		Packages:      []string{makePackage(t, "greeting", "")},
		Files:         map[string]File{"/opt/tool": {Data: "tool\n", Mode: 0o750}},
		AuthorizedKey: "ssh-ed25519 AAAA someone",
		Commands:      []string{"cat /usr/share/greeting/text >/opt/seen", "dpkg-query -W -f '${Status}' greeting >/opt/status"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/opt/seen":                         "hello\n",
		"/opt/status":                       "install ok installed",
		"/opt/tool":                         "tool\n",
		"/root/.ssh/authorized_keys":        "ssh-ed25519 AAAA someone\n",
		"/home/deploy/.ssh/authorized_keys": "ssh-ed25519 AAAA someone\n",
	} {
		if got := debugfs(t, image, "cat "+path); got != want {
			t.Errorf("%s holds %q, want %q", path, got, want)
		}
	}
	for path, want := range map[string]string{
		"/opt/tool":                         "Mode:  0750",
		"/home/deploy/.ssh":                 "Mode:  0700",
		"/home/deploy/.ssh/authorized_keys": "Mode:  0600",
		"/root":                             "Mode:  0700",
		"/etc":                              "Mode:  0755",
	} {
		if got := debugfs(t, image, "stat "+path); !strings.Contains(got, want) {
			t.Errorf("%s: want %s in %s", path, want, got)
		}
	}
	if got := debugfs(t, image, "stat /home/deploy/.ssh/authorized_keys"); !strings.Contains(got, "User: 61200") {
		t.Errorf("deploy does not own its keys: %s", got)
	}
	if out := debugfs(t, golden, "cat /opt/tool"); out != "" {
		t.Errorf("the golden disk was changed: %q", out)
	}
	noLeftovers(t, dir)
}

func TestInstallSaysWhyAPackageDoesNotFit(t *testing.T) {
	dir := t.TempDir()
	_, err := goldenImage(t).Install(within(t, bootTime), dir, Extras{Packages: []string{makePackage(t, "needy", "no-such-package")}})
	if err == nil || !strings.Contains(err.Error(), "no-such-package") {
		t.Errorf("a package without its dependency: %v", err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v (%v)", left, err)
	}
	noLeftovers(t, dir)
}

// makePackage makes a .deb with one file.
func makePackage(t *testing.T, name, depends string) string {
	t.Helper()
	tree := t.TempDir()
	control := fmt.Sprintf("Package: %s\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@example.com>\nDescription: test\n", name)
	if depends != "" {
		control += "Depends: " + depends + "\n"
	}
	for path, data := range map[string]string{"DEBIAN/control": control, "usr/share/" + name + "/text": "hello\n"} {
		at := filepath.Join(tree, path)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	deb := filepath.Join(t.TempDir(), name+".deb")
	if out, err := exec.CommandContext(t.Context(), "dpkg-deb", "--root-owner-group", "-b", tree, deb).CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb: %v: %s", err, out)
	}
	return deb
}

// debugfs reads the disk of an image without a mount.
func debugfs(t *testing.T, image *Image, request string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "debugfs", "-R", request, fmt.Sprintf("%s?offset=%d", image.Disk, diskOffset)).Output()
	if err != nil {
		t.Fatalf("debugfs %s: %v", request, err)
	}
	return string(out)
}

// noLeftovers checks that no mount and no loop device belongs to dir.
func noLeftovers(t *testing.T, dir string) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), dir) {
		t.Errorf("a mount was left in %s", dir)
	}
	loops, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	for _, loop := range loops {
		if backing, _ := os.ReadFile(loop); strings.HasPrefix(string(backing), dir) { // one that is gone by now is fine
			t.Errorf("%s was left, of %s", loop, backing)
		}
	}
}
