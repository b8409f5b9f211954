package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"strconv"

	"ebs-release/internal/advice"
	"ebs-release/internal/cli"
	"ebs-release/internal/device"
	"ebs-release/internal/exit"
	"ebs-release/internal/filesystem"
	"ebs-release/internal/instance"
	"ebs-release/internal/server"
	"ebs-release/internal/volume"

	"github.com/spf13/cobra"
)

const fstabFile = "/etc/fstab"

func (p *program) initCommand() *cobra.Command {
	var wish server.Wish
	var treeOwner string
	var noFstab bool
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make the release volume of this release server, and mount it",
		Long: `Make the release volume of this release server: create and attach an EBS volume,
check that it is blank, make a file system on it, mount it, add it to
/etc/fstab, and make the directories of the release tree, and the key that the
pointer is signed with (signing-key; back it up). What is done already is left
alone, so it can be run again at any time. It never formats a disk that is not
blank, and never replaces a key.

With --join this server takes the place of one that was lost, or works beside
one, on the same store: the volume is made from the newest snapshot of the
store, must believe the pointer in the store, and catches up with it by packs.
To publish, this server needs the signing key of the other one in its place.
When the store is lost as well, give its id with --store; then publish the
release that the members report, ` + "`ebs-release publish /release/releases/ID`" + `:
this makes the pointer again. With --volume the volume of the lost server is
taken as it is.`,
		Example: `  sudo ebs-release init --size 50
  sudo ebs-release init --join`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if wish.Join && cmd.Flags().Changed("size") {
				return exit.With(exit.Usage, errors.New("--size and --join: want one of them, the size is the snapshot's"))
			}
			if noFstab {
				wish.Fstab = ""
			}
			return p.init(cmd.Context(), wish, treeOwner)
		},
	}
	flags := cmd.Flags()
	flags.Int32Var(&wish.SizeGiB, "size", 20, "size of a new volume, in GiB")
	flags.StringVar(&wish.Type, "type", "gp3", "type of a new volume")
	flags.StringVar(&wish.FileSystem, "file-system", "ext4", "file system to make: ext4 or xfs")
	flags.BoolVar(&wish.Encrypt, "encrypt", false,
		"encrypt a new volume, and with it the snapshots and the volumes of members (default: as the account does)")
	flags.StringVar(&wish.KMSKey, "kms-key", "",
		"encrypt a new volume with this key, an id, alias or ARN, which both roles may use (default: the account's)")
	flags.StringVar(&wish.VolumeID, "volume", "", "take this volume, which is blank or was made by init, instead of a new one")
	flags.BoolVar(&wish.Join, "join", false,
		"take the place of another release server, or work beside it: make the volume from the store's newest snapshot, and catch up")
	flags.StringVar(&wish.Device, "device", "", "take the volume that is attached as this disk, such as /dev/nvme1n1, instead of a new one")
	flags.StringVar(&wish.Store, "store", "",
		"the pointer store takes the place of the store with this `ID`, which the volume belongs to and whose directory is lost")
	flags.StringVar(&treeOwner, "owner", "", "user that the release tree belongs to (default: the ssh-user)")
	flags.StringVar(&wish.Fstab, "fstab", fstabFile, "file to write the mount into")
	_ = errors.Join( // these fail only for a flag that is not there
		cmd.RegisterFlagCompletionFunc("file-system", cli.Words(string(filesystem.Ext4), string(filesystem.XFS))),
		cmd.RegisterFlagCompletionFunc("device", cli.Files), cmd.RegisterFlagCompletionFunc("fstab", cli.Files),
	)
	flags.BoolVar(&noFstab, "no-fstab", false, "do not write the mount into the fstab")
	return cmd
}

func (p *program) init(ctx context.Context, wish server.Wish, treeOwner string) error {
	values, err := p.settings()
	if err != nil {
		return err
	}
	if err := wish.Check(); err != nil {
		return exit.With(exit.Usage, err)
	}
	if treeOwner == "" {
		treeOwner = values.Get("ssh-user")
	}
	uid, gid, err := owner(treeOwner, p.getenv)
	if err != nil {
		return exit.With(exit.Usage, err)
	}
	if os.Geteuid() != 0 {
		return exit.With(exit.Unchanged, advice.Try(errors.New("init mounts a file system and needs root"), "sudo"))
	}
	cfg, err := loadAWS(ctx)
	if err != nil {
		return exit.With(exit.Unchanged, err)
	}
	log := slog.New(slog.DiscardHandler)
	identifyCtx, cancel := context.WithTimeout(ctx, regionTimeout)
	defer cancel()
	who, err := instance.Identify(identifyCtx, instance.NewClient(cfg), log)
	if err != nil {
		return exit.With(exit.Unchanged, err)
	}
	own, err := volume.ParseTags(values.Get("tags"))
	if err != nil {
		return exit.With(exit.Usage, err)
	}
	api := volume.NewEC2(cfg)
	i := &server.Server{
		Wish: wish, PointerStore: values.Get("pointer-store"), LoadAWS: loadAWS, MountPoint: values.Get("mount-point"), UID: uid, GID: gid,
		SigningKey: values.Get("signing-key"),
		Snapshots:  api,
		Volumes: server.Volumes{
			Volumes: volume.New(api, volume.DefaultTiming(), log), Owner: server.Owner(who, values.Get("mount-point")), Tags: own,
		},
		Finder: device.New(log),
		Say:    func(what string) { fmt.Fprintln(p.stderr, what) },
	}
	report, err := i.Init(ctx)
	switch {
	case err != nil:
		return halfway(ctx, err, report.Did)
	case p.output == cli.JSON:
		return p.printJSON(report)
	}
	if report.Needs != "" {
		fmt.Fprintf(p.stderr, "still to be done: %s\n", report.Needs)
	}
	switch {
	case len(report.Did) == 0:
		_, err = fmt.Fprintf(p.stdout, "%s is ready: %s, %s. Everything was done before\n", report.MountPoint, report.VolumeID, report.FileSystem)
	default:
		_, err = fmt.Fprintf(p.stdout, "%s is ready: %s, %s\n", report.MountPoint, report.VolumeID, report.FileSystem)
	}
	return err
}

// owner finds the user; without a name it is the one who calls, through sudo as well.
func owner(name string, getenv func(string) string) (uid, gid int, err error) {
	if name == "" {
		name = getenv("SUDO_USER")
	}
	if name == "" {
		return os.Getuid(), os.Getgid(), nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return 0, 0, advice.Errorf("the owner of the release tree: %w; "+
			"this server needs the user that the members are reached as (ssh-user), with the same id as there", err)
	}
	uid, err = strconv.Atoi(u.Uid)
	if err != nil {
		return 0, 0, fmt.Errorf("owner %s: %w", name, err)
	}
	gid, err = strconv.Atoi(u.Gid)
	if err != nil {
		return 0, 0, fmt.Errorf("owner %s: %w", name, err)
	}
	return uid, gid, nil
}
