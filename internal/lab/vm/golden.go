package vm

import (
	"context"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"ebs-release/internal/lab/cache"
	"ebs-release/internal/lab/child"
	"ebs-release/internal/lab/debian"
	"ebs-release/internal/output"

	"golang.org/x/sys/unix"
)

// The recipe of the golden disk: its packages, and what is done to the tree.
//
//go:embed golden
var recipe embed.FS

// layout is part of the recipe's name: raise it when writeDisk changes.
const layout = 1

// Golden is the disk that all machines are made from: this machine's own Debian release, from its
// own package sources, with the cloud kernel, systemd, sshd, rsync, and nothing of ours. The first
// call builds it, in about a minute (a slow mirror or a busy machine: ten), and keeps it in the
// cache directory under a name that follows from the recipe; the next calls, of other processes
// too, find it there.
func Golden(ctx context.Context, log *slog.Logger) (*Image, error) {
	dir := cache.Directory()
	image, err := golden(ctx, dir, log)
	if err != nil {
		return nil, fmt.Errorf("golden disk of the VM lab in %s: %w", dir, err)
	}
	return image, nil
}

func golden(ctx context.Context, cached string, log *slog.Logger) (*Image, error) {
	suite, err := debian.Suite()
	if err != nil {
		return nil, err
	}
	name, err := recipeName(suite)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(cached, name)
	image := &Image{Disk: filepath.Join(dir, "disk.raw"), Kernel: filepath.Join(dir, "vmlinuz"), format: "raw"}
	unlock, err := cache.Lock(ctx, cached)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return image, nil
	}
	// What builds that were killed left behind; the lock says that none is going on.
	leftovers, err := filepath.Glob(filepath.Join(cached, "partial-*"))
	if err != nil {
		return nil, err
	}
	for _, leftover := range leftovers {
		if err := os.RemoveAll(leftover); err != nil {
			return nil, err
		}
	}
	log.Info("building the golden disk of the VM lab, once for all", "dir", dir)
	started := time.Now()
	partial, err := os.MkdirTemp(cached, "partial-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(partial) // nothing is there after the rename
	if err := build(ctx, partial, suite); err != nil {
		return nil, err
	}
	if err := errors.Join(os.Chmod(partial, 0o755), os.Rename(partial, dir)); err != nil {
		return nil, err
	}
	log.Info("golden disk is ready", "seconds", int(time.Since(started).Seconds()))
	return image, nil
}

// recipeName is "golden-" and a digest of all that decides what is on the disk, but for the day's
// state of Debian's packages.
func recipeName(suite string) (string, error) {
	sum := sha256.New()
	fmt.Fprintln(sum, layout, suite, diskBytes, partUUID)
	for _, name := range []string{"packages", "customize.sh"} {
		data, err := recipe.ReadFile("golden/" + name)
		if err != nil {
			return "", err
		}
		fmt.Fprintln(sum, name, len(data))
		sum.Write(data)
	}
	return fmt.Sprintf("golden-%x", sum.Sum(nil)[:6]), nil
}

// build makes disk.raw and vmlinuz in dir.
func build(ctx context.Context, dir, suite string) error {
	packages, err := recipe.ReadFile("golden/packages")
	if err != nil {
		return err
	}
	hook := filepath.Join(dir, "customize.sh")
	if err := extract("golden/customize.sh", hook, 0o755); err != nil {
		return err
	}
	tree := filepath.Join(dir, "tree")
	line, err := debian.Bootstrap(ctx, suite, tree, "--mode=root", "--variant=minbase",
		"--include="+strings.Join(strings.Fields(string(packages)), ","),
		`--aptopt=APT::Install-Recommends "false"`,
		"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
		"--customize-hook="+hook+` "$1"`)
	if err != nil {
		return err
	}
	bootstrap := command(ctx, line...)
	bootstrap.Env = append(os.Environ(), "TMPDIR="+dir, "PARTUUID="+partUUID)
	if err := run(bootstrap); err != nil {
		return err
	}
	kernels, err := filepath.Glob(filepath.Join(tree, "boot/vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		return fmt.Errorf("find the kernel in %s/boot: %v (%w)", tree, kernels, err)
	}
	if err := os.Rename(kernels[0], filepath.Join(dir, "vmlinuz")); err != nil {
		return err
	}
	// The kernel has NVMe and ext4 built in: no initrd.
	initrds, err := filepath.Glob(filepath.Join(tree, "boot/initrd*"))
	if err != nil {
		return err
	}
	for _, initrd := range initrds {
		if err := os.Remove(initrd); err != nil {
			return err
		}
	}
	if err := writeDisk(ctx, filepath.Join(dir, "disk.raw"), tree); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(tree), os.Remove(hook))
}

// command is a program in mount and PID namespaces of its own: its mounts and children end with it,
// and it ends with this process.
func command(ctx context.Context, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID, Unshareflags: unix.CLONE_NEWNS}
	return cmd
}

// run runs cmd to its end; an error holds the last lines of what it said.
func run(cmd *exec.Cmd) error {
	var talk output.Ends
	cmd.Stdout, cmd.Stderr = &talk, &talk
	p, err := child.Start(cmd, nil)
	if err == nil {
		<-p.Done
		err = p.Err
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Args[0]), err, talk.String())
	}
	return nil
}

// extract writes a file of the recipe to path.
func extract(name, path string, mode fs.FileMode) error {
	data, err := recipe.ReadFile(name)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, mode)
}
