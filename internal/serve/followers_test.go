package serve

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ebs-release/internal/store"
)

// TestMain is also the server of the benchmark, in a process of its own: what it costs is the
// server's alone.
func TestMain(m *testing.M) {
	if dir := os.Getenv("SERVE_TEST_DIR"); dir != "" {
		if err := serveChild(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func serveChild(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	return New(dir, io.Discard).Serve(ctx, []net.Listener{l})
}

// process starts the server. end stops it, and returns what it has used.
func process(b *testing.B, dir string) (addr string, end func() *syscall.Rusage) {
	b.Helper()
	self, err := os.Executable()
	must(b, err)
	cmd := exec.CommandContext(b.Context(), self)
	cmd.Env = append(os.Environ(), "SERVE_TEST_DIR="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(b, err)
	must(b, cmd.Start())
	addr, err = bufio.NewReader(out).ReadString('\n')
	must(b, err)
	return strings.TrimSpace(addr), func() *syscall.Rusage {
		must(b, cmd.Process.Signal(syscall.SIGTERM))
		must(b, cmd.Wait())
		return cmd.ProcessState.SysUsage().(*syscall.Rusage)
	}
}

// BenchmarkFollowers has 1,000 members ask for a pointer of 16 KiB with the version that they have,
// each on its connection, as follow does in every interval. server-µs/op is user and system time of
// the server's process.
//
//	go test ./internal/serve -run - -bench Followers -benchtime 100000x
func BenchmarkFollowers(b *testing.B) {
	const followers = 1000
	for _, kind := range []struct {
		name      string
		unchanged bool
	}{{"unchanged", true}, {"changed", false}} {
		b.Run(kind.name, func(b *testing.B) {
			dir := b.TempDir()
			put(b, dir, "release.json", []byte(strings.Repeat("0123456789abcde\n", 1<<10)))
			addr, end := process(b, dir)
			from := make([]*store.HTTP, followers)
			for n := range from {
				var err error
				from[n], err = store.NewHTTP("http://"+addr+"/release.json", &http.Transport{})
				must(b, err)
			}
			_, version, err := store.ReadAll(b.Context(), from[0], "", 1<<20, "")
			must(b, err)
			var asked atomic.Int64
			var all sync.WaitGroup
			b.ResetTimer()
			for _, one := range from {
				all.Go(func() {
					for asked.Add(1) <= int64(b.N) {
						var err error
						if kind.unchanged {
							_, err = one.Get(b.Context(), "", version)
						} else {
							_, _, err = store.ReadAll(b.Context(), one, "", 1<<20, `"older"`)
						}
						if kind.unchanged != errors.Is(err, store.ErrUnmodified) || err != nil && !kind.unchanged {
							b.Error(err)
							return
						}
					}
				})
			}
			all.Wait()
			b.StopTimer()
			used := end()
			cpu := time.Duration(used.Utime.Nano() + used.Stime.Nano())
			b.ReportMetric(float64(cpu.Microseconds())/float64(b.N), "server-µs/op")
			b.ReportMetric(float64(used.Maxrss)/1024, "server-MiB")
		})
	}
}

// BenchmarkPack reads a pack of 64 MiB.
func BenchmarkPack(b *testing.B) {
	dir := b.TempDir()
	must(b, os.MkdirAll(filepath.Join(dir, "packs"), 0o755))
	must(b, os.WriteFile(filepath.Join(dir, filepath.FromSlash(packKey)), make([]byte, 64<<20), 0o644))
	addr, end := process(b, dir)
	b.SetBytes(64 << 20)
	for b.Loop() {
		resp, err := http.Get("http://" + addr + "/" + packKey)
		must(b, err)
		n, err := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil || n != 64<<20 {
			b.Fatal(n, err)
		}
	}
	used := end()
	cpu := time.Duration(used.Utime.Nano() + used.Stime.Nano())
	b.ReportMetric(float64(cpu.Microseconds())/float64(b.N), "server-µs/op")
}
