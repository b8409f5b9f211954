package lab

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const doomedArg = "doomed-lab"

// doomed is a lab of its own process, which the test kills: it says its name and the process of a
// host, and waits for its end. The host has a mounted disk, which is frozen, or all disks are, if
// the environment says so.
func doomed() int {
	ctx := context.Background()
	l, err := Start(ctx, Options{Agent: os.Getenv("AGENT"), Publisher: os.Getenv("PUBLISHER"), Dir: os.Getenv("DIR")})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	h, err := l.ReleaseServer(ctx)
	if err == nil {
		err = doomedDisk(ctx, l, os.Getenv("FREEZE"))
	}
	if err == nil && os.Getenv("FREEZE") == "all" {
		err = l.FreezeDisks()
	}
	fmt.Println(l.dir.name(), h.PID(), err)
	time.Sleep(time.Minute)
	return 1
}

func doomedDisk(ctx context.Context, l *Lab, freeze string) error {
	if err := l.hardware.CreateVolume(ctx, "vol-1", 1, ""); err != nil {
		return err
	}
	h, err := l.Host(l.server)
	if err != nil {
		return err
	}
	p, err := l.hardware.hosts.plug("vol-1", h)
	if err != nil {
		return err
	}
	if p.name, err = h.Plug(diskOf(p)); err != nil {
		return err
	}
	line := "mkfs.ext4 -q /dev/" + p.name + " && mkdir /release && mount /dev/" + p.name + " /release"
	switch freeze {
	case "":
	case "all":
		line += " && touch /release/x" // to be written, later on
	default:
		line += " && fsfreeze -f /release"
	}
	_, err = h.Run(ctx, "sh", "-c", line)
	return err
}

func TestKilledLabLeavesOnlyAFolderWhichTheNextOneRemoves(t *testing.T) {
	for _, freeze := range []string{"", "yes", "all"} {
		t.Run("frozen disk "+freeze, func(t *testing.T) {
			opts := standIns(t)
			self, err := os.Executable()
			do(t, err)
			cmd := exec.CommandContext(deadline(t, 30*time.Second), self, doomedArg)
			cmd.Env = append(os.Environ(), "AGENT="+opts.Agent, "PUBLISHER="+opts.Publisher, "DIR="+opts.Dir, "FREEZE="+freeze)
			out, err := cmd.StdoutPipe()
			do(t, err)
			do(t, cmd.Start())
			line, err := bufio.NewReader(out).ReadString('\n')
			do(t, err)
			words := strings.Fields(line)
			if len(words) != 3 || words[2] != "<nil>" {
				t.Fatalf("the doomed lab says: %s", line)
			}
			name := words[0]
			pid, err := strconv.Atoi(words[1])
			do(t, err)

			do(t, cmd.Process.Kill())
			cmd.Wait() // an error: it was killed
			eventually(t, "its host is gone", func() bool { return unix.Kill(pid, 0) != nil })
			if freeze != "yes" {
				eventually(t, "its loop devices are gone", func() bool { return len(loopsOf(t, name)) == 0 })
			}
			if left, _ := os.ReadDir(opts.Dir); len(left) != 1 {
				t.Errorf("a killed lab leaves %v", left)
			}
			do(t, sweep(opts.Dir))
			eventually(t, "its loop devices are gone", func() bool { return len(loopsOf(t, name)) == 0 })
			if left, _ := os.ReadDir(opts.Dir); len(left) != 0 {
				t.Errorf("after the sweep there is %v", left)
			}
		})
	}
}

func TestClosedLabLeavesNothing(t *testing.T) {
	opts := standIns(t)
	ctx := deadline(t, 30*time.Second)
	l, err := Start(ctx, opts)
	do(t, err)
	name := l.dir.name()
	do(t, l.Group("web", 2, 2))
	_, err = l.AllBooted(ctx, "web", 2)
	do(t, err)
	do(t, doomedDisk(ctx, l, "frozen"))
	if len(loopsOf(t, name)) != 2 || len(children(t)) < 3 {
		t.Fatalf("loop devices %v, children %v: the test does not see what it looks for", loopsOf(t, name), children(t))
	}

	do(t, l.Close())
	if loops := loopsOf(t, name); len(loops) > 0 {
		t.Errorf("loop devices %v are left", loops)
	}
	if left := children(t); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
	if left, _ := os.ReadDir(opts.Dir); len(left) > 0 {
		t.Errorf("files %v are left", left)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	do(t, err)
	if strings.Contains(string(mounts), name) {
		t.Errorf("mounts are left:\n%s", mounts)
	}
}

// children are the processes that this one started and that still are.
func children(t *testing.T) (pids []string) {
	t.Helper()
	lists, err := filepath.Glob("/proc/self/task/*/children")
	do(t, err)
	for _, l := range lists {
		data, _ := os.ReadFile(l) // the thread has ended
		pids = append(pids, strings.Fields(string(data))...)
	}
	return pids
}

func TestSweepLeavesALivingLabAlone(t *testing.T) {
	opts := standIns(t)
	l := start(t, opts)
	do(t, sweep(opts.Dir))
	if _, err := os.Stat(filepath.Join(l.Dir(), ownerFile)); err != nil {
		t.Error(err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Errorf("after 10 s it is not so that %s", what)
}

// loopsOf are the loop devices with the label of a lab.
func loopsOf(t *testing.T, name string) []string {
	t.Helper()
	devices, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	do(t, err)
	var found []string
	for _, d := range devices {
		path := "/dev/" + filepath.Base(filepath.Dir(filepath.Dir(d)))
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
		f.Close()
		if err == nil && strings.HasPrefix(unix.ByteSliceToString(info.File_name[:]), name) {
			found = append(found, path)
		}
	}
	return found
}
