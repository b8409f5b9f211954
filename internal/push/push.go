// Package push carries a release to members: one ssh connection per member, and its agent on the
// far side, which gets what changed and nothing else. OpenSSH is used as a program; every word of
// the remote command is fixed here or checked, so no shell needs quoting.
package push

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"ebs-release/internal/gc"
	"ebs-release/internal/manifest"
	"ebs-release/internal/push/wire"
	"ebs-release/internal/release"
)

// What can be wrong with a member. Each comes wrapped, with the member and what was said.
var (
	ErrNoHostKey = errors.New("its agent has not reported an ssh host key yet")
	ErrHostKey   = errors.New("it shows another ssh host key than its agent reported: another machine may have its address now, " +
		"or its key was changed (`ebs-release-agent up` on it reports the new one)")
	ErrLogin       = errors.New("ssh login refused")
	ErrUnreachable = errors.New("not reachable by ssh")
	ErrLost        = errors.New("ssh connection lost")
	ErrNoAgent     = errors.New("ebs-release-agent cannot be run there")
	ErrNoSpace     = errors.New("its disk is full")
	ErrNotReady    = errors.New("it is still booting")
	ErrFenced      = errors.New("it refuses: a newer generation is active there")
)

// Target is a member: where it is, and how it proves to be the right one.
type Target struct {
	InstanceID string
	Address    string // of the instance, private
	HostKey    string // as its agent reported it: "ssh-ed25519 AAAA…"
}

// Options are the same for all members.
type Options struct {
	User            string        // who the tree belongs to on the members
	KeyFile         string        // private key; "": the keys and the agent that ssh finds by itself
	Port            int           // 0: 22
	AgentPath       string        // of ebs-release-agent on the members; "": found by their PATH
	ConnectTimeout  time.Duration // for TCP, key exchange and host key; 0: 10 s
	GreetingTimeout time.Duration // until the agent says its first line; 0: ConnectTimeout and 30 s
	Parcels         *Parcels      // shared by all sessions of a publish; nil: each session works out its own
}

const (
	defaultPort           = 22
	defaultAgent          = "ebs-release-agent"
	defaultConnectTimeout = 10 * time.Second
	defaultGreetingTime   = 30 * time.Second // for the login, the far shell's profile and the start of the agent, after the connection
)

var (
	instanceID = regexp.MustCompile(`^i-[0-9a-f]{8,17}$`)
	address    = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z.:-]*$`)
	userName   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)
	hostKey    = regexp.MustCompile(`^(?:ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(?:256|384|521)) [A-Za-z0-9+/]+={0,3}$`)
	plainPath  = regexp.MustCompile(`^[A-Za-z0-9_./-]+$`)
)

// complete fills the defaults in and checks all that becomes part of a command or of ssh's
// configuration.
func (o Options) complete() (Options, error) {
	if o.Port == 0 {
		o.Port = defaultPort
	}
	if o.AgentPath == "" {
		o.AgentPath = defaultAgent
	}
	if o.ConnectTimeout == 0 {
		o.ConnectTimeout = defaultConnectTimeout
	}
	if o.GreetingTimeout == 0 {
		o.GreetingTimeout = o.ConnectTimeout + defaultGreetingTime
	}
	if o.Parcels == nil {
		o.Parcels = NewParcels()
	}
	switch {
	case !userName.MatchString(o.User):
		return o, fmt.Errorf("ssh user %q is not a user name", o.User)
	case !plainPath.MatchString(o.AgentPath) || strings.HasPrefix(o.AgentPath, "-"):
		return o, fmt.Errorf("path of the agent %q: want letters, digits and ./_- only", o.AgentPath)
	case o.Port < 0 || o.Port > 65535:
		return o, fmt.Errorf("ssh port %d", o.Port)
	}
	if o.KeyFile != "" {
		file, err := os.Open(o.KeyFile)
		if err != nil {
			return o, fmt.Errorf("ssh key: %w", err)
		}
		_ = file.Close()
		if o.KeyFile, err = filepath.Abs(o.KeyFile); err != nil {
			return o, fmt.Errorf("ssh key: %w", err)
		}
	}
	return o, nil
}

// check refuses a member that could not be told from another machine.
func (t *Target) check() error {
	// A comment may come behind the key.
	if fields := strings.Fields(t.HostKey); len(fields) > 2 {
		t.HostKey = strings.Join(fields[:2], " ")
	}
	switch {
	case !instanceID.MatchString(t.InstanceID):
		return fmt.Errorf("%q is not an instance id", t.InstanceID)
	case t.Address == "":
		return fmt.Errorf("%w: EC2 tells no address of it", ErrUnreachable)
	case !address.MatchString(t.Address):
		return fmt.Errorf("%q is not an address", t.Address)
	case t.HostKey == "":
		return ErrNoHostKey
	case !hostKey.MatchString(t.HostKey):
		return fmt.Errorf("%w: %.40q is none", ErrNoHostKey, t.HostKey)
	}
	return nil
}

// Sent is what went to a member.
type Sent struct {
	Files int
	Bytes int64 // on the connection, before ssh's encryption: files and delta
}

// Stage brings a release to the member, whole and verified, not active. base is the release that
// the member is known to hold, "" for none. If it does not have it, the newest release that both
// sides have is the base, and without one all is sent. wanted is what the member is to keep
// besides.
func (s *Session) Stage(ctx context.Context, from *release.Volume, id, digest, base string, wanted gc.Wanted) (Sent, error) {
	var sent Sent
	if !manifest.ValidID(id) || !manifest.ValidDigest(digest) {
		return sent, fmt.Errorf("stage %q: not a release", id)
	}
	tried := map[string]bool{}
	for {
		parcel, err := s.options.Parcels.get(from, id, base)
		if err != nil && base != "" {
			// Nobody needs the base: pruned on this side, for example.
			tried[base], base = true, ""
			continue
		}
		if err != nil {
			return sent, err
		}
		tried[base] = true
		answer, err := s.stage(ctx, parcel, digest, base, wanted)
		if err != nil {
			return sent, s.failed("stage "+id, err)
		}
		sent.Bytes += int64(len(parcel.Delta))
		switch answer.State {
		case release.Present:
			return sent, nil
		case release.NeedBase:
			if base == "" {
				return sent, s.failed("stage "+id, fmt.Errorf("it asks for a base when it needs none: %s", answer.Reason))
			}
			base = s.choose(from, answer.Releases, tried)
			continue
		case release.Staged:
		default:
			return sent, s.failed("stage "+id, fmt.Errorf("its agent answers %q", answer.State))
		}
		if answer.Files != len(parcel.Missing) {
			return sent, s.failed("stage "+id, fmt.Errorf("its agent misses %d files, by the manifests it is %d", answer.Files, len(parcel.Missing)))
		}
		more, err := from.Files(id, answer.More)
		if err != nil {
			return sent, s.failed("stage "+id, fmt.Errorf("its agent asks for more: %w", err))
		}
		size := parcel.size + release.StreamSize(more)
		var done wire.Done
		err = s.ask(ctx, wire.Request{Do: wire.Files, Release: id, Bytes: size}, func(w io.Writer) error {
			if err := parcel.send(ctx, w); err != nil || len(more) == 0 {
				return err
			}
			return from.Send(ctx, w, id, more)
		}, &done)
		if err == nil && done.State != wire.StatePresent {
			err = fmt.Errorf("its agent answers %q", done.State)
		}
		if err != nil {
			return sent, s.failed("send "+id, err)
		}
		sent.Files += len(parcel.Missing) + len(more)
		sent.Bytes += size
		return sent, nil
	}
}

func (s *Session) stage(ctx context.Context, p *parcel, digest, base string, wanted gc.Wanted) (answer wire.Staged, err error) {
	err = s.ask(ctx, wire.Request{
		Do: wire.Stage, Release: p.id, Digest: digest, Base: base,
		Bytes: int64(len(p.Delta)), More: true, Keep: wanted.Keep, Committed: latest(wanted),
	}, func(w io.Writer) error {
		_, err := w.Write(p.Delta)
		return err
	}, &answer)
	return answer, err
}

// choose takes the newest release that both sides hold.
func (s *Session) choose(from *release.Volume, held []release.Held, tried map[string]bool) string {
	base := ""
	for _, h := range held {
		if tried[h.ID] || h.ID <= base {
			continue
		}
		if digest, err := s.options.Parcels.digest(from, h.ID); err == nil && digest == h.Digest {
			base = h.ID
		}
	}
	return base
}

// latest are the releases that the member needs to know of.
func latest(w gc.Wanted) []string { return w.Committed[:min(len(w.Committed), max(w.Keep, 2))] } // 2: what a rollback needs is among them

// Activate makes a staged release the current one on the member, which then removes what is not
// wanted any more. A *HookError says that it is, but that a program there failed.
func (s *Session) Activate(ctx context.Context, id, digest string, generation int64, wanted gc.Wanted) error {
	if !manifest.ValidID(id) || !manifest.ValidDigest(digest) {
		return fmt.Errorf("activate %q: not a release", id)
	}
	var answer wire.Activated
	err := s.ask(ctx, wire.Request{
		Do: wire.Activate, Release: id, Digest: digest, Generation: generation, Keep: wanted.Keep, Committed: latest(wanted),
	}, nil, &answer)
	switch {
	case err != nil:
	case answer.State != wire.StateActive:
		err = fmt.Errorf("its agent answers %q", answer.State)
	case answer.Hook != nil:
		err = (*HookError)(answer.Hook)
	}
	if err != nil {
		return s.failed(fmt.Sprintf("activate generation %d", generation), err)
	}
	return nil
}

func (s *Session) failed(what string, err error) error {
	return fmt.Errorf("%s on %s (%s): %w", what, s.target.InstanceID, s.target.Address, err)
}
