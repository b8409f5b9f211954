package pointer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

func key(t *testing.T) SecretKey {
	t.Helper()
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// digestOf is a digest that begins with a letter, for tests that only compare.
func digestOf(letter byte) string { return strings.Repeat(string(letter), 64) }

func edge(from, to byte, bytes int64) Edge {
	e := Edge{
		To: digestOf(to), Release: "20261122T231500Z-" + digestOf(to)[:12], Bytes: bytes, SHA256: digestOf('e'),
		Made: time.Date(2026, 11, 22, 23, 15, 0, 0, time.UTC),
	}
	if from != 0 {
		e.From = digestOf(from)
	}
	e.Pack = PackKey(e.From, e.To, e.SHA256)
	return e
}

func signedSample(generation int64) Pointer {
	p := sample(generation)
	p.Schema = Signed
	p.Store = "0123456789abcdef"
	if generation > 1 {
		p.SnapshotOf = &Held{generation - 1, "20261121T231500Z-aaaaaaaaaaaa", digestOf('a')}
	}
	p.Edges = []Edge{edge('a', 'b', 10), edge(0, 'b', 1000)}
	return p
}

func TestSignedPointerIsReadBack(t *testing.T) {
	secret, want := key(t), signedSample(42)
	want.Keys = []string{secret.Public().String()}
	document, err := want.Sign(secret)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(document)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, %v, want %+v", got, err, want)
	}
	if err := CheckSignature(document, []PublicKey{key(t).Public(), secret.Public()}); err != nil {
		t.Error(err)
	}
	var e struct{ Payload string }
	if err := json.Unmarshal(document, &e); err != nil {
		t.Fatal(err)
	}
	var inside Pointer
	if err := json.Unmarshal([]byte(e.Payload), &inside); err != nil || inside.Generation != 42 {
		t.Errorf("jq '.payload|fromjson' would not show it: %v", err)
	}
}

func TestSignatureOfSeveralKeys(t *testing.T) {
	old, next := key(t), key(t)
	document, err := signedSample(42).Sign(old, next)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []SecretKey{old, next} {
		if err := CheckSignature(document, []PublicKey{k.Public()}); err != nil {
			t.Error(err)
		}
	}
}

// Each byte of a signed document that is changed makes it unreadable, or its signature wrong, or
// says the same as before.
func TestChangedByteIsNotBelieved(t *testing.T) {
	secret := key(t)
	document, err := signedSample(42).Sign(secret)
	if err != nil {
		t.Fatal(err)
	}
	was, err := Parse(document)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for i := range document {
		for _, bit := range []byte{1, 4, 0x20} {
			changed := bytes.Clone(document)
			changed[i] ^= bit
			p, err := Parse(changed)
			if err == nil {
				err = CheckSignature(changed, []PublicKey{secret.Public()})
			}
			if err == nil && !reflect.DeepEqual(p, was) {
				t.Fatalf("byte %d changed from %q to %q is believed: %s", i, document[i], changed[i], changed)
			}
			if err != nil {
				refused++
			}
		}
	}
	if refused < 2*len(document) {
		t.Errorf("only %d of %d changes were refused", refused, 3*len(document))
	}
}

func TestWhoIsNotBelieved(t *testing.T) {
	secret, other := key(t), key(t)
	signed, err := signedSample(42).Sign(secret)
	if err != nil {
		t.Fatal(err)
	}
	moved, err := signedSample(43).Sign(other)
	if err != nil {
		t.Fatal(err)
	}
	// The signature of one document under another one.
	var a, b envelope
	if err := errors.Join(json.Unmarshal(signed, &a), json.Unmarshal(moved, &b)); err != nil {
		t.Fatal(err)
	}
	b.Signatures = a.Signatures
	grafted, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		document []byte
		trusted  []PublicKey
		want     string
	}{
		"another key":             {signed, []PublicKey{other.Public()}, "is signed by \"" + secret.Public().ID()},
		"nobody is trusted":       {signed, nil, "trusted here is nobody"},
		"another's signature":     {grafted, []PublicKey{secret.Public()}, "was changed after it was signed"},
		"not signed":              {sample(42).Render(), []PublicKey{secret.Public()}, "from before pointers were signed"},
		"a line":                  {[]byte("snap-0123456789abcdef0\n"), []PublicKey{secret.Public()}, "from before pointers were signed"},
		"an envelope of nobody":   {bytes.Replace(signed, []byte(`"signatures"`), []byte(`"other"`), 1), []PublicKey{secret.Public()}, "is signed by nobody"},
		"more signatures than 16": {manySignatures(t, signed), []PublicKey{secret.Public()}, "17 signatures"},
	} {
		t.Run(name, func(t *testing.T) {
			err := CheckSignature(tc.document, tc.trusted)
			if !errors.Is(err, ErrUnsigned) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an ErrUnsigned with %q", err, tc.want)
			}
		})
	}
}

func manySignatures(t *testing.T, document []byte) []byte {
	t.Helper()
	var e envelope
	if err := json.Unmarshal(document, &e); err != nil {
		t.Fatal(err)
	}
	for len(e.Signatures) <= mostKeys {
		e.Signatures = append(e.Signatures, e.Signatures[0])
	}
	data, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestKeysAsText(t *testing.T) {
	secret := key(t)
	again, err := ParseSecretKey(secret.Text())
	if err != nil || !reflect.DeepEqual(again, secret) {
		t.Errorf("the secret key: %v", err)
	}
	public, err := ParsePublicKey(secret.Public().String())
	if err != nil || public != secret.Public() {
		t.Errorf("the public key: %v, %v", public, err)
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if said := fmt.Sprintf(format, secret); strings.Contains(said, strings.TrimSpace(secret.Text()[len(secretWord):])) || len(said) > 30 {
			t.Errorf("%s shows %q", format, said)
		}
	}
	for _, text := range []string{"", "x", publicWord, publicWord + "AAAA", secret.Text(), secret.Public().String() + "A", publicWord + strings.Repeat("A", 43) + "B"} {
		if k, err := ParsePublicKey(text); err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%q: %v, %v", text, k, err)
		}
	}
	if _, err := ParseSecretKey(secret.Public().String()); err == nil {
		t.Error("a public key was taken for a secret one")
	}
}

func TestTrustedKeysOfAStore(t *testing.T) {
	a, b := key(t).Public(), key(t).Public()
	items := []string{"0123456789abcdef:" + a.String(), "fedcba9876543210:" + b.String(), "0123456789abcdef:" + b.String()}
	for store, want := range map[string][]PublicKey{"0123456789abcdef": {a, b}, "fedcba9876543210": {b}} {
		if got, err := Trusted(items, store); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("store %s: %v, %v", store, got, err)
		}
	}
	if _, err := Trusted(items, "00000000000000aa"); !errors.Is(err, ErrUnsigned) {
		t.Errorf("another store's pointer: %v", err)
	}
	if got, err := Trusted(nil, "00000000000000aa"); err != nil || got != nil {
		t.Errorf("no setting: %v, %v", got, err)
	}
	for _, item := range []string{"", "0123456789abcdef", "0123456789abcdef:", a.String(), "0123456789ABCDEF:" + a.String()} {
		if CheckTrusted(item) == nil {
			t.Errorf("%q is taken", item)
		}
	}
}

func TestBadEdgesAreRefused(t *testing.T) {
	secret := key(t)
	for name, change := range map[string]func(*Pointer){
		"from is no digest":    func(p *Pointer) { p.Edges[0].From = "../etc" },
		"to is no digest":      func(p *Pointer) { p.Edges[0].To = "" },
		"to itself":            func(p *Pointer) { p.Edges[0].From = p.Edges[0].To },
		"no release":           func(p *Pointer) { p.Edges[0].Release = "x" },
		"a key of another":     func(p *Pointer) { p.Edges[0].Pack = "release.json" },
		"a key that goes up":   func(p *Pointer) { p.Edges[0].Pack = "packs/../release.json" },
		"no bytes":             func(p *Pointer) { p.Edges[0].Bytes = 0 },
		"fewer than none":      func(p *Pointer) { p.Edges[0].Bytes = -1 },
		"more than any volume": func(p *Pointer) { p.Edges[0].Bytes = 17 << 40 },
		"sha256":               func(p *Pointer) { p.Edges[0].SHA256 = "AB" },
		"too many": func(p *Pointer) {
			for len(p.Edges) <= MostEdges {
				p.Edges = append(p.Edges, p.Edges[0])
			}
		},
		"what the snapshot holds": func(p *Pointer) { p.SnapshotOf.Digest = "" },
		"a key that is none":      func(p *Pointer) { p.Keys = []string{"ssh-ed25519 AAAA"} },
		"too many keys": func(p *Pointer) {
			for len(p.Keys) <= mostKeys {
				p.Keys = append(p.Keys, secret.Public().String())
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := signedSample(42)
			change(&p)
			if _, err := p.Sign(secret); err == nil {
				t.Error("it was signed")
			}
			payload, err := json.Marshal(p) // by somebody who has the key, and another program
			if err != nil {
				t.Fatal(err)
			}
			document, err := json.Marshal(envelope{Schema: Signed, Payload: string(payload)})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Parse(document); err == nil {
				t.Error("it was read")
			}
		})
	}
}

func TestLargestPointerFits(t *testing.T) {
	p := signedSample(42)
	for len(p.Edges) < MostEdges {
		p.Edges = append(p.Edges, p.Edges[0])
	}
	for len(p.Keys) < mostKeys {
		p.Keys = append(p.Keys, key(t).Public().String())
	}
	p.Message = strings.Repeat("\x01", MaxMessage)
	document, err := p.Sign(key(t), key(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(document); err != nil {
		t.Errorf("%d bytes: %v", len(document), err)
	}
}

func TestWayToTheRelease(t *testing.T) {
	p := Pointer{Digest: digestOf('d'), Edges: []Edge{
		edge('a', 'b', 10), edge('b', 'c', 10), edge('c', 'd', 10), // step by step
		edge('a', 'd', 30), // as many bytes in one
		edge('b', 'd', 25),
		edge(0, 'd', 1000),
		edge('d', 'a', 1), // and back
	}}
	for _, tc := range []struct {
		held string
		want string // the releases on the way
	}{
		{"d", ""}, {"ad", ""}, {"c", "d"}, {"b", "cd"}, {"a", "d"}, {"ab", "cd"}, {"f", "d"}, {"", "d"},
	} {
		way, found := p.Way(func(digest string) bool { return strings.Contains(tc.held, digest[:1]) })
		got := ""
		for _, e := range way {
			got += e.To[:1]
		}
		if !found || got != tc.want {
			t.Errorf("from %q: %q, %v, want %q", tc.held, got, found, tc.want)
		}
	}
	p.Edges = p.Edges[:5]
	if way, found := p.Way(func(digest string) bool { return digest == digestOf('f') }); found {
		t.Errorf("from a release that no pack leads from: %v", way)
	}
}
