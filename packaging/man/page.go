package main

import (
	"fmt"
	"strings"
	"time"

	"ebs-release/internal/exit"
)

// about is what a program's help does not say.
type about struct {
	short string // for the NAME section: apropos(1) shows it
	files []entry
	env   []entry // beside those that set a flag
	exits []entry
	see   string
}

func pages() map[string]about {
	exits := func(three string, more ...entry) []entry {
		codes := []entry{
			{fmt.Sprint(exit.Done), "done"},
			{fmt.Sprint(exit.Failed), "failed; the message says what is left"},
			{fmt.Sprint(exit.Usage), "wrong flags, arguments or configuration"},
			{fmt.Sprint(exit.Unchanged), three},
		}
		return append(append(codes, more...), entry{fmt.Sprint(exit.Interrupted), "interrupted"})
	}
	aws := []entry{
		{"AWS_REGION, AWS_PROFILE, AWS_CA_BUNDLE, AWS_USE_FIPS_ENDPOINT and the other variables of the AWS SDKs",
			"Region and credentials; without them the instance's own"},
		{"HTTPS_PROXY, NO_PROXY", "a proxy; NO_PROXY needs 169.254.169.254 then, and the host of the pointer"},
	}
	return map[string]about{
		"ebs-release-agent": {
			short: "mount the current release before the application starts",
			files: []entry{
				{"/etc/ebs-release/agent.toml", "configuration"},
				{"/etc/default/ebs-release-agent", "environment of the unit, such as a proxy"},
				{"/etc/ebs-release/stage.d", "programs that look at a release before it becomes current, as the ssh user"},
				{"/etc/ebs-release/drain.d", "programs that take the application out of service before another release becomes current"},
				{"/etc/ebs-release/activate.d", "programs that run after a release became current"},
				{"/etc/ebs-release/ready.d", "programs that say that it serves, asked until all do"},
				{"/etc/ebs-release/disabled", "while this file is there the unit does not start: for making an AMI"},
				{"/release/current", "the release: what the application reads"},
				{"/run/ebs-release/status.json", "how far the boot is, for people; ebs-release-agent status reads it"},
				{"/run/ebs-release/follow.json, /run/ebs-release/activate.json", "what follow saw last, and how the programs ended; for people"},
				{"/run/ebs-release/release.env", "the release as variables, for EnvironmentFile="},
				{"/var/lib/ebs-release/volume-of-INSTANCE", "this instance has asked EC2 for a volume of its own; an image needs none"},
				{"/var/lib/ebs-release/served-VOLUME", "this volume came with the instance and has served, and was too full for a mark of that"},
				{"/usr/share/doc/ebs-release-agent/operations.md", "the manual: what goes wrong, what it says then, what to do"},
			},
			env:   aws,
			exits: exits("not ready", entry{fmt.Sprint(exit.Conflict), "the lock is held, or a newer generation is active here"}),
			see:   "ebs-release(8), systemd.unit(5)",
		},
		"ebs-release": {
			short: "ship code to EC2 Auto Scaling groups on EBS snapshots",
			files: []entry{
				{"/etc/ebs-release/publisher.toml", "configuration"},
				{"/etc/ebs-release/signing.key", "the secret key that the pointer is signed with; keep a copy of it elsewhere"},
				{"/etc/ebs-release/signing.key.pub", "its public half: whom this server believes"},
				{"/etc/ebs-release/publish.d/before, /etc/ebs-release/publish.d/verify, /etc/ebs-release/publish.d/after",
					"programs that run before a publish, on the release before its commit, and after it"},
				{"/etc/ebs-release/rollout.d", "programs that hear what happens in a rollout"},
				{"/release", "the release volume"},
				{"/var/lib/ebs-release/pointer", "the pointer store, as the package configures it"},
				{"/usr/share/doc/ebs-release/operations.md", "the manual: what goes wrong, what it says then, what to do"},
			},
			env: aws,
			exits: exits("nothing was changed",
				entry{fmt.Sprint(exit.Conflict), "the lock is held, the generation moved, a hold is on, or a rollout is open"},
				entry{fmt.Sprint(exit.NotConverged), "committed, but members are behind"},
				entry{fmt.Sprint(exit.RolledBack), "rolled back: publish --rollback did not converge, or a rollout failed"},
				entry{fmt.Sprint(exit.NoSnapshot), "live, but the snapshot that was waited for failed, or is late"},
				entry{fmt.Sprint(exit.Paused), "a rollout stands at its step, and waits for a person"}),
			see: "ebs-release-agent(8), ssh(1), rsync(1)",
		},
	}
}

// page is a manual page in the making.
type page struct {
	name, version string
	date          time.Time
	about         about
	top           help
	verbs         []help

	out strings.Builder
}

func (p *page) render() string {
	p.macro("TH", strings.ToUpper(p.name), "8", p.date.Format(time.DateOnly), "ebs-release "+p.version, "System Administration")
	p.macro("SH", "NAME")
	p.text(p.name + " - " + p.about.short)
	p.macro("SH", "SYNOPSIS")
	p.macro("B", p.name)
	p.text("COMMAND [FLAG...]")
	p.macro("SH", "DESCRIPTION")
	p.paragraphs(p.top.text)
	p.macro("SH", "COMMANDS")
	for _, v := range p.verbs {
		p.macro("SS", v.usage)
		p.paragraphs(v.text)
		if len(v.examples) > 0 {
			p.macro("PP")
			p.asIs(v.examples)
		}
		p.entries(v.flags)
	}
	p.macro("SH", "OPTIONS")
	p.text("These flags are for every command; [$NAME] is the environment variable that does the same, " +
		"and the name of a flag is its name in the configuration file.")
	p.entries(p.top.flags)
	p.macro("SH", "FILES")
	p.entries(p.about.files)
	p.macro("SH", "ENVIRONMENT")
	p.entries(p.about.env)
	p.macro("SH", "EXIT STATUS")
	p.entries(p.about.exits)
	p.macro("PP")
	p.text("Other codes mean failure.")
	p.macro("SH", "SEE ALSO")
	p.text(p.about.see)
	return p.out.String()
}

func (p *page) paragraphs(text []string) {
	for i, t := range text {
		if i > 0 {
			p.macro("PP")
		}
		if lines := strings.Split(t, "\n"); len(lines) > 1 {
			p.asIs(lines)
			continue
		}
		p.text(t)
	}
}

func (p *page) asIs(lines []string) {
	p.macro("EX")
	for _, line := range lines {
		p.text(line)
	}
	p.macro("EE")
}

// entries writes a list; every command has --help, which is left out.
func (p *page) entries(list []entry) {
	for _, e := range list {
		if strings.Contains(e.name, "--help") {
			continue
		}
		p.macro("TP")
		p.macro("B", e.name)
		p.text(e.about)
	}
}

// macro writes a request with its arguments in quotes.
func (p *page) macro(name string, args ...string) {
	p.out.WriteString("." + name)
	for _, a := range args {
		p.out.WriteString(` "` + strings.ReplaceAll(escape(a), `"`, `\(dq`) + `"`)
	}
	p.out.WriteString("\n")
}

// text writes a line of text, which must not look like a request.
func (p *page) text(line string) {
	line = escape(line)
	if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
		line = `\&` + line
	}
	p.out.WriteString(line + "\n")
}

// escape: a hyphen that is typed as one must not become a dash, or nobody can copy the flag
// (groff_char(7)).
func escape(s string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`, "…", "...", "–", `\(en`).Replace(s)
}
