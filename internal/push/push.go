// Package push tells members which release to have: one ssh connection per member, and its agent on
// the far side, which fetches what changed from the store. Only words travel here (wire). The far
// side is `ebs-release-agent receive`: package receive.
//
// OpenSSH is used as a program; every word of the remote command is fixed here or checked, so no
// shell needs quoting.
package push

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"ebs-release/internal/gc"
	"ebs-release/internal/manifest"
	"ebs-release/internal/pointer"
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
	ErrRefused     = errors.New("a program there refuses the release")
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

// Desired is the release that a member is to have, and how it gets there.
type Desired struct {
	pointer.Pointer           // the generation, its release, its digest, its store, the packs that lead there, the keys
	PackKey         string    // opens the packs; secret
	Whole           []byte    // the signed pointer, while it has a rollout: the member checks that this is its own; nil: none
	Wanted          gc.Wanted // what the member is to keep besides
}

// Fetched is what a member fetched from the store.
type Fetched struct {
	Packs int
	Bytes int64
}

// NoWayError says that no pack that was named leads a member to a release from what it holds.
type NoWayError struct {
	Held   []release.Held // what a pack can start from
	Reason string         // what the member said
}

func (e *NoWayError) Error() string { return e.Reason }

// Stage has the member fetch a release, whole and verified, which does not become active.
// *NoWayError: another pack would do.
func (s *Session) Stage(ctx context.Context, to Desired) (Fetched, error) {
	q, err := to.request(wire.Stage)
	if err != nil {
		return Fetched{}, err
	}
	q.Edges = to.Edges
	var answer wire.Staged
	if err = s.ask(ctx, q, &answer); err == nil {
		switch answer.State {
		case wire.StatePresent:
		case wire.StateNoWay:
			err = &NoWayError{answer.Held, answer.Reason}
		default:
			err = fmt.Errorf("its agent answers %q", answer.State)
		}
	}
	if err != nil {
		return Fetched{}, s.failed("stage "+to.Release, err)
	}
	return Fetched{answer.Packs, answer.Bytes}, nil
}

// Activate makes a staged release the current one on the member, which then removes what is not
// wanted any more. A *HookError says that it is, but that a program there failed.
func (s *Session) Activate(ctx context.Context, to Desired) error {
	q, err := to.request(wire.Activate)
	if err != nil {
		return err
	}
	var answer wire.Activated
	err = s.ask(ctx, q, &answer)
	switch {
	case err != nil:
	case answer.State != wire.StateActive:
		err = fmt.Errorf("its agent answers %q", answer.State)
	case answer.Hook != nil:
		err = (*HookError)(answer.Hook)
	}
	if err != nil {
		return s.failed(fmt.Sprintf("activate generation %d", to.Generation), err)
	}
	return nil
}

func (to Desired) request(do string) (wire.Request, error) {
	if !manifest.ValidID(to.Release) || !manifest.ValidDigest(to.Digest) {
		return wire.Request{}, fmt.Errorf("%s %q: not a release", do, to.Release)
	}
	return wire.Request{
		Do: do, Release: to.Release, Digest: to.Digest, Generation: to.Generation, Store: to.Store,
		Keys: to.Keys, PackKey: to.PackKey, Keep: to.Wanted.Keep, Committed: latest(to.Wanted), Pointer: string(to.Whole),
	}, nil
}

// latest are the releases that the member needs to know of.
func latest(w gc.Wanted) []string { return w.Committed[:min(len(w.Committed), max(w.Keep, 2))] } // 2: what a rollback needs is among them

func (s *Session) failed(what string, err error) error {
	return fmt.Errorf("%s on %s (%s): %w", what, s.target.InstanceID, s.target.Address, err)
}
