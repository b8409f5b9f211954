// Package demo is the main job of ebs-release from end to end, on real input, with the real
// programs, driven as an operator would: publish, boot, publish while the group grows, compare,
// publish to members that follow, boot without a snapshot of the release, roll out a release that
// fails, reboot, scale in. It checks what it shows.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/host"
)

const (
	group = "web"
	grown = 5 // members, while release two is published
	peak  = 6
	last  = 5               // generation
	limit = 5 * time.Minute // it takes two; a busy machine takes longer

	sourceOne = "/srv/source/one" // release one, as the release server sees it
	sourceTwo = "/srv/two"        // release two: an edited copy
)

// latency is cloud.Realistic, but for states that AWS publishes no figure for: these are cut short
// to keep the demo within its limit.
func latency() cloud.LatencyTable {
	t := cloud.Realistic()
	t.Snapshot = cloud.Dist{Median: 10 * time.Second, P99: 14 * time.Second}
	t.Running = cloud.Dist{Median: 6 * time.Second, P99: 9 * time.Second}
	t.Scaling = cloud.Dist{Median: time.Second, P99: 2 * time.Second}
	t.Shutdown = cloud.Dist{Median: 2 * time.Second, P99: 4 * time.Second}
	return t
}

// demo is one run.
type demo struct {
	lab     *lab.Lab
	server  *host.Host
	out     io.Writer
	started time.Time
}

// Run shows it on out. source is release one. It takes everything down before it ends; an error
// says what was not as it should be.
func Run(ctx context.Context, opts lab.Options, source string, out io.Writer) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the demo took more than %s", limit))
	defer cancel()
	opts.Latency, opts.Groups = latency(), []string{group}
	opts.ServerBinds = []host.Bind{{Source: source, Target: sourceOne}}
	d := &demo{out: &shared{out: out}, started: time.Now()}

	d.say("start the lab: an EC2 on this machine, with about the latencies of the real one")
	d.lab, err = lab.Start(ctx, opts)
	if err != nil {
		return err
	}
	result, err := d.run(ctx, source)
	if err != nil && context.Cause(ctx) != nil {
		err = fmt.Errorf("%w (%w)", err, context.Cause(ctx))
	}
	if err != nil {
		d.consoles()
	}
	if err := errors.Join(err, d.lab.Close()); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	fmt.Fprintf(out, "demo: %s\n", result)
	if result != fmt.Sprintf("%d/%[1]d members on generation %d, 0 stale, 0 orphan volumes", peak, last) {
		return errors.New("demo: not as it should be, see the line before")
	}
	return nil
}

func (d *demo) run(ctx context.Context, source string) (result string, err error) {
	if err := d.lab.Group(group, 0, peak); err != nil {
		return "", err
	}
	if d.server, err = d.lab.ReleaseServer(ctx); err != nil {
		return "", err
	}
	d.say("the release server is up (%s, %s): make its release volume", d.server.ID, d.server.Address)
	if err := d.operator(ctx, "ebs-release", "init"); err != nil {
		return "", err
	}
	d.say("publish release one: %s", source)
	if err := d.operator(ctx, "ebs-release", "publish", sourceOne, "--message", "release one"); err != nil {
		return "", err
	}
	d.say("scale %s to 3: each instance boots on generation 1", group)
	if err := d.scaleTo(ctx, 3, 1); err != nil {
		return "", err
	}
	d.say("make release two: files added, changed, removed, one changed within its size and mtime, a new mode, a symlink")
	if err := edit(ctx, d.server); err != nil {
		return "", err
	}
	d.say("publish release two, while %s grows from 3 to %d", group, grown)
	if err := d.publishWhileGrowing(ctx); err != nil {
		return "", err
	}
	d.say("the state of all members")
	if err := d.operator(ctx, "ebs-release", "status"); err != nil {
		return "", err
	}
	if good, _, err := d.inspect(ctx, 2); err != nil || good != grown {
		return "", errors.Join(err, fmt.Errorf("%d of %d members are right", good, grown))
	}
	if err := d.follow(ctx); err != nil {
		return "", err
	}
	if err := d.catchUp(ctx); err != nil {
		return "", err
	}
	d.say("the snapshot of release two, which nobody waited for: name it")
	if err := d.operator(ctx, "ebs-release", "snapshot"); err != nil {
		return "", err
	}
	if err := d.rollOut(ctx); err != nil {
		return "", err
	}
	good, stale, err := d.inspect(ctx, last)
	if err != nil {
		return "", err
	}
	if err := d.reboot(ctx); err != nil {
		return "", err
	}
	orphans, err := d.scaleIn(ctx)
	if err != nil {
		return "", err
	}
	d.say("take the lab down")
	return fmt.Sprintf("%d/%d members on generation %d, %d stale, %d orphan volumes", good, peak, last, stale, orphans), nil
}

// say talks about a step, with the time since the start.
func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.out, "%5.1fs  %s\n", time.Since(d.started).Seconds(), fmt.Sprintf(format, args...))
}

// operator runs a program on the release server as an operator would, and shows what it says.
func (d *demo) operator(ctx context.Context, argv ...string) error {
	return d.ends(ctx, 0, argv...)
}

// ends is operator for a program that has to end with an exit code.
func (d *demo) ends(ctx context.Context, code int, argv ...string) error {
	fmt.Fprintf(d.out, "        $ %s\n", typed(argv))
	show := &indented{out: d.out}
	defer show.flush()
	out, err := d.server.RunWith(ctx, host.Command{Argv: argv, Stdout: show, Stderr: show})
	if out.Code == code && code != 0 {
		return nil
	}
	if err == nil && code != 0 {
		err = fmt.Errorf("%s: exit 0, want %d", argv, code)
	}
	return err
}

// memberStatus is what `ebs-release status --output json` says of a member.
type memberStatus struct {
	InstanceID     string `json:"instance_id"`
	LifecycleState string `json:"lifecycle_state"`
	Generation     int64  `json:"generation"`
	State          string `json:"state"`
}

func (d *demo) status(ctx context.Context) ([]memberStatus, error) {
	out, err := d.server.Run(ctx, "ebs-release", "status", "--output", "json")
	if err != nil {
		return nil, err
	}
	var report struct {
		Schema  int            `json:"schema"`
		Members []memberStatus `json:"members"`
	}
	if err := json.Unmarshal([]byte(out.Stdout), &report); err != nil || report.Schema != 1 {
		return nil, fmt.Errorf("ebs-release status --output json: schema %d: %w: %s", report.Schema, err, out.Stdout)
	}
	return report.Members, nil
}

// agentStatus is the part of a member's status.json that the demo looks at.
type agentStatus struct {
	State      string `json:"state"`
	Generation int64  `json:"generation"`
	VolumeID   string `json:"volume_id"`
}

func statusOf(ctx context.Context, h *host.Host) (agentStatus, error) {
	var s agentStatus
	out, err := h.Run(ctx, "ebs-release-agent", "status", "--output", "json")
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal([]byte(out.Stdout), &s); err != nil {
		return s, fmt.Errorf("%s: ebs-release-agent status --output json: %w: %s", h.ID, err, out.Stdout)
	}
	return s, nil
}

// consoles shows what machines whose boot failed had to say.
func (d *demo) consoles() {
	for _, h := range d.lab.Hosts() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // no waiting: is it through or not?
		if err := h.Booted(ctx); err != nil {
			fmt.Fprintf(d.out, "--- %v; its console:\n%s", err, h.Console())
		}
	}
}

// typed is a command as a person types it.
func typed(argv []string) string {
	words := make([]string, len(argv))
	for i, w := range argv {
		if words[i] = w; strings.ContainsAny(w, " \t") {
			words[i] = "'" + w + "'"
		}
	}
	return strings.Join(words, " ")
}
