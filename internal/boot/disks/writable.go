package disks

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"ebs-release/internal/advice"
	"ebs-release/internal/release"
)

// OpenWritable opens the release volume at a point for someone who may write to it. A user who has
// another id here than on the release server finds the tree to be somebody else's: only numbers are
// on the volume.
func OpenWritable(point string) (*release.Volume, error) {
	v, err := release.Open(point)
	if err != nil {
		return nil, err
	}
	if err := writable(v.Root()); err != nil {
		return nil, errors.Join(err, v.Close())
	}
	return v, nil
}

func writable(point string) error {
	var root unix.Stat_t
	if err := unix.Stat(point, &root); err != nil {
		return fmt.Errorf("release volume %s: %w", point, err)
	}
	if err := unix.Access(point, unix.W_OK); errors.Is(err, unix.EACCES) {
		return advice.Try(fmt.Errorf("the release volume at %s belongs to user id %d, and the user of this login has the id %d: "+
			"the ssh-user needs the same id on the release server and on the members", point, root.Uid, unix.Geteuid()),
			"usermod --uid %d", root.Uid)
	}
	return nil
}
