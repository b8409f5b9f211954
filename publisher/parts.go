package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"sync"

	"ebs-release/internal/catchup"
	"ebs-release/internal/config"
	"ebs-release/internal/exit"
	"ebs-release/internal/fleet"
	"ebs-release/internal/freeze"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
	"ebs-release/internal/publish/checks"
	"ebs-release/internal/push"
	"ebs-release/internal/release"
	"ebs-release/internal/server"
	"ebs-release/internal/snapshot"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"golang.org/x/sys/unix"
)

// job is what one run of a verb is to do.
type job struct {
	verb         string // publish, rollback, converge, …: for the history
	source       string // of a publish
	message      string // for the pointer; may be empty
	ifGeneration *int64 // see publish.Settings
	above        int64  // the same
	all          bool   // --all of a dry run
	full         bool   // of a publish: SOURCE is read as if nothing were known of it
	force        bool   // the same
	noRollback   bool   // of a rollout: it pauses
	snapshot     publish.AfterSnapshot
}

// parts are what publish.Publisher works with, the real ones: each of its small interfaces is
// filled in here (assemble), by the types of this file, of members.go, releasevolume.go,
// snapshots.go and the like.
type parts struct {
	*publish.Publisher
	values    config.Values
	checks    checks.Checks
	store     *pointer.Store
	volume    *releaseVolume
	signs     server.Signing
	maker     *snapshot.Maker
	ec2       *ec2.Client
	members   members
	templates templates
	dialer    dialer
}

// newParts puts the real parts together.
func newParts(ctx context.Context, values config.Values, configFile string, j job) (*parts, error) {
	return assemble(ctx, values, configFile, j, later(ctx))
}

func assemble(ctx context.Context, values config.Values, configFile string, j job, load func() (aws.Config, error)) (*parts, error) {
	mountPoint := values.Get("mount-point")
	load = sync.OnceValues(load)
	store, err := openStore(ctx, values.Get("pointer-store"), load)
	if err != nil {
		return nil, err
	}
	user, err := sshUser(values)
	if err != nil {
		return nil, exit.With(exit.Usage, err)
	}
	cfg, err := load() // after all that can be wrong here: EC2 may take its time
	if err != nil {
		return nil, err
	}
	who, err := whoAmI()
	if err != nil {
		return nil, err
	}
	opened := &releaseVolume{point: mountPoint, packs: store.Objects(), full: j.full}
	signs := sign(store, opened, values.Get("signing-key"))
	api := ec2.NewFromConfig(cfg)
	own, err := volume.ParseTags(values.Get("tags"))
	if err != nil {
		return nil, exit.With(exit.Usage, err)
	}
	maker := &snapshot.Maker{EC2: api, OwnTags: own, Holder: holder(mountPoint, needed(values, configFile))}
	volumes := volume.New(api, volume.DefaultTiming(), slog.New(slog.DiscardHandler))
	p := &parts{
		values: values, store: store, volume: opened, signs: signs, maker: maker, ec2: api,
		members: newMembers(cfg, values.List("groups"), store), templates: templatesOf(cfg, values),
		checks: checks.Checks{
			Source: j.source, MountPoint: mountPoint, PointerStore: values.Get("pointer-store"), SSHKey: values.Get("ssh-key"),
			Follows: follows(values), Store: store, Volume: opened, Signs: signs, EC2: api, Volumes: volumes, Maker: maker,
		},
		dialer: dialer{
			push.Options{User: user, KeyFile: values.Get("ssh-key"), AgentPath: values.Get("agent-path")},
			sync.OnceValues(func() (string, error) { return with(opened, (*release.Volume).PackKey) }),
		},
	}
	maxFailures, err := publish.ParseMaxFailures(values.Get("max-failures"))
	if err != nil {
		return nil, exit.With(exit.Usage, err)
	}
	steps, err := publish.ParseSteps(values.Get("steps"))
	if err != nil {
		return nil, exit.With(exit.Usage, err)
	}
	p.Publisher = &publish.Publisher{
		Checks: p0(p.checks, j.verb), Store: store, Tree: opened, Fleet: p.members,
		Snapshots: &snapshots{maker: maker, volume: opened, since: signs.Since},
		Hooks:     hooks{hooksFolder, values.Duration("hook-timeout"), mountPoint},
		Settings: publish.Settings{
			Who: who, Message: j.message, Region: cfg.Region, IfGeneration: j.ifGeneration, Above: j.above, Force: j.force,
			Keep: values.Int("keep"), Parallel: parallel(values), MemberTimeout: values.Duration("member-timeout"),
			Snapshot: j.snapshot, SnapshotDeadline: values.Duration("snapshot-deadline"),
			ConvergeDeadline: values.Duration("converge-deadline"), Settle: values.Duration("settle"),
			MaxFailures: maxFailures, OpenFiles: openFiles(), Steps: steps, Terms: termsOf(values, j),
		},
		Health: healthOf(cfg, values.List("groups")),
		Asks:   asks{values.Duration("hook-timeout"), rolloutFolder},
	}
	if len(p.templates.keeper.Templates) > 0 {
		p.Templates = p.templates
	}
	if !follows(values) {
		p.Dialer = p.dialer
	}
	p.Packs = packs{opened, store, !pointer.InS3(values.Get("pointer-store"))}
	p.Keys = p.signs.Public()
	p.Claim = p.claim
	if j.verb == verbConverge {
		p.Snapshots = &snapshots{maker: maker, volume: opened, since: signs.Since, check: func(ctx context.Context) error {
			return publish.TryAll(ctx, p.checks.ForSnapshot())
		}}
	}
	return p, nil
}

// p0 are the checks of a verb.
func p0(c checks.Checks, verb string) []publish.Check {
	switch {
	case verb == verbPublish:
		return c.ForPublish()
	case verb == verbConverge:
		return c.ForConverge()
	case verb == verbSnapshot:
		return c.ForSnapshot()
	case isRolloutVerb(verb):
		return c.ForRollout()
	}
	return c.ForRollback()
}

// warn tells the one who waits for a publish something that does not stop it.
func (p *parts) warn(phase, text string) {
	if p.Talk != nil {
		p.Talk(publish.Event{Phase: phase, Kind: publish.KindWarning, Text: text})
	}
}

// needed is what a publish reads or writes while the release volume is frozen.
func needed(values config.Values, configFile string) []freeze.Place {
	home, _ := os.UserHomeDir() // without one there are no files in it
	places := []freeze.Place{
		{What: "the ssh key", Path: values.Get("ssh-key")},
		{What: "the signing key", Path: values.Get("signing-key")},
		{What: "the configuration", Path: configFile},
		{What: "the home directory", Path: home},
	}
	if at := values.Get("pointer-store"); !pointer.InS3(at) {
		places = append(places, freeze.Place{What: "the pointer store", Path: at})
	}
	for _, env := range []string{"AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CA_BUNDLE"} {
		places = append(places, freeze.Place{What: "the file of $" + env, Path: os.Getenv(env)})
	}
	if home != "" {
		places = append(places, freeze.Place{What: "the AWS credentials", Path: filepath.Join(home, ".aws")})
	}
	return places
}

// whoAmI is user@host, for the lock and the pointer. Under sudo it is the one who called it.
func whoAmI() (string, error) {
	host, err := os.Hostname()
	if err != nil {
		return "", err
	}
	if name := os.Getenv("SUDO_USER"); name != "" {
		return name + "@" + host, nil
	}
	me, err := user.Current()
	if err != nil {
		return "", fmt.Errorf("who runs this: %w", err)
	}
	return me.Username + "@" + host, nil
}

// packs is publish.Packs. A store that anybody on the network can read gets them encrypted.
type packs struct {
	volume *releaseVolume
	store  *pointer.Store
	secret bool
}

func (p packs) Make(ctx context.Context, from, to string) (pointer.Edge, error) {
	return with(p.volume, func(v *release.Volume) (pointer.Edge, error) {
		return catchup.Make(ctx, v, p.store.Objects(), from, to, p.secret)
	})
}

// dialer is publish.Dialer.
type dialer struct {
	options push.Options
	packKey func() (string, error)
}

func (d dialer) Dial(ctx context.Context, m fleet.Member) (publish.Session, error) {
	s, err := d.open(ctx, m)
	if err != nil {
		return nil, err // not a nil session in a Session
	}
	return s, nil
}

func (d dialer) open(ctx context.Context, m fleet.Member) (*session, error) {
	// push wants a context for the life of the session; ctx is for opening it.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, end)
	s, err := push.Open(life, push.Target{InstanceID: m.InstanceID, Address: m.Address, HostKey: m.HostKey}, d.options)
	inTime := stop()
	if err == nil && !inTime {
		err = errors.Join(ctx.Err(), s.Close())
	}
	if err != nil {
		end()
		return nil, err
	}
	return &session{s, d.packKey, end}, nil
}

// session is publish.Session: a push session that knows what opens the packs.
type session struct {
	*push.Session
	packKey func() (string, error)
	end     context.CancelFunc
}

func (s *session) Stage(ctx context.Context, to push.Desired) (push.Fetched, error) {
	var err error
	if to.PackKey, err = s.packKey(); err != nil {
		return push.Fetched{}, err
	}
	return s.Session.Stage(ctx, to)
}

func (s *session) Activate(ctx context.Context, to push.Desired) error {
	var err error
	if to.PackKey, err = s.packKey(); err != nil {
		return err
	}
	return s.Session.Activate(ctx, to)
}

func (s *session) Close() error {
	defer s.end()
	return s.Session.Close()
}

// openFiles is the hard limit of open files, which Go's runtime makes the soft one of this process;
// 0: not known.
func openFiles() uint64 {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return 0
	}
	return limit.Max
}
