package release

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"
)

// Who edits a file of a release in place edits it in every release that shares it, and may set its
// mtime back (`cp -p`, rsync -t, touch -d). Its ctime nobody can set: the kernel moves it with
// every change, and with every further name or name less, which is what we give a file and take
// from it. So each change of ours writes down from when to when it lasted, and a file whose ctime
// lies in none of these spans was touched by somebody else: it is then hashed before it is
// believed. Without the list, or a line of it, more is hashed than needs to be, and nothing is
// believed that should not.
const (
	spansName = "own-changes" // "BEGIN END", nanoseconds since 1970, a line each, the latest last
	spansPath = stateDir + "/" + spansName
	mostSpans = 500
	maxSpans  = mostSpans * 48 // bytes
)

type span struct{ begin, end int64 }

type spans []span

func (s spans) has(t unix.Timespec) bool {
	at := t.Nano()
	for i := len(s) - 1; i >= 0; i-- {
		if s[i].begin <= at && at <= s[i].end {
			return true
		}
	}
	return false
}

// spans reads the list. One that cannot be read is empty.
func (v *Volume) spans() (all spans) {
	file, err := v.openPlain(spansPath, maxSpans)
	if err != nil {
		return nil
	}
	defer func() { _ = file.Close() }()
	for lines := bufio.NewScanner(io.LimitReader(file, maxSpans)); lines.Scan(); {
		var s span
		if _, err := fmt.Sscanf(lines.Text(), "%d %d", &s.begin, &s.end); err == nil {
			all = append(all, s)
		}
	}
	return all
}

// noteSpan writes down that all changes of ctimes from began until now were ours. Not to be called
// when a file was met that somebody else had touched, and that was not compared with its sha256:
// its ctime may have moved into the span.
func (v *Volume) noteSpan(began unix.Timespec) error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME, &now); err != nil {
		return err
	}
	if _, err := stepAfter(now); err != nil { // what is changed from here on is after it
		return err
	}
	return v.noteSpanUntil(began, now)
}

// noteSpanUntil is noteSpan for who has looked, at a time after which every change is later.
func (v *Volume) noteSpanUntil(began, until unix.Timespec) error {
	all := append(v.spans(), span{began.Nano(), until.Nano()})
	all = all[max(0, len(all)-mostSpans):]
	return v.replaceFile(spansName, stateMode, func(file *os.File) error {
		w := bufio.NewWriter(file)
		for _, s := range all {
			fmt.Fprintln(w, s.begin, s.end)
		}
		return w.Flush()
	})
}

// onlyOurs says that each file that a tree shares with others was touched by us alone. When not,
// the trace must not be lost with the tree's names.
func (v *Volume) onlyOurs(ctx context.Context, name string, known spans) bool {
	dir, err := v.openDirectory(name)
	if err != nil {
		return false
	}
	defer func() { _ = dir.Close() }()
	return walker{visit: func(_ int, _, below string, st *unix.Stat_t) error {
		if st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink > 1 && !known.has(st.Ctim) {
			return fmt.Errorf("%s was touched: %w", path.Join(name, below), fs.ErrInvalid)
		}
		return nil
	}}.walk(ctx, dir) == nil
}

// hasAttributes says whether a file has extended attributes, which no manifest knows. SELinux's own
// label is the system's.
func hasAttributes(file *os.File) bool {
	names, err := attributesOf(int(file.Fd()))
	return err != nil || slices.ContainsFunc(names, func(name string) bool { return name != "security.selinux" })
}
