package lab

import (
	"errors"
	"slices"

	"ebs-release/internal/lab/cloud"
)

// VolumesFor are the volumes that the agent of an instance made for it, those that are gone left
// out.
func (l *Lab) VolumesFor(instanceID string) []cloud.Volume {
	return slices.DeleteFunc(l.Account.Volumes(), func(v cloud.Volume) bool {
		gone := v.State == "deleting" || v.State == "deleted"
		return gone || v.Tags["ebs-release:instance"] != instanceID || v.Tags["ebs-release:role"] != "member"
	})
}

// FreezeDisks lets no write to any volume of the lab come to an end, until ThawDisks or Close: the
// disks stop answering.
func (l *Lab) FreezeDisks() error { return l.hardware.store.Freeze() }

// ThawDisks ends FreezeDisks.
func (l *Lab) ThawDisks() error { return l.hardware.store.Thaw() }

// ServerVolume is the volume that `ebs-release init` made for the release server.
func (l *Lab) ServerVolume() (string, error) {
	for _, v := range l.Account.Volumes() {
		if v.Tags["ebs-release:role"] == "server" {
			return v.ID, nil
		}
	}
	return "", errors.New("the release server has no volume")
}
