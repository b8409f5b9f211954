package demo

import (
	"context"
	"fmt"
	"strings"

	"ebs-release/internal/lab/host"
)

// follow publishes release three to members that look at the pointer by themselves: nobody logs in
// to them. It has no snapshot.
func (d *demo) follow(ctx context.Context) error {
	d.say("from here on the members follow; release three is one file more, and gets no snapshot")
	for _, m := range d.lab.Members(group) {
		h, err := d.lab.Host(m.InstanceID)
		if err == nil {
			err = follows(ctx, h)
		}
		if err != nil {
			return err
		}
	}
	if _, err := d.server.Run(ctx, "sh", "-c", "echo three > "+sourceTwo+"/release-three"); err != nil {
		return err
	}
	return d.operator(ctx, "ebs-release", "publish", sourceTwo, "--message", "release three", "--reach", "follow", "--no-snapshot")
}

// follows makes a member follow, as its unit does.
func follows(ctx context.Context, h *host.Host) error {
	_, err := h.Run(ctx, "sh", "-c", "setsid ebs-release-agent follow --follow-interval 1s </dev/null >/run/follow.log 2>&1 &")
	return err
}

// catchUp launches one more instance, for which there is no snapshot of the current release.
func (d *demo) catchUp(ctx context.Context) error {
	d.say("scale %s to %d: there is no snapshot of release three, so the new instance catches up", group, peak)
	before := map[string]bool{}
	for _, m := range d.lab.Members(group) {
		before[m.InstanceID] = true
	}
	if err := d.lab.Account.SetDesired(group, peak); err != nil {
		return err
	}
	hosts, err := d.lab.AllBooted(ctx, group, peak)
	if err != nil {
		return err
	}
	for _, h := range hosts {
		if before[h.ID] {
			continue
		}
		said := caughtUp(h)
		if said == "" {
			return fmt.Errorf("%s does not say that it caught up", h.ID)
		}
		fmt.Fprintf(d.out, "        %s: %s\n", h.ID, said)
		if err := follows(ctx, h); err != nil {
			return err
		}
	}
	return nil
}

// caughtUp is what the agent of a host said of that.
func caughtUp(h *host.Host) string {
	_, said, found := strings.Cut(h.Console(), "caught up ")
	if !found {
		return ""
	}
	said, _, _ = strings.Cut(said, "\n")
	return "caught up " + strings.TrimSpace(said)
}
