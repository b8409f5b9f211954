package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"ebs-release/internal/advice"
	"ebs-release/internal/catchup"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
)

// findKeys looks at what makeKeys would find, before anything is written to the volume, and says
// whether there is something to make. A store whose pointer is not signed stays as it is: its
// members may be too old to read a signed one.
func (i *Server) findKeys(ctx context.Context, directory *pointer.Store) (makes bool, err error) {
	v, err := release.Open(i.MountPoint)
	if err != nil {
		return false, err
	}
	defer func() { _ = v.Close() }()
	keys := Keys{i.SigningKey, v}
	ring, err := keys.Open()
	if _, none := os.Lstat(i.SigningKey); err != nil && i.Wish.Join && errors.Is(none, fs.ErrNotExist) {
		return false, i.joinWithoutKey(keys)
	}
	if err != nil {
		return false, err
	}
	has, err := catchup.KeysOf(v)
	if err != nil || len(has) > 0 || directory == nil {
		return err == nil, err
	}
	found, err := directory.Look(ctx)
	switch {
	case err != nil:
		return false, err
	case found.Generation == 0:
		return true, nil
	case found.Schema != pointer.Signed:
		return false, nil
	}
	// The volume is from before the pointer was signed: an old copy.
	if _, err = readKeys(i.SigningKey); err == nil {
		err = found.CheckSignature(ring.Trusted)
	}
	if err != nil {
		return false, advice.Try(fmt.Errorf("the pointer in %s is signed by key %s, and the release volume has no keys: %w",
			i.PointerStore, strings.Join(found.SignedBy(), ", "), err), "put that key in %s", i.SigningKey)
	}
	return true, nil
}

// joinWithoutKey makes this server believe what the snapshot says that its volume came from, whose
// tag IAM guards, where it believes nobody yet.
func (i *Server) joinWithoutKey(keys Keys) error {
	known, err := readPublicKeys(keys.publicPath())
	if err != nil {
		return err
	}
	if len(known) == 0 {
		if known, err = catchup.KeysOf(keys.On); err == nil {
			err = keys.writePublicKeys(known)
		}
		if err != nil {
			return err
		}
		i.did("this server believes pointers that key %s signed, as its volume says (%s)", IDs(known), keys.publicPath())
	}
	i.needs("the key %s, which the pointer is signed by, is not here: this server can read, serve and converge, "+
		"and cannot publish, roll back or sign. Copy the file from the other server, or from its backup, to %s (root's, mode 0600)",
		IDs(known), i.SigningKey)
	return nil
}

// makeKeys gives the server and its volume what they lack.
func (i *Server) makeKeys(ctx context.Context) error {
	v, err := release.Open(i.MountPoint)
	if err != nil {
		return err
	}
	defer func() { _ = v.Close() }()
	return Keys{i.SigningKey, v}.Make(ctx, !pointer.InS3(i.PointerStore), i.did)
}

// believe reads the pointer by the keys of this server. Where it has none, the store is from before
// there were keys.
func (i *Server) believe(keys Keys, found pointer.Found) (p pointer.Pointer, err error) {
	ring, openErr := keys.Open() // findKeys has said what is missing
	if len(ring.Trusted) > 0 {
		p, err = found.Pointer, found.CheckSignature(ring.Trusted)
	} else if err = openErr; err == nil {
		p, err = catchup.Believe(keys.On, found.Document(), nil)
	}
	if err != nil {
		return p, advice.Try(fmt.Errorf("the release volume %s does not believe the pointer in %s: %w", i.report.VolumeID, i.PointerStore, err),
			"look who wrote it, and put the store's own "+
				"release.json back; if it is right, put the key file in its place (%s), then ebs-release key sign", i.SigningKey)
	}
	return p, nil
}

// takeKeys gives the volume the keys of this server. One without a secret key goes along with what
// a pointer that it believes says of the next ones.
func (i *Server) takeKeys(ctx context.Context, keys Keys, p pointer.Pointer) error {
	if _, err := os.Lstat(keys.Path); errors.Is(err, fs.ErrNotExist) && len(p.Keys) > 0 {
		next, err := pointer.ParsePublicKeys(p.Keys)
		if err == nil {
			err = keys.writePublicKeys(next)
		}
		if err != nil {
			return err
		}
	}
	return keys.Settle(ctx, i.did)
}
