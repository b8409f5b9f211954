package volume

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"ebs-release/internal/generation"
	"ebs-release/internal/manifest"
)

// The tags through which a volume (or for one that EC2 brought its instance) says whose it is and
// what it holds. EC2's tags are the shared memory of agent and publisher: the agent writes them in
// CreateVolume and again when it reports, the publisher after it activated a release on a member.
const (
	TagName       = "Name"
	TagRole       = "ebs-release:role"        // RoleMember, RoleServer; on a snapshot RoleRelease
	TagInstance   = "ebs-release:instance"    // the instance that the volume was made for
	TagMountPoint = "ebs-release:mount-point" // where it is mounted there
	TagGeneration = "ebs-release:generation"  // the generation that it holds
	TagRelease    = "ebs-release:release"     // the release that is current on it
	TagDigest     = "ebs-release:digest"      // on a snapshot: of that release's manifest
	TagTry        = "ebs-release:try"         // on a snapshot: the one request that made it
	TagCommitted  = "ebs-release:committed"   // Committed, on a snapshot that was asked for after the commit of its generation
	TagState      = "ebs-release:state"       // StateBooting, StateReady, StateHookFailed, StateLeft
	TagStore      = "ebs-release:store"       // the store whose releases it holds: on the release volume, its snapshots and members' volumes
	TagVolume     = "ebs-release:volume"      // on an instance whose volume EC2 brought: what the report there is about
	TagHostKey    = "ebs-release:host-key"    // the member's ssh host key: "ssh-ed25519 AAAA…"
	TagVerified   = "ebs-release:verified"    // what came of reading all files of a release on a member: report.ParseTag
	TagTrouble    = "ebs-release:trouble"     // Trouble of a member that follows
)

// Values of TagRole, TagCommitted and TagState.
const (
	RoleMember   = "member"  // made from a snapshot by an agent; deleted with its instance
	RoleServer   = "server"  // the release server's own volume, made by init: never deleted by us
	RoleRelease  = "release" // a snapshot that publish made
	Committed    = "yes"
	StateBooting = "booting" // from CreateVolume on
	StateReady   = "ready"   // reported by the agent, before its last look at the pointer

	// StateLeft: of no use to its instance, whose agent could not remove it. It speaks for nobody,
	// and gc removes it when it is detached.
	StateLeft = "left"

	// StateHookFailed: ready, but for what it holds a program of activate.d has not succeeded
	// (yet). By the publisher after an activation, or by the agent.
	StateHookFailed = "hook-failed"
)

// ParseRelease reads the value of TagRelease: "" when it is no release id.
func ParseRelease(tag string) string {
	if !manifest.ValidID(tag) {
		return ""
	}
	return tag
}

var storeID = regexp.MustCompile(`^[0-9a-f]{16}$`)

// ParseStore reads the value of TagStore: "" when it is no id of a store.
func ParseStore(tag string) string {
	if !storeID.MatchString(tag) {
		return ""
	}
	return tag
}

// ParseState reads the value of TagState: "" when it is none of ours.
func ParseState(tag string) string {
	if tag != StateBooting && tag != StateLeft && !Serves(tag) {
		return ""
	}
	return tag
}

// Serves says whether the boot of a member with this state is over: a release is mounted there.
func Serves(state string) bool { return state == StateReady || state == StateHookFailed }

// ParseGeneration reads the value of TagGeneration. Whoever may tag a volume can write anything
// there: what is no generation is 0 and not ok. "0" is ok: an agent writes it when its pointer is a
// plain snapshot id.
func ParseGeneration(tag string) (n int64, ok bool) {
	if tag == "0" {
		return 0, true
	}
	n, err := generation.Parse(tag)
	if err != nil {
		return 0, false
	}
	return n, true
}

// Limits on tags (EC2 User Guide, "Tag restrictions"): 50 on a resource, of which ours need some.
const (
	maxOwnTags  = 40
	maxTagKey   = 128 // characters
	maxTagValue = 256
)

// ParseTags reads the setting `tags`, KEY=VALUE,…: tags of the account's own (for costs, or because
// a policy of the organization demands them), which every volume and snapshot gets in the call that
// makes it. A value may be empty; a comma cannot be part of one.
func ParseTags(setting string) (map[string]string, error) {
	tags := map[string]string{}
	for pair := range strings.SplitSeq(setting, ",") {
		if pair = strings.TrimSpace(pair); pair == "" {
			continue
		}
		key, value, found := strings.Cut(pair, "=")
		lower := strings.ToLower(key)
		switch _, twice := tags[key]; {
		case !found || key == "":
			return nil, fmt.Errorf("%q is not KEY=VALUE", pair)
		case strings.HasPrefix(lower, "aws:"), strings.HasPrefix(lower, "ebs-release:"):
			return nil, fmt.Errorf("the key %q is reserved: keys that begin with aws: are AWS's, with ebs-release: ours", key)
		case looksLikeOurs(key):
			return nil, fmt.Errorf("the key %q looks like one of ebs-release's, and the members' policy refuses those: use another", key)
		case utf8.RuneCountInString(key) > maxTagKey, utf8.RuneCountInString(value) > maxTagValue:
			return nil, fmt.Errorf("%q is too long: EC2 takes %d characters in a key and %d in a value", key, maxTagKey, maxTagValue)
		case twice:
			return nil, fmt.Errorf("the key %q is there twice", key)
		}
		tags[key] = value
	}
	if len(tags) > maxOwnTags {
		return nil, errors.New("more than " + strconv.Itoa(maxOwnTags) + " tags: EC2 takes 50 on a resource, and ours need room")
	}
	return tags, nil
}

// looksLikeOurs says whether the statement OneSpellingOfOurTags of packaging/iam/*.json refuses the
// key: it denies what has the shape of our prefix and a capital letter of it in its place.
func looksLikeOurs(key string) bool {
	const prefix, dash, colon = "ebs-release:", 3, 11
	if len(key) < len(prefix) || key[dash] != '-' || key[colon] != ':' {
		return false
	}
	for i, r := range strings.ToUpper(prefix) {
		if i != dash && i != colon && key[i] == byte(r) {
			return true
		}
	}
	return false
}

// CheckTags accepts what ParseTags can read.
func CheckTags(setting string) error {
	_, err := ParseTags(setting)
	return err
}
