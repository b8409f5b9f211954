package cli_test

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"ebs-release/internal/cli"
	"ebs-release/internal/words"

	"golang.org/x/sys/unix"
)

func TestTableAlignsAndMarksEmptyCells(t *testing.T) {
	var out bytes.Buffer
	if err := cli.PrintTable(&out, [][]string{{"INSTANCE", "STATE"}, {"i-0123456789", ""}}); err != nil {
		t.Fatal(err)
	}
	if want := "INSTANCE      STATE\ni-0123456789  -\n"; out.String() != want {
		t.Errorf("table = %q, want %q", out.String(), want)
	}
}

func TestForeignTextMovesNoTerminal(t *testing.T) {
	for text, want := range map[string]string{
		"Größe …":                "Größe …",
		"\x1b]0;title\a\x1b[2J":  " ]0;title  [2J",
		"a\u009bb\u202ec\u2028d": "a b c d",
		"a\x9b2Jb":               "a\ufffd2Jb", // CSI in one byte
	} {
		var out bytes.Buffer
		if err := cli.PrintTable(&out, [][]string{{text, "end"}}); err != nil {
			t.Fatal(err)
		}
		if got := words.Printable(text); got != want || !strings.HasPrefix(out.String(), want) {
			t.Errorf("%q, in a table %q, want %q", got, out.String(), want)
		}
	}
}

// TestATableFitsTheTerminal: in one of 80 columns no line is longer, and what is cut says so; a
// file gets all of it.
func TestATableFitsTheTerminal(t *testing.T) {
	rows := [][]string{
		{"GENERATION", "INSTANCE", "MESSAGE"},
		{"12", "i-0123456789abcdef0", strings.Repeat("a long message, ", 10) + "the end"},
	}
	for _, columns := range []int{80, 200, 20} {
		terminal, read := pty(t, columns)
		if err := cli.PrintTable(&cli.Stdout{Writer: terminal}, rows); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(read()) {
			line = strings.TrimRight(line, "\r\n")
			if n := utf8.RuneCountInString(line); n > columns && columns >= 80 {
				t.Errorf("%d columns in a terminal of %d: %q", n, columns, line)
			} else if columns == 80 && strings.HasPrefix(line, "12") && (!strings.HasSuffix(line, "…") || !strings.Contains(line, "i-0123456789abcdef0")) {
				t.Errorf("%q: want the message cut, and the id whole", line)
			} else if columns == 200 && strings.HasPrefix(line, "12") && !strings.HasSuffix(line, "the end") {
				t.Errorf("%q was cut without need", line)
			}
		}
	}
	var file bytes.Buffer
	if err := cli.PrintTable(&file, rows); err != nil || !strings.Contains(file.String(), "the end") {
		t.Errorf("%q, %v", file.String(), err)
	}
}

// pty is a terminal of so many columns, and what was written to it.
func pty(t *testing.T, columns int) (terminal *os.File, read func() string) {
	t.Helper()
	near, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = near.Close() })
	fd := int(near.Fd())
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 25, Col: uint16(columns)})
	}
	if err == nil {
		terminal, err = os.OpenFile(fmt.Sprint("/dev/pts/", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return terminal, func() string {
		var text []byte
		buffer := make([]byte, 4096)
		_ = terminal.Close() // then the other end reads what is left, and EIO
		for {
			n, err := near.Read(buffer)
			text = append(text, buffer[:n]...)
			if err != nil {
				return string(text)
			}
		}
	}
}
