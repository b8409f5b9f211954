package main

import (
	"fmt"

	"ebs-release/internal/cli"
	"ebs-release/internal/config"

	"github.com/spf13/cobra"
)

func (p *program) configCommand() *cobra.Command {
	load := func() (config.Values, error) { return p.settings() }
	return cli.ConfigCommand(load, func() (string, error) {
		values, err := p.settings("pointer-store", "groups")
		return fmt.Sprintf("the groups are %s, the pointer store %s", values.Get("groups"), values.Get("pointer-store")), err
	}, &p.output)
}
