package main

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"

	"ebs-release/internal/advice"
	"ebs-release/internal/cli"
	"ebs-release/internal/config"
	"ebs-release/internal/exit"
	"ebs-release/internal/generation"
	"ebs-release/internal/mount"
	"ebs-release/internal/pointer"
	"ebs-release/internal/volume"

	"github.com/spf13/pflag"
)

const defaultConfigFile = "/etc/ebs-release/agent.toml"

// settingsTable is all that can be configured.
func settingsTable() []config.Setting {
	return []config.Setting{
		{Key: "pointer", Env: "EBS_RELEASE_POINTER", Check: checkPointer,
			Usage: "URL of the pointer: release.json, or a line snap-…; or its store, s3://BUCKET/PREFIX"},
		{Key: "trusted-keys", Env: "EBS_RELEASE_TRUSTED_KEYS", Check: checkTrustedKeys,
			Usage: "keys that may sign the pointer: STORE:KEY, separated by commas; without them those on the volume count"},
		{Key: "min-generation", Env: "EBS_RELEASE_MIN_GENERATION", Default: "0", Check: checkLeast,
			Usage: "refuse a pointer of a lower generation; 0: none is refused"},
		{Key: "mount-point", Env: "EBS_RELEASE_MOUNT_POINT", Default: "/release",
			Check: mount.CheckPath, Usage: "where to mount the release volume"},
		{Key: "follow-interval", Env: "EBS_RELEASE_FOLLOW_INTERVAL", Check: checkFollowInterval,
			Usage: "how often follow looks at the pointer (default: 10s, 30s in S3)"},
		{Key: "keep", Env: "EBS_RELEASE_KEEP", Default: "5", Check: config.CheckInt(1, 1000),
			Usage: "releases that a member that follows keeps on its volume, by committed generations"},
		{Key: "ready-timeout", Env: "EBS_RELEASE_READY_TIMEOUT", Default: "60s", Check: config.CheckDuration,
			Usage: "how long the programs of ready.d are asked again, until all succeed"},
		{Key: "launch-hook", Env: "EBS_RELEASE_LAUNCH_HOOK", Check: checkLaunchHook,
			Usage: "name of the group's launch hook, which is completed when this member serves; empty: there is no hook"},
		{Key: "launch-after", Env: "EBS_RELEASE_LAUNCH_AFTER", Check: checkUnit,
			Usage: "unit of the application: the launch hook waits until it is active; empty: it waits for no unit"},
		{Key: "deadline", Env: "EBS_RELEASE_DEADLINE", Default: "6m", Check: config.CheckDuration, Usage: "how long a boot may take"},
		{Key: "tags", Env: "EBS_RELEASE_TAGS", Check: volume.CheckTags, Usage: "more tags for the volume: KEY=VALUE, separated by commas"},
		{
			Key: "volume-type", Env: "EBS_RELEASE_VOLUME_TYPE", Default: "gp3", Check: config.CheckOneOf(volumeTypes()...),
			Usage: "type of the EBS volume",
		},
		{
			Key: "volume-iops", Env: "EBS_RELEASE_VOLUME_IOPS", Default: "0", Check: zeroOr(defaultIOPS, 80000, "IOPS"),
			Usage: "IOPS of a gp3 volume, 3000 to 80000; 0: EBS's own 3000",
		},
		{
			Key: "volume-throughput", Env: "EBS_RELEASE_VOLUME_THROUGHPUT", Default: "0", Check: zeroOr(125, 2000, "MiB/s"),
			Usage: "MiB/s of a gp3 volume, 125 to 2000, at most a quarter of its IOPS; 0: EBS's own 125",
		},
		{
			Key: "initialization-rate", Env: "EBS_RELEASE_INITIALIZATION_RATE", Default: "0", Check: zeroOr(100, 300, "MiB/s"),
			Usage: "MiB/s at which EBS loads the volume ahead of reads, 100 to 300; 0: off",
		},
		{
			Key: "warm", Env: "EBS_RELEASE_WARM", Default: warmBackground, Check: config.CheckOneOf(warmBackground, warmOff),
			Usage: "read all files of the release after a boot, and compare them with the manifest: background, or off",
		},
	}
}

// volumeTypes are those that need no number of IOPS.
func volumeTypes() []string { return []string{"gp3", "gp2", "st1", "sc1", "standard"} }

func checkPointer(value string) error {
	if value == "" {
		return nil // `up` asks for it
	}
	if pointer.InS3(value) {
		return pointer.CheckPlace(value)
	}
	u, err := url.Parse(value)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return errors.New("want a URL such as http://releases.internal/release.json")
	}
	return nil
}

// zeroOr accepts 0, which leaves it to EBS, or a number of the range that CreateVolume has for the
// parameter.
func zeroOr(low, high int, unit string) func(string) error {
	return func(value string) error {
		n, err := strconv.Atoi(value)
		if err != nil || n != 0 && (n < low || n > high) {
			return fmt.Errorf("want 0 (off), or %d to %d (%s)", low, high, unit)
		}
		return nil
	}
}

// A gp3 volume has this many IOPS when none are asked for, and takes a MiB/s for every four: 0.25
// MiB/s per IOPS (CreateVolume, Iops; EBS user guide, "General Purpose SSD volumes"). That a GiB
// takes 500 IOPS, EC2 says: the size is the snapshot's.
const (
	defaultIOPS = 3000
	iopsPerMiB  = 4
)

// checkPerformance refuses what EC2 would refuse at each boot.
func checkPerformance(values config.Values) error {
	kind, iops, throughput := values.Of("volume-type"), values.Of("volume-iops"), values.Of("volume-throughput")
	for _, v := range []config.Value{iops, throughput} {
		if values.Int(v.Key) != 0 && kind.Value != "gp3" {
			return advice.Try(fmt.Errorf("setting %s, which only gp3 takes, and %s", v, kind), "volume-type gp3, or %s 0", v.Key)
		}
	}
	if least := iopsPerMiB * values.Int("volume-throughput"); least > max(values.Int("volume-iops"), defaultIOPS) {
		return advice.Try(fmt.Errorf("setting %s, which needs %d IOPS, and %s", throughput, least, iops), "volume-iops %d", least)
	}
	return nil
}

func (p *program) addSettings(flags *pflag.FlagSet) {
	config.AddFlags(flags, settingsTable())
	flags.StringVar(&p.configFile, "config", defaultConfigFile, "configuration file")
	flags.StringVar(&p.output, "output", cli.Text, "format of reports: text or json")
	flags.BoolVarP(&p.verbose, "verbose", "v", false, "say more on stderr")
}

// settings resolves all settings. A wrong one is the user's error.
func (p *program) settings() (config.Values, error) {
	values, err := config.Load(settingsTable(), p.configFile, p.root.PersistentFlags(), p.getenv)
	if err == nil {
		err = checkPerformance(values)
	}
	return values, exit.With(exit.Usage, err)
}

// bootSettings are the settings of a boot, which needs a pointer.
func (p *program) bootSettings() (config.Values, error) {
	values, err := p.settings()
	if err == nil && values.Get("pointer") == "" {
		err = exit.With(exit.Usage, advice.Try(errors.New("there is no pointer"),
			"set --pointer, EBS_RELEASE_POINTER, or pointer in %s", p.configFile))
	}
	return values, err
}

// checkTrustedKeys checks the setting trusted-keys.
func checkTrustedKeys(value string) error {
	for _, item := range (config.Values{{Key: "", Value: value}}).List("") {
		if err := pointer.CheckTrusted(item); err != nil {
			return err
		}
	}
	return nil
}

// checkLeast checks the setting min-generation.
func checkLeast(value string) error {
	if value == "0" {
		return nil
	}
	if _, err := generation.Parse(value); err != nil {
		return errors.New("want 0 (none), or a generation")
	}
	return nil
}

// volumeRequest is a release volume as the settings want it, but for which instance and of which
// snapshot.
func volumeRequest(values config.Values) volume.Request {
	own, _ := volume.ParseTags(values.Get("tags")) // the table's Check has refused anything else
	return volume.Request{
		Owner: volume.Owner{Role: volume.RoleMember, MountPoint: values.Get("mount-point")}, OwnTags: own,
		Type: values.Get("volume-type"), IOPS: int32(values.Int("volume-iops")), Throughput: int32(values.Int("volume-throughput")),
		Rate: int32(values.Int("initialization-rate")),
	}
}
