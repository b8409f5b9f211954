// Package e2evm holds the tests of the whole on virtual machines: the packages, installed as Packer
// does, under a kernel and a systemd of their own.
package e2evm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"testing"

	"ebs-release/internal/lab/host"
	"ebs-release/internal/lab/vm"
)

// built is what all tests share: TestMain makes it.
var built struct {
	dir              string
	agent, publisher string    // programs, out of the packages
	deb, next        string    // package of the agent, and one of a later version
	key, public      string    // the ssh key of the release servers: the file of its private half, and the public one
	bare             *vm.Image // Debian, with nothing of ours
	member           *vm.Image // boots as a member
	server           *vm.Image // becomes a release server when somebody runs `ebs-release init`
}

const (
	version     = "1.0"
	nextVersion = "2.0"
)

func TestMain(m *testing.M) {
	host.RunInit()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "ebs-release-e2evm-")
	if err == nil {
		defer os.RemoveAll(dir)
		built.dir = dir
		err = build()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2evm:", err)
		return 1
	}
	return m.Run()
}

func build() error {
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Minute) // the golden disk takes most of it, once on a machine
	defer cancel()
	if err := makePackages(ctx); err != nil {
		return fmt.Errorf("make packages: %w", err)
	}
	built.key = filepath.Join(built.dir, "key")
	if err := command(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "release-server", "-f", built.key); err != nil {
		return err
	}
	public, err := os.ReadFile(built.key + ".pub")
	if err != nil {
		return err
	}
	built.public = string(public)
	golden, err := vm.Golden(ctx, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return err
	}
	if built.bare, err = bareImage(ctx, golden); err != nil {
		return err
	}
	if built.member, err = memberImage(ctx, golden); err != nil {
		return err
	}
	built.server, err = serverImage(ctx, golden)
	return err
}

// makePackages makes both packages, the agent's in two versions, and takes the programs out of
// them.
func makePackages(ctx context.Context) error {
	for _, v := range []string{version, nextVersion} {
		cmd := exec.CommandContext(ctx, "../../../packaging/dev/packages", filepath.Join(built.dir, v))
		cmd.Env = append(os.Environ(), "ARCHES="+runtime.GOARCH, "PACKAGERS=deb", "VERSION="+v)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
	}
	programs := filepath.Join(built.dir, "programs")
	built.deb, built.next = deb("ebs-release-agent", version), deb("ebs-release-agent", nextVersion)
	built.agent, built.publisher = filepath.Join(programs, "usr/bin/ebs-release-agent"), filepath.Join(programs, "usr/bin/ebs-release")
	return errors.Join(
		command(ctx, "dpkg-deb", "--extract", built.deb, programs),
		command(ctx, "dpkg-deb", "--extract", deb("ebs-release", version), programs),
	)
}

func deb(name, version string) string {
	return filepath.Join(built.dir, version, fmt.Sprintf("%s_%s-1_%s.deb", name, version, runtime.GOARCH))
}

func command(ctx context.Context, argv ...string) error {
	if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", argv[0], err, out)
	}
	return nil
}
