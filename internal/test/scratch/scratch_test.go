package scratch

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/freeze"
)

// failing stands for a test whose failures are no failures of this one. It ends when end is called.
type failing struct {
	testing.TB
	dir     string
	cleanup []func()
	said    []string
}

func (f *failing) Cleanup(do func())            { f.cleanup = append(f.cleanup, do) }
func (f *failing) Errorf(text string, a ...any) { f.said = append(f.said, fmt.Sprintf(text, a...)) }
func (f *failing) TempDir() string              { return f.dir }

func (f *failing) end() {
	for _, do := range slices.Backward(f.cleanup) {
		do()
	}
}

func TestAFailingTestLeavesNeitherMountNorLoopDevice(t *testing.T) {
	for name, tc := range map[string]struct {
		wrong func(point string) (repair func())
		want  string
	}{
		"in use": {func(point string) func() {
			file, err := os.Create(filepath.Join(point, "open"))
			if err != nil {
				t.Fatal(err)
			}
			return func() { file.Close() }
		}, "left somebody who uses"},
		"frozen": {func(point string) func() {
			if err := freeze.Freeze(point); err != nil {
				t.Fatal(err)
			}
			return func() {}
		}, "frozen"},
	} {
		t.Run(name, func(t *testing.T) {
			f, point := &failing{TB: t, dir: t.TempDir()}, t.TempDir()
			device := Disk(f, 16<<20, "mkfs.ext4", "-q")
			Mount(f, device, point, "ext4", 0, "")
			f.cleanup[len(f.cleanup)-1] = func() { unmount(f, point, 50*time.Millisecond) }
			repair := tc.wrong(point)
			f.end()
			if len(f.said) != 1 || !strings.Contains(f.said[0], tc.want) {
				t.Errorf("it says %q", f.said)
			}
			table, err := os.ReadFile("/proc/self/mountinfo")
			if err != nil || strings.Contains(string(table), point) {
				t.Errorf("%v; still mounted in\n%s", err, table)
			}
			repair()
			backing := "/sys/block/" + filepath.Base(device) + "/loop/backing_file"
			for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
				image, err := os.ReadFile(backing)
				if err != nil || !strings.Contains(string(image), f.dir) {
					break
				}
				if time.Now().After(end) {
					t.Fatalf("%s is still of %s", device, image)
				}
			}
		})
	}
}

// A test that is killed cleans nothing up: the kernel has to.
func TestALoopDeviceGoesWithItsLastUser(t *testing.T) {
	device := Disk(t, 1<<20)
	path := "/sys/block/" + filepath.Base(device) + "/loop/autoclear"
	if got, err := os.ReadFile(path); string(got) != "1\n" {
		t.Errorf("%s: %q, %v", path, got, err)
	}
}
