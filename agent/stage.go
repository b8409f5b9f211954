package main

import (
	"errors"
	"fmt"

	"ebs-release/internal/exit"
	"ebs-release/internal/release"
	"ebs-release/internal/status"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// staged is the answer of `stage`, one line of JSON.
type staged struct {
	Schema int `json:"schema"`
	release.StageResult
}

func (p *program) stageCommand() *cobra.Command {
	var request release.StageRequest
	var finish bool
	cmd := &cobra.Command{
		Use:   "stage --release ID --digest HEX [--base ID] | stage --finish --release ID",
		Short: "Take a release from the publisher: prepare its tree, and verify it when its files are here",
		Long: `Take a release from the publisher. It prepares releases/ID.partial from the release before and a delta of manifests on stdin; the publisher then sends
what is missing by rsync; and --finish verifies all of it and gives the tree its name. The answer is one line of JSON.
The publisher calls this over ssh, as the user who owns the tree. Exit 3: the boot of this member is not over.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			tree, err := p.writableTree()
			if err != nil {
				return err
			}
			result := release.StageResult{State: release.Present, Release: request.ID}
			if finish {
				err = tree.Finish(cmd.Context(), request.ID)
			} else {
				request.Delta = p.stdin
				result, err = tree.Stage(cmd.Context(), request)
			}
			if err != nil {
				return err
			}
			return p.printLine(staged{status.Schema, result})
		},
	}
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if err := checkRelease(request.ID, request.Digest, finish); err != nil {
			return err
		}
		if request.Base != "" && !release.ValidID(request.Base) {
			return exit.With(exit.Usage, errors.New("--base is no release id"))
		}
		return nil
	}
	cmd.Flags().StringVar(&request.ID, "release", "", "id of the release")
	cmd.Flags().StringVar(&request.Digest, "digest", "", "its digest, 64 hex digits")
	cmd.Flags().StringVar(&request.Base, "base", "", "id of the release that the delta starts from")
	cmd.Flags().BoolVar(&finish, "finish", false, "the files are here: verify them, and give the tree its name")
	return cmd
}

func checkRelease(id, digest string, noDigest bool) error {
	switch {
	case !release.ValidID(id):
		return exit.With(exit.Usage, errors.New("--release is missing, or no release id"))
	case !noDigest && !release.ValidDigest(digest):
		return exit.With(exit.Usage, errors.New("--digest is missing, or not 64 lower-case hex digits"))
	default:
		return nil
	}
}

// readyTree is the release volume of a member whose boot is over. Before that a push has to wait: the boot may still be looking at the volume.
func (p *program) readyTree() (release.Tree, error) {
	now, err := p.observe()
	if err != nil {
		return release.Tree{}, err
	}
	return release.Tree{Root: now.MountPoint}, notReady(now)
}

// writableTree is readyTree for someone who may write to it. A user who has another id here than on the release server finds the tree to be somebody else's:
// only numbers are on the volume.
func (p *program) writableTree() (release.Tree, error) {
	tree, err := p.readyTree()
	if err != nil {
		return tree, err
	}
	var root unix.Stat_t
	if err := unix.Stat(tree.Root, &root); err != nil {
		return tree, fmt.Errorf("release volume %s: %w", tree.Root, err)
	}
	if err := unix.Access(tree.Root, unix.W_OK); errors.Is(err, unix.EACCES) {
		return tree, fmt.Errorf("the release volume at %s belongs to user id %d, and the user of this login has the id %d: the ssh-user needs the same id on the "+
			"release server and on the members. Try: usermod --uid %d", tree.Root, root.Uid, unix.Geteuid(), root.Uid)
	}
	return tree, nil
}
