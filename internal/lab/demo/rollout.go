package demo

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"ebs-release/internal/exit"
	"ebs-release/internal/lab/host"
)

const (
	programs = "/etc/ebs-release/activate.d"
	// What a release breaks, the program that tells the application of it notices.
	notices = "#!/bin/sh\ntest ! -e \"$EBS_RELEASE_PATH/broken\" || { echo 'the application does not start'; exit 1; }\n"
)

// rollOut publishes a release that breaks the application to one member first: it goes back by
// itself, and the other members have never had it.
func (d *demo) rollOut(ctx context.Context) error {
	d.say("release four breaks the application: give it to one member first")
	var hosts []*host.Host
	for _, m := range d.lab.Members(group) {
		h, err := d.lab.Host(m.InstanceID)
		if err == nil {
			_, err = h.Run(ctx, "mkdir", "-p", programs)
		}
		if err == nil {
			err = h.WriteFile(ctx, programs+"/10-application", []byte(notices), 0o755)
		}
		if err != nil {
			return err
		}
		hosts = append(hosts, h)
	}
	if _, err := d.server.Run(ctx, "touch", sourceTwo+"/broken"); err != nil {
		return err
	}
	if err := d.ends(ctx, exit.RolledBack, "ebs-release", "publish", sourceTwo, "--message", "release four", "--steps", "1,50%",
		"--reach", "follow", "--no-snapshot"); err != nil {
		return fmt.Errorf("the rollout did not go back by itself: %w", err)
	}
	if _, err := d.server.Run(ctx, "rm", sourceTwo+"/broken"); err != nil {
		return err
	}
	had := 0
	for _, h := range hosts {
		out, err := h.Run(ctx, "ls", "/release/releases")
		if err != nil {
			return err
		}
		four, err := d.server.Run(ctx, "sh", "-c", "ls /release/releases | tail -n 1")
		if err != nil {
			return err
		}
		if strings.Contains(out.Stdout, strings.TrimSpace(four.Stdout)) {
			had++
		}
	}
	d.say("%d of %d members had release four", had, len(hosts))
	if had != 1 {
		return errors.New("it was for one")
	}
	return nil
}
