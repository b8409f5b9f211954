package pointer

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
)

// A signed pointer is an envelope. What is signed is the payload's very bytes, so that nobody has
// to agree on how JSON is written; `jq '.payload | fromjson'` shows it.
type envelope struct {
	Schema     int         `json:"schema"`
	Payload    string      `json:"payload"` // a Pointer, as JSON
	Signatures []signature `json:"signatures"`
}

type signature struct {
	Key     string `json:"key"`     // PublicKey.ID
	Ed25519 []byte `json:"ed25519"` // of signedText
}

// signedText is short whatever the payload is, so that a service that signs (KMS) can do it later.
func signedText(payload string) []byte {
	sum := sha256.Sum256([]byte(payload))
	return append([]byte("ebs-release pointer v2\n"), sum[:]...)
}

// Sign returns the document of a pointer, signed by each of the keys.
func (p Pointer) Sign(keys ...SecretKey) ([]byte, error) {
	p.Schema = Signed
	if err := p.validate(); err != nil {
		return nil, fmt.Errorf("sign the pointer: it is not valid: %w", err)
	}
	payload, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("sign the pointer: %w", err)
	}
	e := envelope{Schema: Signed, Payload: string(payload)}
	for _, k := range keys {
		if k.IsZero() {
			return nil, errors.New("sign the pointer: there is no key")
		}
		e.Signatures = append(e.Signatures, signature{k.Public().ID(), ed25519.Sign(k.key, signedText(e.Payload))})
	}
	document, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("sign the pointer: %w", err)
	}
	return append(document, '\n'), nil
}

// openEnvelope does not look at signatures: CheckSignature does.
func openEnvelope(document []byte) (e envelope, err error) {
	if len(document) > MaxSize {
		return e, fmt.Errorf("it is larger than %d KiB", MaxSize>>10)
	}
	if err := decode(document, &e); err != nil || e.Schema != Signed {
		return e, errors.New("it has the form from before pointers were signed")
	}
	if len(e.Signatures) > mostKeys {
		return e, fmt.Errorf("it has %d signatures, want at most %d", len(e.Signatures), mostKeys)
	}
	return e, nil
}
