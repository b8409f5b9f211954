package main

import (
	"fmt"
	"net"

	"ebs-release/internal/advice"
	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
	"ebs-release/internal/serve"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
)

// defaultListen is where serve listens when systemd passes no socket.
const defaultListen = ":8080"

func (p *program) serveCommand() *cobra.Command {
	var listen string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the pointer store over HTTP: the pointer and packs",
		Long: `Serve the pointer store over HTTP: release.json, snap.txt and packs, nothing
else that lies there. It takes the sockets that systemd passes, or listens
itself.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			values, err := p.settings("pointer-store")
			if err != nil {
				return err
			}
			directory := values.Get("pointer-store")
			if pointer.InS3(directory) {
				return exit.With(exit.Usage,
					advice.Try(fmt.Errorf("%s is not served from here: members read it from S3", directory),
						"pointer = %q in their agent.toml", directory))
			}
			if _, err := openStore(cmd.Context(), directory, nil); err != nil {
				return err
			}
			listeners, err := listeners(listen)
			if err != nil {
				return err
			}
			// They take connections already, before Serve does.
			if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
				fmt.Fprintf(p.stderr, "tell systemd that the server is ready: %v\n", err)
			}
			return serve.New(directory, p.stderr).Serve(cmd.Context(), listeners)
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
