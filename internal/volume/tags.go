package volume

import "strconv"

// The tags through which a volume says whose it is and what it holds. EC2's tags are the shared memory of agent and publisher:
// the agent writes them in CreateVolume and again when it reports, the publisher after it activated a release on a member.
const (
	TagName       = "Name"
	TagRole       = "ebs-release:role"        // RoleMember, RoleServer; on a snapshot RoleRelease
	TagInstance   = "ebs-release:instance"    // the instance that the volume was made for
	TagMountPoint = "ebs-release:mount-point" // where it is mounted there
	TagGeneration = "ebs-release:generation"  // the generation that it holds
	TagRelease    = "ebs-release:release"     // the release that is current on it
	TagState      = "ebs-release:state"       // StateBooting, StateReady, StateLeft
	TagStore      = "ebs-release:store"       // the store whose releases it holds: on the release volume, its snapshots and members' volumes
	TagHostKey    = "ebs-release:host-key"    // the member's ssh host key: "ssh-ed25519 AAAA…"
)

// Values of TagRole and TagState.
const (
	RoleMember   = "member"  // made from a snapshot by an agent: cattle
	RoleServer   = "server"  // the release server's own volume, made by init: never deleted by us
	RoleRelease  = "release" // a snapshot that publish made
	StateBooting = "booting" // from CreateVolume on
	StateReady   = "ready"   // reported by the agent, before its last look at the pointer
	StateLeft    = "left"    // of no use to its instance, whose agent could not remove it: it speaks for nobody, and gc removes it when it is detached
)

// MaxGeneration is above every generation: JSON readers hold whole numbers exactly up to here, and nobody publishes that often.
const MaxGeneration = 1 << 53

// ParseGeneration reads the value of TagGeneration. Whoever may tag a volume can write anything there: what is no generation is 0 and not ok.
func ParseGeneration(tag string) (generation int64, ok bool) {
	generation, err := strconv.ParseInt(tag, 10, 64)
	if err != nil || generation < 0 || generation >= MaxGeneration {
		return 0, false
	}
	return generation, true
}
