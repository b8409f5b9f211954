package server

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/pointer"
	"ebs-release/internal/store"

	"golang.org/x/sys/unix"
)

// mostKeyFile is the largest key file that is read, in bytes. A key has 64, and 16 of them at most
// may sign.
const mostKeyFile = 4096

// heldKey is a line of the file of the secret keys: a key, and when it was made.
type heldKey struct {
	pointer.SecretKey
	since time.Time // zero: the line does not say
}

func (k heldKey) line() string {
	text := strings.TrimSpace(k.Text())
	if !k.since.IsZero() {
		text += " " + k.since.UTC().Format(time.RFC3339)
	}
	return text + "\n"
}

func newKey() (heldKey, error) {
	secret, err := pointer.NewKey()
	return heldKey{secret, time.Now().UTC().Truncate(time.Second)}, err
}

// readKeys reads the secret keys from a file that only its owner can read or write, who is root or
// who runs this, the newest first; fs.ErrNotExist when there is none.
func readKeys(path string) (held []heldKey, err error) {
	lines, err := readLines(path, 0o077, "chmod 0600 "+path+"; when somebody else may have read it, it is no secret any more")
	for i := 0; err == nil && i < len(lines); i++ {
		var k heldKey
		text, since, dated := strings.Cut(lines[i], " ")
		if k.SecretKey, err = pointer.ParseSecretKey(text); err == nil && dated {
			k.since, err = time.Parse(time.RFC3339, since)
		}
		held = append(held, k)
	}
	if err == nil && len(held) == 0 {
		err = errors.New("it is empty")
	}
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w", path, err)
	}
	return held, nil
}

// readPublicKeys reads the public keys from a file that nobody else can write; none when there is
// no such file.
func readPublicKeys(path string) (keys []pointer.PublicKey, err error) {
	lines, err := readLines(path, 0o022, "chmod 0644 "+path+"; look whether its keys are right (ebs-release key show)")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		keys, err = pointer.ParsePublicKeys(lines)
	}
	if err != nil {
		return nil, fmt.Errorf("public keys %s: %w", path, err)
	}
	return keys, nil
}

// readLines refuses a file that another user than root, or who runs this, owns, or has one of the
// rights of a mode on.
func readLines(path string, others uint32, try string) ([]string, error) {
	// Not blocking: it may be a fifo.
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, errors.New("it is a symbolic link, want a file")
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	var st unix.Stat_t
	switch err := unix.Fstat(int(file.Fd()), &st); {
	case err != nil:
		return nil, err
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, errors.New("it is not a regular file")
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return nil, advice.Try(fmt.Errorf("it belongs to user id %d, who could change it", st.Uid), "sudo chown root %s", path)
	case st.Mode&others != 0:
		return nil, advice.Try(fmt.Errorf("others have rights on it (mode %04o)", st.Mode&0o7777), "%s", try)
	case st.Size > mostKeyFile:
		return nil, fmt.Errorf("it has %d bytes, which is no key", st.Size)
	}
	text, err := io.ReadAll(io.LimitReader(file, mostKeyFile))
	if err != nil {
		return nil, err
	}
	lines := strings.Split(string(text), "\n")
	return slices.DeleteFunc(lines, func(line string) bool { return strings.TrimSpace(line) == "" }), nil
}

// writeKeys writes the file of the secret keys. It does not lie on the release volume.
func (k Keys) writeKeys(place placing, held ...heldKey) error {
	var text strings.Builder
	for _, key := range held {
		text.WriteString(key.line())
	}
	return k.write(place, k.Path, text.String(), 0o600)
}

func (k Keys) writePublicKeys(keys []pointer.PublicKey) error {
	return k.write(os.Rename, k.publicPath(), strings.Join(texts(keys), "\n")+"\n", 0o644)
}

// placing gives a file that is whole its name: os.Rename in the place of another one, os.Link where
// there is none.
type placing func(from, to string) error

func (k Keys) write(place placing, path, text string, mode os.FileMode) error {
	dir := filepath.Dir(path)
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		err = k.notOnVolume(dir)
	}
	var file *os.File
	if err == nil {
		file, err = os.CreateTemp(dir, ".signing-*") // 0600
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() { _ = os.Remove(file.Name()) }()
	_, err = file.WriteString(text)
	if err = errors.Join(err, file.Chmod(mode), file.Sync(), file.Close()); err == nil {
		err = place(file.Name(), path)
	}
	if err == nil {
		err = store.SyncDirectory(dir)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func (k Keys) notOnVolume(dir string) error {
	var beside, volume unix.Stat_t
	if err := errors.Join(unix.Stat(dir, &beside), unix.Stat(k.On.Root(), &volume)); err != nil {
		return err
	}
	if beside.Dev == volume.Dev {
		return advice.Try(fmt.Errorf("%s is on the release volume, whose snapshots go to every member", dir), "another signing-key")
	}
	return nil
}

// texts are keys as the pointer and the volume have them.
func texts(keys []pointer.PublicKey) (lines []string) {
	for _, key := range keys {
		lines = append(lines, key.String())
	}
	return lines
}
