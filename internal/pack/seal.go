package pack

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
)

// window is how far back a match may lie, in bytes, and so what a reader has to keep. Files of a
// release are mostly smaller.
const window = 4 << 20

// Sum is what a pointer says of a pack.
type Sum struct {
	Bytes  int64  // of the pack as it lies in the store
	SHA256 string // of those bytes, in hex
}

// Seal compresses and encrypts what is written to it.
type Seal struct {
	out    *counter
	secret io.WriteCloser // nil: plain
	zip    *zstd.Encoder
}

// NewSeal writes to w. key is who can read the pack; nil: everybody who can read the store.
func NewSeal(w io.Writer, key age.Recipient) (*Seal, error) {
	s := &Seal{out: &counter{to: w, hash: sha256.New()}}
	below := io.Writer(s.out)
	if key != nil {
		var err error
		if s.secret, err = age.Encrypt(s.out, key); err != nil {
			return nil, fmt.Errorf("encrypt a pack: %w", err)
		}
		below = s.secret
	}
	var err error
	s.zip, err = zstd.NewWriter(below, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(window))
	return s, err
}

func (s *Seal) Write(p []byte) (int, error) { return s.zip.Write(p) }

// Close ends the pack, and says what was written. w stays open.
func (s *Seal) Close() (Sum, error) {
	err := s.zip.Close()
	if s.secret != nil {
		err = errors.Join(err, s.secret.Close())
	}
	return Sum{s.out.bytes, hex.EncodeToString(s.out.hash.Sum(nil))}, err
}

type counter struct {
	to    io.Writer
	hash  hash.Hash
	bytes int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.to.Write(p)
	_, _ = c.hash.Write(p[:n])
	c.bytes += int64(n)
	return n, err
}

// ErrSum says that the bytes of a pack are not those that the pointer names.
var ErrSum = errors.New("it is not the pack that the pointer names")

// Check compares a pack with what the pointer says of it. It reads no more than that many bytes and
// one. Nothing of a pack is looked at before.
func Check(r io.Reader, want Sum) error {
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(r, want.Bytes+1))
	switch got := hex.EncodeToString(h.Sum(nil)); {
	case err != nil:
		return err
	case n > want.Bytes:
		return fmt.Errorf("%w: it has more than %d bytes", ErrSum, want.Bytes)
	case n < want.Bytes:
		return fmt.Errorf("%w: it has %d bytes, want %d", ErrSum, n, want.Bytes)
	case got != want.SHA256:
		return fmt.Errorf("%w: its sha256 is %s, want %s", ErrSum, got, want.SHA256)
	}
	return nil
}

// Opened is a pack that is being read.
type Opened struct {
	*Reader
	zip *zstd.Decoder
}

// Open reads a pack that was sealed; key nil: it is not encrypted. Close it when it is read.
func Open(r io.Reader, key age.Identity) (*Opened, error) {
	if key != nil {
		var err error
		if r, err = age.Decrypt(r, key); err != nil {
			return nil, fmt.Errorf("decrypt a pack: %w", err)
		}
	}
	zip, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(window))
	if err != nil {
		return nil, err
	}
	text, err := NewReader(zip)
	if err != nil {
		zip.Close()
		return nil, err
	}
	return &Opened{text, zip}, nil
}

// Close frees what reading took.
func (o *Opened) Close() { o.zip.Close() }
