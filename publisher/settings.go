package main

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"time"

	"ebs-release/internal/cli"
	"ebs-release/internal/config"
	"ebs-release/internal/exit"
	"ebs-release/internal/health"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
	"ebs-release/internal/volume"

	"github.com/spf13/pflag"
)

const (
	defaultConfigFile = "/etc/ebs-release/publisher.toml"
	defaultSigningKey = "/etc/ebs-release/signing.key"

	// How members are reached: the setting reach.
	reachSSH    = "ssh"
	reachFollow = "follow"
)

// settingsTable names everything that can be configured.
func settingsTable() []config.Setting {
	return []config.Setting{
		{Key: "pointer-store", Env: "EBS_RELEASE_POINTER_STORE", Check: checkPlace,
			Usage: "directory with the pointer, served over HTTP; or s3://BUCKET/PREFIX"},
		{Key: "groups", Env: "EBS_RELEASE_GROUPS", Usage: "Auto Scaling groups that the pointer feeds, separated by commas"},
		{Key: "mount-point", Env: "EBS_RELEASE_MOUNT_POINT", Default: "/release",
			Check: absolute, Usage: "where the release volume is mounted, here and on the members"},
		{Key: "reach", Env: "EBS_RELEASE_REACH", Default: reachSSH, Check: config.CheckOneOf(reachSSH, reachFollow),
			Usage: "how members hear of a release: by ssh, or each looks by itself (follow)"},
		{Key: "ssh-user", Env: "EBS_RELEASE_SSH_USER",
			Usage: "user to log in as on the members, the owner of the release tree (default: the one who runs this)"},
		{Key: "ssh-key", Env: "EBS_RELEASE_SSH_KEY", Check: absoluteOrEmpty, Usage: "private ssh key, a file (default: ssh's own)"},
		{Key: "signing-key", Env: "EBS_RELEASE_SIGNING_KEY", Default: defaultSigningKey, Check: absolute,
			Usage: "secret key that the pointer is signed with, a file; init makes it"},
		{Key: "agent-path", Env: "EBS_RELEASE_AGENT_PATH", Default: "ebs-release-agent", Usage: "the agent's program on the members"},
		{Key: "parallel", Env: "EBS_RELEASE_PARALLEL", Default: "0", Check: config.CheckInt(0, 1000),
			Usage: "logins and fetches at the same time; one that takes over 5 s no longer counts; 0: 16 per CPU, at most 64"},
		{Key: "member-timeout", Env: "EBS_RELEASE_MEMBER_TIMEOUT", Default: "5m",
			Check: config.CheckDuration, Usage: "how long one step (connect, stage, activate) may take on one member"},
		{Key: "snapshot-deadline", Env: "EBS_RELEASE_SNAPSHOT_DEADLINE", Default: "1h",
			Check: config.CheckDuration, Usage: "how long EBS may take to complete the snapshot"},
		{Key: "snapshot-lag", Env: "EBS_RELEASE_SNAPSHOT_LAG", Default: "24h", Check: config.CheckDuration,
			Usage: "status and doctor warn when the newest named snapshot is behind for longer, or by more than 32 packs"},
		{Key: "converge-deadline", Env: "EBS_RELEASE_CONVERGE_DEADLINE", Default: "10m",
			Check: config.CheckDuration, Usage: "how long it may take from the commit until all members are on the generation"},
		{Key: "settle", Env: "EBS_RELEASE_SETTLE", Default: "5s",
			Check: config.CheckDuration, Usage: "wait at least this long before listing the members a final time"},
		{Key: "max-failures", Env: "EBS_RELEASE_MAX_FAILURES", Check: checkMaxFailures,
			Usage: "stop starting on further members once more than this many have failed, as N or N%: " +
				"exit 3 before the commit, 5 after it (default: go on)"},
		{Key: "hook-timeout", Env: "EBS_RELEASE_HOOK_TIMEOUT", Default: "5m",
			Check: config.CheckDuration, Usage: "how long each program of publish.d and rollout.d, gate and watch may run"},
		{Key: "steps", Env: "EBS_RELEASE_STEPS", Check: checkSteps,
			Usage: "how many members are given a release first, such as 1,10%,50%; all is always the last (default: all at once)"},
		{Key: "at-once", Env: "EBS_RELEASE_AT_ONCE", Default: "0", Check: config.CheckInt(0, 100_000),
			Usage: "with steps: members that may be away at the same time; those that are away already count; 0: a whole step"},
		{Key: "healthy", Env: "EBS_RELEASE_HEALTHY", Default: health.Programs, Check: config.CheckOneOf(health.Kinds()...),
			Usage: "with steps: who says that a member is healthy: its own programs, its group (Auto Scaling), or its target-groups"},
		{Key: "health-timeout", Env: "EBS_RELEASE_HEALTH_TIMEOUT", Default: "10m", Check: config.CheckDuration,
			Usage: "with steps: how long a member that is given the release may take to be on it and healthy, and a step to go forward"},
		{Key: "bake", Env: "EBS_RELEASE_BAKE", Default: "0s", Check: checkPause,
			Usage: "with steps: how long a step has to stay healthy before the next"},
		{Key: "gate", Env: "EBS_RELEASE_GATE", Usage: "with steps: command that is asked after each; exit code 0: go on. sh -c runs it"},
		{Key: "watch", Env: "EBS_RELEASE_WATCH",
			Usage: "with steps: command that is asked before and throughout; as soon as it fails, the release goes back"},
		{Key: "launch-template", Env: "EBS_RELEASE_LAUNCH_TEMPLATE", Check: checkTemplates,
			Usage: "launch templates, ids or names, separated by commas: their default versions follow the pointer's snapshot (default: none)"},
		{Key: "launch-template-device", Env: "EBS_RELEASE_LAUNCH_TEMPLATE_DEVICE",
			Usage: "device name, such as /dev/sdf, of the mapping to change there (default: the one with a snapshot of this store)"},
		{Key: "tags", Env: "EBS_RELEASE_TAGS",
			Check: volume.CheckTags, Usage: "more tags for snapshots and the release volume: KEY=VALUE, separated by commas"},
		{Key: "keep", Env: "EBS_RELEASE_KEEP", Default: "5",
			Check: config.CheckInt(1, 1000), Usage: "releases to keep on the release volume and on members, by committed generations"},
	}
}

// follows says whether members look at the pointer by themselves.
func follows(values config.Values) bool { return values.Get("reach") == reachFollow }

func checkSteps(value string) error {
	_, err := publish.ParseSteps(value)
	return err
}

// checkPause is CheckDuration, but 0 is fine.
func checkPause(value string) error {
	d, err := time.ParseDuration(value)
	if err != nil || d < 0 {
		return errors.New("want a duration such as 2m, or 0s")
	}
	return nil
}

func checkMaxFailures(value string) error {
	_, err := publish.ParseMaxFailures(value)
	return err
}

// parallel is how many members are worked on at the same time. A member takes some 20 ms of a CPU
// here, and works for about half a second there: fewer at a time would leave this server idle, many
// more only make ssh processes wait.
func parallel(values config.Values) int {
	if n := values.Int("parallel"); n > 0 {
		return n
	}
	return min(64, 16*runtime.NumCPU())
}

func absolute(value string) error {
	if !filepath.IsAbs(value) || filepath.Clean(value) != value {
		return errors.New("want an absolute path")
	}
	return nil
}

func checkPlace(value string) error {
	if pointer.InS3(value) {
		return pointer.CheckPlace(value)
	}
	return absoluteOrEmpty(value)
}

func absoluteOrEmpty(value string) error {
	if value == "" {
		return nil
	}
	return absolute(filepath.Clean(value))
}

func (p *program) addSettings(flags *pflag.FlagSet) {
	config.AddFlags(flags, settingsTable())
	flags.StringVar(&p.configFile, "config", defaultConfigFile, "configuration file")
	flags.StringVar(&p.output, "output", cli.Text,
		"format of reports on stdout: text or json; publish, converge and rollback have ndjson, too: events as they happen")
}

// settings resolves them; needed ones that are empty are an error of configuration.
func (p *program) settings(needed ...string) (config.Values, error) {
	values, err := config.Load(settingsTable(), p.configFile, p.root.PersistentFlags(), p.getenv)
	if err != nil {
		return nil, exit.With(exit.Usage, err)
	}
	for _, s := range settingsTable() {
		for _, key := range needed {
			if s.Key == key && values.Get(key) == "" {
				return nil, exit.With(exit.Usage, fmt.Errorf("%s is not set (%s): use --%s, %s or %s", key, s.Usage, key, s.Env, p.configFile))
			}
		}
	}
	return values, nil
}

// sshUser is the name to log in with on members: the owner of the release tree, or the one who
// calls, by sudo as well, as in init.
func sshUser(values config.Values) (string, error) {
	if name := values.Get("ssh-user"); name != "" {
		return name, nil
	}
	if name := os.Getenv("SUDO_USER"); name != "" && os.Geteuid() == 0 {
		return name, nil
	}
	u, err := user.Current()
	if err != nil {
		return "", fmt.Errorf("ssh-user is not set, and who runs this is not known: %w", err)
	}
	return u.Username, nil
}
