// Package pointer is the small document that says which generation, release, digest and snapshot
// are current, and which packs lead there: parse, validate, sign it; fetch it (Fetcher, the agent's
// side) and keep it in a store with compare-and-swap (Store, the publisher's side).
package pointer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"ebs-release/internal/generation"
	"ebs-release/internal/manifest"
)

const (
	// Schema is the version of a release.json that is not signed: a Pointer as it is. It names one
	// snapshot, and no packs.
	Schema = 1
	// Signed is the version of one that is signed: an envelope.
	Signed = 2
	// MaxSize is the largest pointer that is looked at, in bytes. A real one has about 400, and 450
	// more for each pack that it lists.
	MaxSize = 128 << 10
	// MaxMessage is the longest message of a publish, in bytes. Escaped as JSON it may be six times
	// as long.
	MaxMessage = 4 << 10
)

// Pointer is release.json.
type Pointer struct {
	Schema     int               `json:"schema"`
	Generation int64             `json:"generation"`            // grows by every publish; 0: a plain line "snap-…", nothing to verify against
	Release    string            `json:"release"`               // 20261122T231500Z-9f31c0de77aa
	Digest     string            `json:"digest"`                // sha256 of the manifest, 64 lower-case hex digits
	Snapshots  map[string]string `json:"snapshots"`             // region -> snap-…
	SnapshotOf *Held             `json:"snapshot_of,omitempty"` // what the snapshots hold; nil: Release
	Created    time.Time         `json:"created"`
	By         string            `json:"by,omitempty"`
	Message    string            `json:"message,omitempty"`
	Revision   int64             `json:"revision,omitempty"`   // grows by every write, also of one generation; 0: an older version wrote it
	Store      string            `json:"store,omitempty"`      // whose it is: 16 hex digits; empty: written before stores had ids
	Keys       []string          `json:"keys,omitempty"`       // who may sign the next ones, as text; empty: those that may until now
	KeysSince  int64             `json:"keys_since,omitempty"` // the generation from which on it named these keys
	Edges      []Edge            `json:"edges,omitempty"`      // the packs of the store: how to get from one release to another
	Rollout    *Rollout          `json:"rollout,omitempty"`    // another release, for a part of the members: see For
	Hold       *Hold             `json:"hold,omitempty"`       // nobody publishes; nil: everybody may
}

// Hold is why nobody publishes now. A rollback goes through.
type Hold struct {
	Why   string    `json:"why"`
	By    string    `json:"by"`
	Since time.Time `json:"since"`
	Until time.Time `json:"until,omitzero"` // zero: until it is released
}

// At says whether it holds at a time.
func (h *Hold) At(now time.Time) bool { return h != nil && (h.Until.IsZero() || now.Before(h.Until)) }

// Held is a release, and the generation that it was.
type Held struct {
	Generation int64  `json:"generation"`
	Release    string `json:"release"`
	Digest     string `json:"digest"`
}

var (
	// EC2 made ids of 8 hex digits until 2016 and of 17 since then; both are still valid.
	snapshotID = regexp.MustCompile(`^snap-(?:[0-9a-f]{8}|[0-9a-f]{17})$`)
	storeID    = regexp.MustCompile(`^[0-9a-f]{16}$`)
	keyID      = storeID                                              // of PublicKey.ID
	regionName = regexp.MustCompile(`^[a-z]{2,}(?:-[a-z]+)+-[0-9]+$`) // eusc-de-east-1 has four
)

// Parse reads a pointer: release.json, or one line "snap-…" of an older setup. Who signed it is not
// looked at: see CheckSignature. Unknown fields of a
// known schema are passed over, so that an agent baked into an old AMI can read what a newer
// publisher adds; anything else that is not as expected is an error.
func Parse(data []byte) (Pointer, error) {
	text := bytes.TrimSpace(data)
	switch {
	case len(data) > MaxSize:
		return Pointer{}, fmt.Errorf("the pointer is larger than %d KiB: this is not a release.json", MaxSize>>10)
	case len(text) == 0:
		return Pointer{}, errors.New("the pointer is empty")
	case text[0] == '<':
		return Pointer{}, errors.New("the pointer is HTML, not JSON: the URL leads to a web page")
	case text[0] == '{':
		return parseJSON(text)
	case bytes.HasPrefix(text, []byte("snap-")):
		return parseLine(text)
	default:
		return Pointer{}, fmt.Errorf("the pointer is neither JSON nor a line %q: it begins with %s", "snap-…", excerpt(text))
	}
}

func parseJSON(text []byte) (Pointer, error) {
	// The schema first: the fields of another one may have other types.
	var version struct {
		Schema *int `json:"schema"`
	}
	if err := decode(text, &version); err != nil {
		return Pointer{}, fmt.Errorf("the pointer is not valid JSON: %w", err)
	}
	if version.Schema == nil {
		return Pointer{}, errors.New("the pointer has no schema: this is not a release.json")
	}
	switch *version.Schema {
	case Schema:
	case Signed:
		e, err := openEnvelope(text)
		if err != nil {
			return Pointer{}, fmt.Errorf("the pointer is not valid: %w", err)
		}
		text = []byte(e.Payload)
	default:
		return Pointer{}, fmt.Errorf("the pointer has schema %d, this program knows schemas %d and %d: update ebs-release on this machine",
			*version.Schema, Schema, Signed)
	}
	var p Pointer
	if err := decode(text, &p); err != nil {
		return Pointer{}, fmt.Errorf("the pointer is not valid JSON: %w", err)
	}
	if p.Schema != *version.Schema {
		return Pointer{}, fmt.Errorf("the pointer is not valid: schema %d in an envelope of schema %d", p.Schema, *version.Schema)
	}
	if err := p.validate(); err != nil {
		return Pointer{}, fmt.Errorf("the pointer is not valid: %w", err)
	}
	return p, nil
}

func decode(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(into); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			return errors.New("it is cut off")
		}
		return err
	}
	if d.More() {
		return errors.New("there is more after its end")
	}
	return nil
}

func parseLine(text []byte) (Pointer, error) {
	if !snapshotID.Match(text) {
		return Pointer{}, fmt.Errorf("the pointer names no valid snapshot id: %s (want snap- and 17 hex digits, one line)", excerpt(text))
	}
	return Pointer{Snapshots: map[string]string{"": string(text)}}, nil
}

func (p Pointer) validate() error {
	switch {
	case generation.Check(p.Generation) != nil:
		return generation.Check(p.Generation)
	case !manifest.ValidID(p.Release):
		return fmt.Errorf("release %s is not a release id", excerpt([]byte(p.Release)))
	case !manifest.ValidDigest(p.Digest):
		return fmt.Errorf("digest %s is not 64 lower-case hex digits", excerpt([]byte(p.Digest)))
	case p.Store != "" && !storeID.MatchString(p.Store):
		return fmt.Errorf("store %s is not 16 lower-case hex digits", excerpt([]byte(p.Store)))
	case len(p.Snapshots) == 0:
		return errors.New("it names no snapshot")
	case p.Schema != Signed && (len(p.Edges) > 0 || len(p.Keys) > 0 || p.SnapshotOf != nil):
		return errors.New("it lists packs or keys, and is not signed")
	case len(p.Edges) > MostEdges:
		return fmt.Errorf("it lists %d packs, want at most %d", len(p.Edges), MostEdges)
	}
	if _, err := ParsePublicKeys(p.Keys); err != nil {
		return err
	}
	if p.Rollout != nil {
		if err := p.Rollout.validate(p); err != nil {
			return err
		}
	}
	if h := p.Hold; h != nil && (h.Why == "" || max(len(h.Why), len(h.By)) > mostText) {
		return errors.New("a hold that does not say why, or at great length")
	}
	if p.KeysSince != 0 && generation.Check(p.KeysSince) != nil {
		return generation.Check(p.KeysSince)
	}
	if h := p.Holds(); generation.Check(h.Generation) != nil || !manifest.ValidID(h.Release) || !manifest.ValidDigest(h.Digest) {
		return errors.New("it does not say what its snapshot holds")
	}
	for i, e := range p.Edges {
		if err := e.Check(); err != nil {
			return fmt.Errorf("pack %d: %w", i+1, err)
		}
	}
	for _, region := range slices.Sorted(maps.Keys(p.Snapshots)) {
		if err := CheckRegion(region); err != nil {
			return fmt.Errorf("snapshots: %w", err)
		}
		if id := p.Snapshots[region]; !snapshotID.MatchString(id) {
			return fmt.Errorf("snapshot id %s for %s is wrong: want snap- and 17 hex digits", excerpt([]byte(id)), region)
		}
	}
	return nil
}

// CheckRegion says whether a pointer can name a snapshot in a region of this name.
func CheckRegion(region string) error {
	if !regionName.MatchString(region) {
		return fmt.Errorf("%s is not a region", excerpt([]byte(region)))
	}
	return nil
}

// Render returns the bytes of a pointer that is not signed: JSON, or the plain line of a legacy
// one.
func (p Pointer) Render() []byte {
	if p.Legacy() {
		return []byte(p.Snapshots[""] + "\n")
	}
	p.Schema = Schema
	p.Edges, p.Keys, p.KeysSince, p.SnapshotOf, p.Rollout = nil, nil, 0, nil, nil // what only a signed one may say
	data, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		// Only a Created outside of the years 0 to 9999 gets here; what is returned then is refused
		// by Parse.
		return nil
	}
	return append(data, '\n')
}

// Legacy says whether the pointer was a plain line: one snapshot for any region, and no generation
// or digest to verify against.
func (p Pointer) Legacy() bool {
	_, plain := p.Snapshots[""]
	return p.Generation == 0 && plain
}

// Holds is the release that the snapshots hold: the pointer's own, or an older one that packs lead
// on from.
func (p Pointer) Holds() Held {
	if p.SnapshotOf != nil {
		return *p.SnapshotOf
	}
	return p.Own()
}

// Own is the pointer's own release: the stable one, while it carries a rollout.
func (p Pointer) Own() Held { return Held{p.Generation, p.Release, p.Digest} }

// Snapshot returns the snapshot for a region.
func (p Pointer) Snapshot(region string) (string, error) {
	if p.Legacy() {
		return p.Snapshots[""], nil
	}
	if id, ok := p.Snapshots[region]; ok {
		return id, nil
	}
	return "", fmt.Errorf("generation %d has no snapshot in region %s, only in %s", p.Generation, region,
		strings.Join(slices.Sorted(maps.Keys(p.Snapshots)), ", "))
}

// excerpt quotes the beginning of text for a one-line error.
func excerpt(text []byte) string {
	const most = 40
	if len(text) <= most {
		return fmt.Sprintf("%q", text)
	}
	cut := most
	for cut > most-utf8.UTFMax && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return fmt.Sprintf("%q…", text[:cut])
}
