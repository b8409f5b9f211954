package vm

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// victim names the directory that this test program, run again, makes a machine in until it is
// killed.
const victim = "EBS_LAB_VM_VICTIM"

func TestNothingOutlivesAKilledLab(t *testing.T) {
	if dir := os.Getenv(victim); dir != "" {
		beVictim(t, dir)
		return
	}
	goldenImage(t)
	lab := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestNothingOutlivesAKilledLab$", "-test.v")
	lab.Env = append(os.Environ(), victim+"="+t.TempDir())
	stdout, err := lab.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := lab.Start(); err != nil {
		t.Fatal(err)
	}
	pid := 0
	for lines := bufio.NewScanner(stdout); pid == 0 && lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "qemu is "); ok {
			if pid, err = strconv.Atoi(text); err != nil {
				t.Error(err)
			}
		}
	}
	qemu := -1
	if pid != 0 {
		if qemu, err = unix.PidfdOpen(pid, 0); err != nil {
			t.Errorf("qemu does not run: %v", err)
		}
	}
	lab.Process.Kill()
	lab.Wait()
	if qemu < 0 {
		t.Fatal("the lab has started no machine")
	}
	defer unix.Close(qemu)
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(qemu), Events: unix.POLLIN}}, int(time.Minute.Milliseconds())); n != 1 || err != nil {
		unix.PidfdSendSignal(qemu, unix.SIGKILL, nil, 0)
		t.Errorf("qemu lives on after the lab was killed (%v)", err)
	}
}

func beVictim(t *testing.T, dir string) {
	m, err := Start(t.Context(), Spec{ID: "i-1", Image: goldenImage(t), Dir: dir, Switch: newSwitch(t), Address: netip.MustParseAddr("10.44.0.9")})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("qemu is %d\n", m.PID())
	io.Copy(io.Discard, os.Stdin) // /dev/null
	<-m.Off()
}
