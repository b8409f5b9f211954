package pointer

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"ebs-release/internal/generation"
	"ebs-release/internal/manifest"
)

// Rollout is a release that a growing share of the members is given. The others stay on the
// pointer's own release, the stable one, and so does an agent that does not know rollouts. Nothing
// else of the pointer is the new release's: its snapshots are of the stable one or older.
type Rollout struct {
	Held                    // the new release; its generation is above the pointer's
	All   bool              `json:"all,omitempty"`   // every member is given it, known or not
	Share map[string]string `json:"share,omitempty"` // zone -> the highest place in it that is given it; see Place
	Steps []Step            `json:"steps"`           // the last one is all
	Step  int               `json:"step"`            // the one that it is at, from 0

	By      string    `json:"by"`    // who drives it
	Until   time.Time `json:"until"` // by when its driver has written again; later, anybody takes it over
	Began   time.Time `json:"began"` // the first step
	Message string    `json:"message,omitempty"`
	Paused  string    `json:"paused,omitempty"` // why it does not go on by itself; "": it does
	Terms   Terms     `json:"terms"`

	Lost map[string]string `json:"lost,omitempty"` // members that the release has cost, and how: they are in no listing any more
}

// MostLost is how many members a pointer names as lost: a rollout is rarely one that may lose more.
const MostLost = 100

// mostLoss is for what is said of one of them.
const mostLoss = 512 // bytes

// Terms are on what a rollout goes on, for whoever drives it next.
type Terms struct {
	AtOnce        int           `json:"at_once,omitempty"`        // members that are given it at the same time; 0: the whole step
	Bake          time.Duration `json:"bake,omitempty"`           // ns that a step has to stay good
	Healthy       string        `json:"healthy,omitempty"`        // programs, group or target-groups
	Gate          string        `json:"gate,omitempty"`           // the command that is asked after each step
	Watch         string        `json:"watch,omitempty"`          // the command that is asked throughout
	NoRollback    bool          `json:"no_rollback,omitempty"`    // it pauses where it would go back
	HealthTimeout time.Duration `json:"health_timeout,omitempty"` // ns in which a member that was given it has to be healthy
}

// Step is how many members have the new release at its end: a number, or a share of them.
type Step struct {
	Members int // 0: Percent
	Percent int // 1 to 100; 100: all
}

// MostSteps is how many steps a rollout has at most, with the last one.
const MostSteps = 20

const (
	mostZones = 64
	mostText  = 4 << 10 // bytes of one text of a rollout; a message has the same bound
)

var (
	place    = regexp.MustCompile(`^[0-9a-f]{16}$`)
	zoneName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,63}$`)
)

// ParseStep reads a step: 3, 10% or all.
func ParseStep(text string) (Step, error) {
	number, percent := strings.CutSuffix(text, "%")
	n, err := strconv.Atoi(number)
	switch {
	case text == "all":
		return Step{Percent: 100}, nil
	case err != nil, n < 1, percent && n > 100:
		return Step{}, fmt.Errorf("%q is no step of a rollout, want a number of members, a share such as 10%%, or all", text)
	case percent:
		return Step{Percent: n}, nil
	}
	return Step{Members: n}, nil
}

func (s Step) String() string {
	switch {
	case s.Members > 0:
		return strconv.Itoa(s.Members)
	case s.Percent == 100:
		return "all"
	}
	return strconv.Itoa(s.Percent) + "%"
}

// MarshalText is String.
func (s Step) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is ParseStep.
func (s *Step) UnmarshalText(text []byte) (err error) {
	*s, err = ParseStep(string(text))
	return err
}

// Of is how many of so many members the step is: a share is rounded up, and one is the least.
func (s Step) Of(members int) int {
	if s.Members > 0 {
		return min(s.Members, members)
	}
	return (members*s.Percent + 99) / 100
}

// Instance is who a pointer is read for: id and availability zone, as EC2 says both.
type Instance struct{ ID, Zone string }

// For is the pointer as it counts for one instance: its generation, release and digest are what
// that instance should be on. It is the only place that decides who has the new release. The
// snapshots stay, and Holds says of what they are.
func (p Pointer) For(who Instance) Pointer {
	r := p.Rollout
	if r == nil {
		return p
	}
	p.Rollout = nil
	if !r.Includes(who) {
		return p
	}
	holds := p.Holds()
	p.SnapshotOf = &holds
	p.Generation, p.Release, p.Digest = r.Generation, r.Release, r.Digest
	return p
}

// Includes says whether an instance is given the new release.
func (r Rollout) Includes(who Instance) bool {
	most, ok := r.Share[who.Zone]
	return r.All || ok && r.Place(who) <= most
}

// Place is where an instance stands in the order of its zone: 16 hex digits, evenly spread, and
// another order for another release.
func (r Rollout) Place(who Instance) string {
	sum := sha256.Sum256([]byte(r.Digest + "\n" + who.ID))
	return hex.EncodeToString(sum[:8])
}

// Raised is the rollout with so many of the members in its share, at least: whoever is in it stays.
// Each further one is of the zone with the smallest part of its members in.
func (r Rollout) Raised(members []Instance, want int) Rollout {
	type zone struct {
		name   string
		out    []Instance // in the order of their places
		in, of int
	}
	zones := map[string]*zone{}
	have := 0
	for _, m := range members {
		z := zones[m.Zone]
		if z == nil {
			z = &zone{name: m.Zone}
			zones[m.Zone] = z
		}
		z.of++
		if r.Includes(m) {
			z.in++
			have++
		} else {
			z.out = append(z.out, m)
		}
	}
	r.Share = maps.Clone(r.Share)
	if r.Share == nil {
		r.Share = map[string]string{}
	}
	for _, z := range zones {
		slices.SortFunc(z.out, func(a, b Instance) int { return strings.Compare(r.Place(a), r.Place(b)) })
	}
	for ; have < want; have++ {
		var next *zone
		for _, name := range slices.Sorted(maps.Keys(zones)) {
			if z := zones[name]; len(z.out) > 0 && (next == nil || z.in*next.of < next.in*z.of) {
				next = z
			}
		}
		if next == nil {
			break
		}
		r.Share[next.name] = r.Place(next.out[0])
		next.out = next.out[1:]
		next.in++
	}
	return r
}

func (r Rollout) validate(stable Pointer) error {
	switch {
	case stable.Schema != Signed:
		return errors.New("it has a rollout, and is not signed")
	case generation.Check(r.Generation) != nil, r.Generation <= stable.Generation:
		return fmt.Errorf("a rollout of generation %d, while %d is the stable one", r.Generation, stable.Generation)
	case !manifest.ValidID(r.Release), !manifest.ValidDigest(r.Digest):
		return errors.New("a rollout that does not say of which release it is")
	case len(r.Steps) == 0, len(r.Steps) > MostSteps, r.Step < 0, r.Step >= len(r.Steps):
		return fmt.Errorf("a rollout at step %d of %d, want 1 to %d steps", r.Step+1, len(r.Steps), MostSteps)
	case len(r.Lost) > MostLost:
		return fmt.Errorf("a rollout that has lost %d members, want at most %d by name", len(r.Lost), MostLost)
	case len(r.Share) > mostZones:
		return fmt.Errorf("a rollout over %d zones, want at most %d", len(r.Share), mostZones)
	case max(len(r.By), len(r.Message), len(r.Paused), len(r.Terms.Gate), len(r.Terms.Watch), len(r.Terms.Healthy)) > mostText:
		return fmt.Errorf("a rollout with a text above %d bytes", mostText)
	case r.Terms.AtOnce < 0, r.Terms.Bake < 0, r.Terms.HealthTimeout < 0:
		return errors.New("a rollout with a negative number in its terms")
	}
	for id, how := range r.Lost {
		if max(len(id), len(how)) > mostLoss {
			return fmt.Errorf("a rollout with a text above %d bytes about a member that it has lost", mostLoss)
		}
	}
	for zone, most := range r.Share {
		if zone != "" && !zoneName.MatchString(zone) || !place.MatchString(most) {
			return fmt.Errorf("a rollout with the share %s of the zone %s", excerpt([]byte(most)), excerpt([]byte(zone)))
		}
	}
	return nil
}

// covers is an error when somebody who has the new release would lose it: what leads back is
// another generation.
func (r Rollout) covers(before Rollout) error {
	if r.Held != before.Held {
		return fmt.Errorf("the rollout of generation %d is not over", before.Generation)
	}
	for zone, most := range before.Share {
		if !r.All && r.Share[zone] < most {
			return fmt.Errorf("the share of the zone %s becomes smaller", zone)
		}
	}
	if before.All && !r.All {
		return errors.New("the share becomes smaller")
	}
	return nil
}

// Both are the two releases of a rollout, each with why a volume keeps it; nil: there is none.
func (p Pointer) Both() map[string]string {
	if p.Rollout == nil {
		return nil
	}
	why := fmt.Sprintf("the rollout of generation %d may lead there", p.Rollout.Generation)
	return map[string]string{p.Release: why, p.Rollout.Release: why}
}

// Highest is the highest generation that the pointer gives anybody.
func (p Pointer) Highest() int64 {
	if p.Rollout != nil {
		return p.Rollout.Generation
	}
	return p.Generation
}

// Mentions says whether the pointer gives a release to anybody.
func (p Pointer) Mentions(digest string) bool {
	return p.Digest == digest || p.Rollout != nil && p.Rollout.Digest == digest
}
