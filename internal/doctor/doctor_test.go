package doctor_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/cli"
	"ebs-release/internal/doctor"

	"golang.org/x/sys/unix"
)

func Example() {
	checks := []doctor.Check{
		{Name: "pointer", Do: func(context.Context) doctor.Finding { return doctor.Fine("generation %d", 4) }},
		{Name: "clock", Do: func(context.Context) doctor.Finding { return doctor.Warning("start chrony", "2 minutes slow") }},
		{Name: "volume", Do: func(context.Context) doctor.Finding {
			return doctor.Failure("ebs-release init", "nothing is mounted")
		}},
		{Name: "disk space", Needs: []string{"volume"}, Do: func(context.Context) doctor.Finding { return doctor.Fine("") }},
	}
	report, err := doctor.Run(context.Background(), checks, time.Second, func(f doctor.Finding) { fmt.Println(f) })
	if err != nil {
		fmt.Println(err)
	}
	fmt.Println(report.Err())
	report.Checks = report.Checks[2:3]
	_ = json.NewEncoder(os.Stdout).Encode(report)
	// Output:
	// ok    pointer: generation 4
	// warn  clock: 2 minutes slow. Try: start chrony
	// FAIL  volume: nothing is mounted. Try: ebs-release init
	// warn  disk space: not checked: see volume
	// doctor: 1 of 4 checks failed
	// {"schema":1,"state":"FAIL","failed":1,"warned":2,"checks":[{"name":"volume","state":"FAIL","says":"nothing is mounted","try":"ebs-release init"}]}
}

func TestACheckThatHangsEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := doctor.Check{Name: "hangs", Do: func(ctx context.Context) doctor.Finding {
			<-ctx.Done()
			return doctor.Failure("", "%v", ctx.Err())
		}}
		start := time.Now()
		report, err := doctor.Run(t.Context(), []doctor.Check{hangs, hangs}, time.Minute, func(doctor.Finding) {})
		if took := time.Since(start); err != nil || report.Failed != 2 || took != 2*time.Minute {
			t.Errorf("%+v, %v, after %v", report, err, took)
		}
	})
}

// An interrupt is not a finding.
func TestTheEndOfCtxEndsARun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var told []doctor.Finding
	_, err := doctor.Run(ctx, []doctor.Check{
		{Name: "a", Do: func(context.Context) doctor.Finding { return doctor.Fine("") }},
		{Name: "b", Do: func(context.Context) doctor.Finding { cancel(); return doctor.Failure("", "interrupted") }},
		{Name: "c", Do: func(context.Context) doctor.Finding { t.Error("c was made"); return doctor.Fine("") }},
	}, time.Second, func(f doctor.Finding) { told = append(told, f) })
	if !errors.Is(err, context.Canceled) || !slices.Equal(told, []doctor.Finding{{Name: "a", State: doctor.OK}}) {
		t.Errorf("%v, %v", told, err)
	}
}

func TestColoursAreForTerminalsThatWantThem(t *testing.T) {
	const plain, coloured = "FAIL  disk: it is broken. Try: look\n", "\x1b[31mFAIL\x1b[0m  disk: it is broken. Try: look\n"
	f := doctor.Failure("look", "it is\nbroken") // foreign text breaks no line
	f.Name = "disk"
	master, terminal, err := openTerminal()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = master.Close(), terminal.Close() }()
	var said bytes.Buffer
	for _, tc := range []struct {
		out  io.Writer
		env  map[string]string
		want string
	}{
		{onTerminal{&said, terminal}, map[string]string{"TERM": "xterm"}, coloured},
		{&cli.Stdout{Writer: onTerminal{&said, terminal}}, map[string]string{"TERM": "xterm"}, coloured}, // what both programs write to
		{&cli.Stdout{Writer: &said}, map[string]string{"TERM": "xterm"}, plain},
		{onTerminal{&said, terminal}, map[string]string{"TERM": "xterm", "NO_COLOR": "1"}, plain},
		{onTerminal{&said, terminal}, map[string]string{"TERM": "dumb"}, plain},
		{onTerminal{&said, terminal}, nil, plain},
		{&said, map[string]string{"TERM": "xterm"}, plain},
	} {
		said.Reset()
		if err := doctor.Printer(tc.out, func(key string) string { return tc.env[key] })(f); err != nil || said.String() != tc.want {
			t.Errorf("%T, %v: %q, %v; want %q", tc.out, tc.env, said.String(), err, tc.want)
		}
	}
}

// onTerminal keeps what is written to a terminal.
type onTerminal struct {
	*bytes.Buffer
	terminal *os.File
}

func (o onTerminal) Fd() uintptr { return o.terminal.Fd() }

// openTerminal opens a pseudo-terminal.
func openTerminal() (master, terminal *os.File, err error) {
	if master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		return nil, nil, err
	}
	if err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, err
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		return nil, nil, err
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	return master, terminal, err
}

// TestTheAdviceOfAnErrorIsTheFindings: under whatever wraps it, and of a warning, too.
func TestTheAdviceOfAnErrorIsTheFindings(t *testing.T) {
	err := fmt.Errorf("clock: %w", advice.Try(errors.New("off"), "timedatectl"))
	if f := doctor.Found("", doctor.Minorf("ask: %w", err)); f.State != doctor.Warn || f.Says != "ask: clock: off" || f.Try != "timedatectl" {
		t.Errorf("%+v", f)
	}
}
