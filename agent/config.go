package main

import (
	"fmt"

	"ebs-release/internal/cli"

	"github.com/spf13/cobra"
)

func (p *program) configCommand() *cobra.Command {
	return cli.ConfigCommand(p.settings, func() (string, error) {
		values, err := p.bootSettings()
		return fmt.Sprintf("the pointer is %s, the mount point %s", values.Get("pointer"), values.Get("mount-point")), err
	}, &p.output)
}
