package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ebs-release/internal/advice"
	"ebs-release/internal/catchup"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/store"

	"filippo.io/age"
	"golang.org/x/sys/unix"
)

// mostKeyFile is the largest key file that is read, in bytes. A key has 64.
const mostKeyFile = 4096

// Keys are what the pointer of a store is signed with: the secret half is a file of the release
// server, the public one lies on the release volume, and so on each snapshot and each member.
type Keys struct {
	Path string // of the secret key
	On   *release.Volume
}

// Open returns the key, and whom the volume's store believes. Both are empty when the volume has no
// keys: its store is from before there were any, and its pointers are not signed. With an error
// trusted may still be there: then the pointer can be read, and not written.
func (k Keys) Open() (secret pointer.SecretKey, trusted []pointer.PublicKey, err error) {
	if trusted, err = catchup.KeysOf(k.On); err != nil || len(trusted) == 0 {
		return pointer.SecretKey{}, nil, err
	}
	secret, err = ReadKey(k.Path)
	if err == nil && slices.Contains(trusted, secret.Public()) {
		return secret, trusted, nil
	}
	id, idErr := k.On.StoreID()
	switch {
	case idErr != nil:
		return pointer.SecretKey{}, trusted, errors.Join(err, idErr)
	case id == "":
		id = "without an id"
	}
	const remedy = "put the key file of that store's server there, from its backup; when it is lost: ebs-release key init --lost"
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = advice.Try(fmt.Errorf("the release volume %s belongs to store %s, whose pointer is signed by key %s, and there is no key in %s",
			k.On.Root(), id, IDs(trusted), k.Path), remedy)
	case err == nil:
		err = advice.Try(fmt.Errorf("the release volume %s belongs to store %s, whose pointer is signed by key %s, "+
			"and the key in %s is another one, %s",
			k.On.Root(), id, IDs(trusted), k.Path, secret.Public().ID()), remedy)
	}
	return pointer.SecretKey{}, trusted, err
}

// IDs are the short ids of keys, for people.
func IDs(keys []pointer.PublicKey) string {
	var ids []string
	for _, k := range keys {
		ids = append(ids, k.ID())
	}
	return strings.Join(ids, ", ")
}

// Make makes the keys that are missing, and says each on did: the secret one, in its file, the
// public one on the volume, and for a store that others can read (packs) what opens its packs. It
// replaces none.
func (k Keys) Make(ctx context.Context, packs bool, did func(format string, args ...any)) error {
	_, trusted, err := k.Open()
	if err != nil {
		return err
	}
	if len(trusted) == 0 {
		if err := k.believe(ctx, did); err != nil {
			return err
		}
	}
	if !packs {
		return nil
	}
	if have, err := k.On.PackKey(); err != nil || have != "" {
		return err
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return fmt.Errorf("make the key of the packs: %w", err)
	}
	if err := k.On.SetPackKey(ctx, identity.String()); err != nil {
		return err
	}
	did("made the key of the packs, on the volume")
	return nil
}

// Replace is Make for a volume whose secret key is lost: from now on the key in the file is the
// only one that the volume's store believes. It is made where there is none.
func (k Keys) Replace(ctx context.Context, did func(format string, args ...any)) error {
	if _, trusted, err := k.Open(); err == nil && len(trusted) > 0 {
		return fmt.Errorf("the key of the release volume %s is not lost: it is in %s", k.On.Root(), k.Path)
	}
	return k.believe(ctx, did)
}

// believe makes the key in the file the one that the volume's store believes.
func (k Keys) believe(ctx context.Context, did func(format string, args ...any)) error {
	secret, err := ReadKey(k.Path)
	if errors.Is(err, fs.ErrNotExist) {
		if secret, err = k.create(); err == nil {
			did("made the key %s that the pointer is signed by, in %s: back it up", secret.Public().ID(), k.Path)
		}
	}
	if err != nil {
		return err
	}
	if err := k.On.SetKeys(ctx, []string{secret.Public().String()}); err != nil {
		return err
	}
	did("the volume believes pointers that key %s signed", secret.Public().ID())
	return nil
}

// ReadKey reads a secret key from a file that only its owner can read or write, who is root or who
// runs this; fs.ErrNotExist when there is none.
func ReadKey(path string) (pointer.SecretKey, error) {
	secret, err := readKey(path)
	if err != nil {
		return pointer.SecretKey{}, fmt.Errorf("signing key %s: %w", path, err)
	}
	return secret, nil
}

func readKey(path string) (secret pointer.SecretKey, err error) {
	// Not blocking: it may be a fifo.
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return secret, errors.New("it is a symbolic link, want a file")
	}
	if err != nil {
		return secret, err
	}
	defer func() { _ = file.Close() }()
	var st unix.Stat_t
	switch err := unix.Fstat(int(file.Fd()), &st); {
	case err != nil:
		return secret, err
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return secret, errors.New("it is not a regular file")
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return secret, advice.Try(fmt.Errorf("it belongs to user id %d, who could change it", st.Uid), "sudo chown root %s", path)
	case st.Mode&0o077 != 0:
		return secret, advice.Try(fmt.Errorf("others have rights on it (mode %04o)", st.Mode&0o7777),
			"chmod 0600 %s; when somebody else may have read it, it is no secret any more", path)
	case st.Size > mostKeyFile:
		return secret, fmt.Errorf("it has %d bytes, which is no key", st.Size)
	}
	text, err := io.ReadAll(io.LimitReader(file, mostKeyFile))
	if err != nil {
		return secret, err
	}
	return pointer.ParseSecretKey(string(text))
}

// create makes a key and its file, whole and on disk, where there is none.
func (k Keys) create() (secret pointer.SecretKey, err error) {
	if secret, err = pointer.NewKey(); err != nil {
		return secret, err
	}
	if err := k.write(secret.Text()); err != nil {
		return pointer.SecretKey{}, fmt.Errorf("make the signing key %s: %w", k.Path, err)
	}
	return secret, nil
}

func (k Keys) write(text string) error {
	dir := filepath.Dir(k.Path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var beside, volume unix.Stat_t
	if err := errors.Join(unix.Stat(dir, &beside), unix.Stat(k.On.Root(), &volume)); err != nil {
		return err
	}
	if beside.Dev == volume.Dev {
		return advice.Try(fmt.Errorf("%s is on the release volume, whose snapshots go to every member", dir), "another signing-key")
	}
	// The name comes last, for a file that is whole: a link replaces nothing.
	file, err := os.CreateTemp(dir, ".signing-*") // 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(file.Name()) }()
	_, err = file.WriteString(text)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Link(file.Name(), k.Path); err != nil {
		return err
	}
	return store.SyncDirectory(dir)
}

// findKeys looks at what makeKeys would find, before anything is written to the volume, and says
// whether there is something to make. A store whose pointer is not signed stays as it is: its
// members may be too old to read a signed one.
func (i *Server) findKeys(ctx context.Context, directory *pointer.Store) (makes bool, err error) {
	v, err := release.Open(i.MountPoint)
	if err != nil {
		return false, err
	}
	defer func() { _ = v.Close() }()
	_, trusted, err := (Keys{i.SigningKey, v}).Open()
	if _, none := os.Lstat(i.SigningKey); err != nil && i.Wish.Join && errors.Is(none, fs.ErrNotExist) {
		i.needs("the key %s, which the pointer is signed by, is not here: this server can read, serve and converge, "+
			"and cannot publish, roll back or sign. Copy the file from the other server, or from its backup, to %s (root's, mode 0600)",
			IDs(trusted), i.SigningKey)
		return false, nil
	}
	if err != nil || len(trusted) > 0 || directory == nil {
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
	secret, err := ReadKey(i.SigningKey)
	if err == nil {
		err = found.CheckSignature([]pointer.PublicKey{secret.Public()})
	}
	if err != nil {
		return false, advice.Try(fmt.Errorf("the pointer in %s is signed by key %s, and the release volume has no keys: %w",
			i.PointerStore, strings.Join(found.SignedBy(), ", "), err),
			"put that key in %s", i.SigningKey)
	}
	return true, nil
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
