package main

import (
	"errors"
	"fmt"

	"ebs-release/internal/advice"
	"ebs-release/internal/cli"
	"ebs-release/internal/exit"
	"ebs-release/internal/manifest"
	"ebs-release/internal/push/wire"
	"ebs-release/internal/receive"

	"github.com/spf13/cobra"
)

func (p *program) verifyCommand() *cobra.Command {
	var id, digest string
	cmd := &cobra.Command{
		Use:   "verify [--release ID] [--digest HEX]",
		Short: "Compare every file of a release here with the manifest",
		Long: `Read every file of a release that is here, and compare content, mode, type and
link target with the manifest: whatever was changed, added or lost is an error
that names it. Without --release it is the release that was activated last, and
"current" has to lead to it. Nothing is changed. "ebs-release verify" asks for
the same over ssh. Exit 1: the release is damaged, or not here. Exit 3: the boot
of this member is not over.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, _, err := p.readyVolume(cmd.Context())
			if err != nil {
				return err
			}
			defer func() { _ = v.Close() }()
			generation := int64(0)
			if id == "" { // what the fence says, which `current` has to agree with
				if generation, id, err = v.Fence(); err == nil && id == "" {
					err = advice.Try(errors.New("no release is active on this volume"), "ebs-release converge, on the release server")
				}
				if err != nil {
					return err
				}
			}
			answer, err := receive.Verify(cmd.Context(), v, id, digest, generation)
			if err != nil {
				return err
			}
			if p.output == cli.JSON {
				return wire.Write(p.stdout, answer)
			}
			_, err = fmt.Fprintf(p.stdout, "release %s: all %d files are as the manifest says\n", id, answer.Files)
			return err
		},
	}
	cmd.PreRunE = func(*cobra.Command, []string) error {
		switch {
		case id != "" && !manifest.ValidID(id):
			return exit.With(exit.Usage, errors.New("--release is no release id"))
		case digest != "" && !manifest.ValidDigest(digest):
			return exit.With(exit.Usage, errors.New("--digest is not 64 lower-case hex digits"))
		default:
			return nil
		}
	}
	cmd.Flags().StringVar(&id, "release", "", "id of a release that is here (default: the one that was activated last)")
	cmd.Flags().StringVar(&digest, "digest", "", "the digest that its manifest must have")
	return cmd
}
