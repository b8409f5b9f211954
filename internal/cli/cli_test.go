package cli_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"ebs-release/internal/cli"

	"github.com/spf13/cobra"
)

// The test binary is also a program with our signals: it says what it gets.
func TestMain(m *testing.M) {
	if how := os.Getenv("CLI_TEST_SIGNALS"); how != "" {
		ctx, insist := cli.Signals()
		var second <-chan struct{}
		if how == "insists" {
			second = insist()
		}
		fmt.Println("ready")
		<-ctx.Done()
		fmt.Println("first")
		<-second // for ever, if nobody insists
		fmt.Println("second")
		select {}
	}
	os.Exit(m.Run())
}

// TestSignals: the first one ends the work, the second one ends the program, unless it is told, and
// the third one in any case; a terminal that closes sends several.
func TestSignals(t *testing.T) {
	for name, tc := range map[string]struct {
		how   string
		send  []syscall.Signal
		ended syscall.Signal
	}{
		"nobody insists":    {"plain", []syscall.Signal{syscall.SIGINT, syscall.SIGTERM}, syscall.SIGTERM},
		"somebody insists":  {"insists", []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGINT}, syscall.SIGINT},
		"a terminal closes": {"plain", []syscall.Signal{syscall.SIGHUP, syscall.SIGHUP, syscall.SIGHUP, syscall.SIGINT}, syscall.SIGINT},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
			cmd.Env = []string{"CLI_TEST_SIGNALS=" + tc.how}
			out, err := cmd.StdoutPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			said := func(want string) {
				t.Helper()
				if !lines.Scan() || lines.Text() != want {
					t.Fatalf("it said %q, want %q", lines.Text(), want)
				}
			}
			said("ready")
			for i, s := range tc.send {
				if err := cmd.Process.Signal(s); err != nil {
					t.Fatal(err)
				}
				switch {
				case i == 0:
					said("first")
				case i == 1 && tc.how == "insists":
					said("second")
				}
			}
			err = cmd.Wait()
			ended, ok := errors.AsType[*exec.ExitError](err)
			if !ok || ended.Sys().(syscall.WaitStatus).Signal() != tc.ended {
				t.Errorf("it ended with %v, want %v", err, tc.ended)
			}
		})
	}
}

func TestAnErrorIsOneLineAndAReport(t *testing.T) {
	var told error
	var out strings.Builder
	output := ""
	root := &cobra.Command{Use: "program"}
	root.PersistentFlags().StringVar(&output, "output", cli.Text, "")
	root.AddCommand(&cobra.Command{Use: "verb", RunE: func(*cobra.Command, []string) error { return errors.New("it broke.\nTry: another") }})
	run := func(args ...string) int {
		out.Reset()
		return cli.Shell{Stdout: &cli.Stdout{Writer: &out}, Output: &output, Last: func(err error) { told = err }}.Run(t.Context(), root, args)
	}
	if code := run("verb"); code != 1 || out.String() != "" || told == nil {
		t.Errorf("%d, %q, %v", code, out.String(), told)
	}
	if code := run("verb", "--output", "json"); code != 1 || !strings.Contains(out.String(), `"error": "it broke.; Try: another"`) {
		t.Errorf("%d, %q", code, out.String())
	}
	if code := run("verbb", "--output", "json"); code != 2 || !strings.Contains(out.String(), `Did you mean this?; verb. Try: program --help"`) {
		t.Errorf("%d, %q", code, out.String())
	}
	if code := run("verb", "--output", "xml"); code != 2 || out.String() != "" || !strings.Contains(told.Error(), "want text or json") {
		t.Errorf("%d, %q, %v", code, out.String(), told)
	}
}

// TestHelpOfAVerbExplainsItsOwnFlags, and names those that every verb has.
func TestHelpOfAVerbExplainsItsOwnFlags(t *testing.T) {
	var out strings.Builder
	output := ""
	root := &cobra.Command{Use: "program"}
	root.PersistentFlags().StringVar(&output, "output", cli.Text, "format of reports")
	verb := &cobra.Command{Use: "verb", Short: "Do it", Example: "  program verb", RunE: func(*cobra.Command, []string) error { return nil }}
	verb.Flags().Bool("fast", false, "do it in less time than "+strings.Repeat("it takes ", 10))
	root.AddCommand(verb)
	run := func(args ...string) string {
		out.Reset()
		shell := cli.Shell{Stdout: &cli.Stdout{Writer: &out}, Output: &output, Last: func(err error) { t.Error(err) }}
		if code := shell.Run(t.Context(), root, args); code != 0 {
			t.Errorf("%q ends with %d", args, code)
		}
		return out.String()
	}
	help := run("verb", "--help")
	for _, want := range []string{
		"Do it\n\nUsage:\n  program verb [flags]\n", "\nExamples:\n  program verb\n", "\n      --fast   do it in less time",
		"\nGlobal Flags:\n  --output\n\n\"program --help\" explains the global flags.\n",
	} {
		if !strings.Contains(help, want) {
			t.Errorf("the help of a verb does not have %q:\n%s", want, help)
		}
	}
	for line := range strings.Lines(help) {
		if len(line) > 81 {
			t.Errorf("a line of %d columns: %s", len(line)-1, line)
		}
	}
	help = run("--help")
	for _, want := range []string{"\n  verb        Do it\n", "\n      --output string   format of reports", `"program [command] --help"`} {
		if !strings.Contains(help, want) {
			t.Errorf("the help of the program does not have %q:\n%s", want, help)
		}
	}
}
