package release

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"
)

// Two files of a volume hold keys, so that who has a snapshot needs nothing else in order to catch
// up from its store. What a key means is for others to say: here it is a line.
const (
	keysName    = "keys" // public keys that may sign the pointer of this store, one a line
	keysPath    = stateDir + "/" + keysName
	packKeyName = "pack-key" // what opens the packs of a store that others can read, too
	packKeyPath = stateDir + "/" + packKeyName
	mostKeys    = 16
	maxKey      = 200 // bytes of one of the keys
	maxPackKey  = 4096
)

// Keys returns the public keys that may sign the pointer of the volume's store; nil when it says
// none, as before there were any.
func (v *Volume) Keys() ([]string, error) {
	keys, err := v.keyLines(keysPath, mostKeys*(maxKey+1))
	if err == nil && keys != nil {
		err = checkKeys(keys)
	}
	if err != nil {
		return nil, fmt.Errorf("keys of %s (%s): %w", v.path, keysPath, err)
	}
	return keys, nil
}

// SetKeys writes the keys that are from now on believed, at least one and at most 16, on disk.
func (v *Volume) SetKeys(ctx context.Context, keys []string) error {
	if err := checkKeys(keys); err != nil {
		return fmt.Errorf("keys of %s: %w", v.path, err)
	}
	return v.setKeyLines(ctx, keysName, stateMode, keys)
}

func checkKeys(keys []string) error {
	if len(keys) == 0 || len(keys) > mostKeys {
		return fmt.Errorf("%d keys, want 1 to %d", len(keys), mostKeys)
	}
	for i, key := range keys {
		if err := checkKey(key, maxKey); err != nil {
			return fmt.Errorf("key %d: %w", i+1, err)
		}
	}
	return nil
}

// PackKey returns what opens the packs of the volume's store; "" when there is nothing. Only the
// owner of the tree, and root, can read it.
func (v *Volume) PackKey() (string, error) {
	lines, err := v.keyLines(packKeyPath, maxPackKey)
	switch {
	case err != nil:
	case lines == nil:
		return "", nil
	case len(lines) != 1:
		err = fmt.Errorf("%d lines, want one", len(lines))
	default:
		err = checkKey(lines[0], maxPackKey-1)
	}
	if err != nil {
		return "", fmt.Errorf("pack key of %s (%s): %w", v.path, packKeyPath, err)
	}
	return lines[0], nil
}

// SetPackKey writes what opens the packs of the volume's store, on disk.
func (v *Volume) SetPackKey(ctx context.Context, key string) error {
	if err := checkKey(key, maxPackKey-1); err != nil {
		return fmt.Errorf("pack key of %s: %w", v.path, err)
	}
	return v.setKeyLines(ctx, packKeyName, 0o600, []string{key})
}

// PackKeySince is when the key of the packs was written; zero when there is none. A snapshot of
// before has another one, or none.
func (v *Volume) PackKeySince() (since time.Time, err error) {
	info, err := v.root.Lstat(packKeyPath)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return since, nil
	case err != nil:
		return since, fmt.Errorf("pack key of %s: %w", v.path, err)
	}
	return info.ModTime(), nil
}

// checkKey does not say what is in it: it may be secret.
func checkKey(key string, limit int) error {
	switch {
	case key == "" || len(key) > limit:
		return fmt.Errorf("a line of %d bytes, want 1 to %d", len(key), limit)
	case strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' }):
		return errors.New("a byte that is not printable ASCII")
	}
	return nil
}

// keyLines is nil when there is no such file.
func (v *Volume) keyLines(name string, limit int64) ([]string, error) {
	data, err := v.readPlain(name, limit)
	if err != nil || data == nil {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(data), "\n"), "\n"), nil
}

func (v *Volume) setKeyLines(ctx context.Context, name string, mode fs.FileMode, lines []string) error {
	text := strings.Join(lines, "\n") + "\n"
	return v.locked(ctx, func() error { return v.replaceText(name, mode, text) })
}
