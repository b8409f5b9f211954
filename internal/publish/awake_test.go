package publish

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// The clock of a process that is stopped for a time stands still for as long, also for who asks it
// before its next beat; and it goes on.
func TestAwakeStandsStillWhileItsProcessDoes(t *testing.T) {
	if os.Getenv("AWAKE_TEST_PLAYS") != "" {
		a := newAwake()
		begin := a.now()
		go a.run(t.Context())
		fmt.Println("runs")
		for line := bufio.NewScanner(os.Stdin); line.Scan(); {
			fmt.Println(a.since(begin))
		}
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^TestAwakeStandsStillWhileItsProcessDoes$")
	cmd.Env = append(os.Environ(), "AWAKE_TEST_PLAYS=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close(); _ = cmd.Wait() }()
	lines := bufio.NewScanner(out)
	ask := func() time.Duration {
		_, _ = fmt.Fprintln(in)
		if !lines.Scan() {
			t.Fatal("it has ended")
		}
		d, err := time.ParseDuration(strings.TrimSpace(lines.Text()))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	if !lines.Scan() || lines.Text() != "runs" {
		t.Fatal(lines.Text())
	}
	ask()
	const stopped = 8 * time.Second
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.Sleep(stopped) // what is measured
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	first := ask()
	if most := time.Since(began) - stopped + longestBeat; first > most {
		t.Errorf("%v, want at most %v", first, most)
	}
	if second := ask(); second < first {
		t.Errorf("%v, and then %v", first, second)
	}
}

// A process that is not stopped has the time of everybody.
func TestAwakeRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAwake()
		begin := a.now()
		go a.run(t.Context())
		time.Sleep(time.Hour)
		if got := a.since(begin); got != time.Hour || a.asleep() != 0 {
			t.Errorf("%v, %v", got, a.asleep())
		}
	})
}
