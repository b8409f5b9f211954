package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
)

// defaultListen is where serve listens when systemd passes no socket.
const defaultListen = ":8080"

// stopTime is how long requests under way may take after a stop.
const stopTime = 5 * time.Second

func (p *program) serveCommand() *cobra.Command {
	var listen string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the pointer over HTTP: release.json and snap.txt",
		Long: `Serve the pointer over HTTP: release.json and snap.txt, nothing else. It takes
the sockets that systemd passes, or listens itself.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			values, err := p.settings("pointer-store")
			if err != nil {
				return err
			}
			directory := values.Get("pointer-store")
			if pointer.InS3(directory) {
				return exit.With(exit.Usage,
					fmt.Errorf("%s is not served from here: members read it from S3. Try: pointer = %[1]q in their agent.toml", directory))
			}
			if _, err := openStore(cmd.Context(), directory, nil); err != nil {
				return err
			}
			listeners, err := listeners(listen)
			if err != nil {
				return err
			}
			return p.serve(cmd.Context(), directory, listeners)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "",
		"address and port to listen on (default "+defaultListen+", or the sockets that systemd passes)")
	return cmd
}

// listeners are those of systemd's socket activation, or one of our own. --listen wins over what
// systemd passes.
func listeners(listen string) ([]net.Listener, error) {
	if listen == "" {
		passed, err := activation.Listeners()
		if err != nil {
			return nil, fmt.Errorf("take the sockets that systemd passed: %w", err)
		}
		if len(passed) > 0 {
			return passed, nil
		}
		listen = defaultListen
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("serve: %w", err)
	}
	return []net.Listener{l}, nil
}

// serve answers until ctx ends, which is its normal end.
func (p *program) serve(ctx context.Context, directory string, listeners []net.Listener) error {
	server := &http.Server{
		Handler:           pointerHandler(directory),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       30 * time.Second,
		MaxHeaderBytes:    8 << 10,
	}
	ended := make(chan error, len(listeners))
	for _, l := range listeners {
		fmt.Fprintf(p.stderr, "serving %s on http://%s\n", directory, l.Addr())
		go func() { ended <- server.Serve(l) }()
	}
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		fmt.Fprintf(p.stderr, "tell systemd that the server is ready: %v\n", err)
	}
	var err error
	running := len(listeners)
	select {
	case <-ctx.Done():
	case err = <-ended:
		running--
	}
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	stopErr := server.Shutdown(stopCtx)
	if stopErr != nil {
		stopErr = errors.Join(stopErr, server.Close())
	}
	for range running {
		if serveErr := <-ended; err == nil {
			err = serveErr
		}
	}
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	return errors.Join(err, stopErr)
}

// pointerHandler gives out the two files of a pointer store, read anew each time, and lets nobody
// keep them.
func pointerHandler(directory string) http.Handler {
	types := map[string]string{"/release.json": "application/json", "/snap.txt": "text/plain; charset=utf-8"}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		contentType, ok := types[r.URL.Path]
		if !ok {
			http.Error(w, "there are only /release.json and /snap.txt", http.StatusNotFound)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "GET and HEAD only", http.StatusMethodNotAllowed)
			return
		}
		data, err := readPointerFile(filepath.Join(directory, r.URL.Path))
		switch {
		case errors.Is(err, os.ErrNotExist):
			http.Error(w, "nothing has been published yet", http.StatusNotFound)
			return
		case err != nil:
			http.Error(w, "the pointer cannot be read: "+err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		if r.Method == http.MethodGet {
			_, _ = w.Write(data) // the client went away: nobody to tell
		}
	})
}

func readPointerFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, pointer.MaxSize+1))
	if err == nil && len(data) > pointer.MaxSize {
		err = fmt.Errorf("%s is larger than %d KiB", path, pointer.MaxSize>>10)
	}
	return data, err
}
