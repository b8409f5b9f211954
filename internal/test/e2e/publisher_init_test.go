package e2e

import (
	"testing"
)

// TestEncryptionGoesFromTheReleaseVolumeToTheMembers: one flag of init is all that is to be done
// about it.
func TestEncryptionGoesFromTheReleaseVolumeToTheMembers(t *testing.T) {
	r := newRig(t, nil)
	const key = "arn:aws:kms:us-east-1:123456789012:key/0123abcd-12ab-34cd-56ef-0123456789ab"
	refused(t, r.publisher("init", "--size", "1", "--kms-key", key), 3, "allow this instance's role kms:CreateGrant", key)
	r.lab.Account.AllowKeys(key)
	r.ok("init", "--size", "1", "--kms-key", key)
	r.sh("mkdir /srv/source && echo one > /srv/source/version")
	r.ok("publish", "/srv/source")
	r.scale(1)
	encrypted := 0
	for _, v := range r.lab.Account.Volumes() {
		if v.Tags["ebs-release:role"] == "" || v.State == "deleted" {
			continue
		}
		if !v.Encrypted || v.KMSKeyID != key {
			t.Errorf("%s (%s): encrypted %v, key %q", v.ID, v.Tags["ebs-release:role"], v.Encrypted, v.KMSKeyID)
		}
		encrypted++
	}
	if encrypted != 2 {
		t.Errorf("%d encrypted volumes, want the server's and the member's", encrypted)
	}
}
