package e2evm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/vm"
)

// Image ids of the lab's virtual machines.
const (
	bareVM   = "ami-0000000000000f000"
	memberVM = "ami-0000000000000f001"
	serverVM = "ami-0000000000000f002"
)

// application is what release trees of these tests have as bin/server, which the README's unit
// starts: it says which release it began with, and which one it still sees when it is told to end.
// It says that by itself, in one write: all processes of a unit that is stopped are told to end,
// children too.
const application = `#!/bin/sh
say() { read -r version </release/current/version; echo "application $1 release $version"; }
trap 'say "ends on"; exit 0' TERM
say "starts on"
sleep infinity &
wait
`

// starts is the mark of an application that has started on a release, ends that of one that was
// told to end.
func starts(release string) string { return "application starts on release " + release }
func ends(release string) string   { return "application ends on release " + release }

// addUser makes the user of the README's unit.
const addUser = "useradd --system app"

// toMarks is a drop-in for the application's unit.
const toMarks = "[Service]\nStandardOutput=file:" + vm.MarkPort + "\n"

// bareImage lets the tests in, and that is all.
func bareImage(ctx context.Context, golden *vm.Image) (*vm.Image, error) {
	return golden.Install(ctx, built.dir, vm.Extras{AuthorizedKey: built.public})
}

// memberImage installs the agent and an application, as packaging/packer does.
func memberImage(ctx context.Context, golden *vm.Image) (*vm.Image, error) {
	unit, err := readmeUnit()
	if err != nil {
		return nil, err
	}
	return golden.Install(ctx, built.dir, vm.Extras{
		AuthorizedKey: built.public,
		Packages:      []string{built.deb},
		Files: map[string]vm.File{
			"/etc/ebs-release/disabled":                          {},
			"/etc/ebs-release/agent.toml":                        {Data: fmt.Sprintf("pointer = %q\n", lab.PointerURL)},
			"/etc/systemd/system/application.service":            {Data: unit},
			"/etc/systemd/system/application.service.d/lab.conf": {Data: toMarks},
		},
		Commands: []string{
			addUser,
			"systemctl --quiet is-enabled ebs-release-agent.service",
			"systemctl --quiet enable application.service",
			"rm /etc/ebs-release/disabled",
		},
	})
}

// serverImage installs the publisher as the README's quick start says, up to `ebs-release init`.
func serverImage(ctx context.Context, golden *vm.Image) (*vm.Image, error) {
	private, err := os.ReadFile(built.key)
	if err != nil {
		return nil, err
	}
	return golden.Install(ctx, built.dir, vm.Extras{
		AuthorizedKey: built.public,
		Packages:      []string{deb("ebs-release", version)},
		Files: map[string]vm.File{
			"/root/deploy.key":                {Data: string(private), Mode: 0o600},
			"/etc/ebs-release/publisher.toml": {Data: "pointer-store = \"/var/lib/ebs-release/pointer\"\ngroups = [\"fleet\"]\nsettle = \"1s\"\nssh-user = \"deploy\"\nssh-key = \"/root/deploy.key\"\n"},
		},
	})
}

// readmeUnit is the unit that the README tells people to write for their application.
func readmeUnit() (string, error) {
	data, err := os.ReadFile("../../../README.md")
	if err != nil {
		return "", err
	}
	_, rest, _ := strings.Cut(string(data), "```ini\n")
	unit, _, ok := strings.Cut(rest, "```")
	if !ok || !strings.Contains(unit, "ExecStart=/release/current/bin/server") {
		return "", errors.New("the README has no unit of an application that starts /release/current/bin/server")
	}
	return unit, nil
}
