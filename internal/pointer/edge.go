package pointer

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"ebs-release/internal/manifest"
)

// Edge is a pack in the store, and the two releases that it leads between.
type Edge struct {
	From    string    `json:"from,omitempty"` // digest; "": from nothing, a full pack
	To      string    `json:"to"`             // digest
	Release string    `json:"release"`        // the id of the release that comes out
	Pack    string    `json:"pack"`           // its key in the store
	Bytes   int64     `json:"bytes"`          // of the pack as it lies there
	SHA256  string    `json:"sha256"`         // of those bytes
	Made    time.Time `json:"made"`
}

const (
	// MostEdges is how many a pointer lists at most.
	MostEdges = 100
	// PackPrefix is what the keys of packs begin with.
	PackPrefix = "packs/"

	shortDigest = 12 // hex digits of a digest in a key
)

var packKey = regexp.MustCompile(`^packs/(?:[0-9a-f]{12}|nothing)-[0-9a-f]{12}-[0-9a-f]{12}$`)

// PackKey is where a pack lies: it says where it leads, and is another one for other bytes.
func PackKey(from, to, sum string) string {
	if from == "" {
		from = "nothing"
	} else {
		from = from[:shortDigest]
	}
	return PackPrefix + from + "-" + to[:shortDigest] + "-" + sum[:shortDigest]
}

// Check says whether an edge can be one, for who did not get it in a pointer.
func (e Edge) Check() error {
	switch {
	case e.From != "" && !manifest.ValidDigest(e.From), !manifest.ValidDigest(e.To), !manifest.ValidID(e.Release), e.From == e.To:
		return errors.New("it does not say which releases it is between")
	case !packKey.MatchString(e.Pack):
		return fmt.Errorf("%s is no key of a pack", excerpt([]byte(e.Pack)))
	case e.Bytes <= 0 || e.Bytes > mostPack:
		return fmt.Errorf("a pack of %d bytes", e.Bytes)
	case !manifest.ValidDigest(e.SHA256): // the same form
		return fmt.Errorf("sha256 %s is not 64 lower-case hex digits", excerpt([]byte(e.SHA256)))
	}
	return nil
}

// Committed returns the releases that were committed, the latest first, as far as the packs that
// the pointer lists tell; none: it lists none. Each leads to what was about to be committed then.
func (p Pointer) Committed() (ids []string) {
	if len(p.Edges) == 0 {
		return nil
	}
	ids = append(ids, p.Release)
	for _, e := range slices.Backward(p.Edges) {
		if !slices.Contains(ids, e.Release) {
			ids = append(ids, e.Release)
		}
	}
	return ids
}

const mostPack = 16 << 40 // bytes: what an EBS volume can hold

// Way returns the packs that lead from a release that is held to the pointer's, in order: those
// that have the fewest bytes together, and of two such ways the shorter. held says what is held, by
// digest. No packs and true: the pointer's release is held itself.
func (p Pointer) Way(held func(digest string) bool) (way []Edge, found bool) {
	if held(p.Digest) {
		return nil, true
	}
	// Backwards from the target, cheapest first (Dijkstra). The releases are few.
	type reached struct {
		digest string
		bytes  int64
		way    []Edge // from here to the target
		done   bool
	}
	known := []*reached{{digest: p.Digest}}
	for {
		var next *reached
		for _, r := range known {
			if !r.done && (next == nil || r.bytes < next.bytes || r.bytes == next.bytes && len(r.way) < len(next.way)) {
				next = r
			}
		}
		if next == nil {
			return nil, false
		}
		if next.digest == "" || held(next.digest) {
			return next.way, true
		}
		next.done = true
		for _, e := range p.Edges {
			if e.To != next.digest {
				continue
			}
			bytes, way := next.bytes+e.Bytes, append([]Edge{e}, next.way...)
			at := slices.IndexFunc(known, func(r *reached) bool { return r.digest == e.From })
			switch {
			case at < 0:
				known = append(known, &reached{digest: e.From, bytes: bytes, way: way})
			case !known[at].done && bytes < known[at].bytes:
				known[at].bytes, known[at].way = bytes, way
			}
		}
	}
}
