// Command man writes the manual page of one of the two programs, in roff, from what the program
// itself says about its verbs and flags (--help).
//
//	man PROGRAM VERSION > PROGRAM.8
//
// It runs when packages are made: the programs do not carry a generator, and the page cannot tell
// other things than the program. The date is that of SOURCE_DATE_EPOCH (seconds), so that the same
// source gives the same page.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

func main() {
	if err := run(context.Background(), os.Args[1:], os.Getenv("SOURCE_DATE_EPOCH")); err != nil {
		fmt.Fprintln(os.Stderr, "man:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, epoch string) error {
	if len(args) != 2 {
		return errors.New("usage: man PROGRAM VERSION")
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	program, version := args[0], args[1]
	about, ok := pages()[filepath.Base(program)]
	if !ok {
		return fmt.Errorf("there is no page about %s", filepath.Base(program))
	}
	top, err := ask(ctx, program)
	if err != nil {
		return err
	}
	p := page{name: filepath.Base(program), version: version, date: time.Unix(seconds, 0).UTC(), about: about, top: top}
	if err := p.walk(ctx, program, top, nil); err != nil {
		return err
	}
	_, err = os.Stdout.WriteString(p.render())
	return err
}

// walk asks every verb below for its help; "completion" and "help" are cobra's own and the same
// everywhere.
func (p *page) walk(ctx context.Context, program string, above help, path []string) error {
	for _, c := range above.commands {
		if len(path) == 0 && (c.name == "completion" || c.name == "help") {
			continue
		}
		verb := append(append([]string(nil), path...), c.name)
		h, err := ask(ctx, program, verb...)
		if err != nil {
			return err
		}
		p.verbs = append(p.verbs, h)
		if err := p.walk(ctx, program, h, verb); err != nil {
			return err
		}
	}
	return nil
}

func ask(ctx context.Context, program string, verb ...string) (help, error) {
	args := append(append([]string(nil), verb...), "--help")
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"} // what is set here must not get into the page
	out, err := cmd.Output()
	if err != nil {
		return help{}, fmt.Errorf("%s %s: %w", program, strings.Join(args, " "), err)
	}
	h, err := parse(string(out))
	if err != nil {
		return help{}, fmt.Errorf("%s %s: %w", program, strings.Join(args, " "), err)
	}
	return h, nil
}
