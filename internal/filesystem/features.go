package filesystem

import (
	"errors"
	"fmt"
	"strings"

	"ebs-release/internal/advice"

	"golang.org/x/sys/unix"
)

// features are the bits of one word of a superblock.
type features struct {
	word        string
	have, known uint32
	names       map[uint32]string // of bits that are not known
}

// newer names the bits that are not known, or gives their number.
func newer(words []features) string {
	var all []string
	for _, w := range words {
		for bit := uint32(1); bit != 0; bit <<= 1 {
			if w.have&^w.known&bit == 0 {
				continue
			}
			name := w.names[bit]
			if name == "" {
				name = fmt.Sprintf("%s %#x", w.word, bit)
			}
			all = append(all, name)
		}
	}
	return strings.Join(all, ", ")
}

// WhyNotMounted adds to the error of a mount the features that this kernel may not know: all that
// it says is "invalid argument" (csi-driver-lvm #111).
func (i Info) WhyNotMounted(err error) error {
	if i.Newer == "" || !errors.Is(err, unix.EINVAL) {
		return err
	}
	return advice.Try(advice.Errorf("%w; the %s has features that kernels older than its mkfs may not know: %s", err, i.Kind, i.Newer),
		"a newer kernel on the member, or a release volume that `ebs-release init` formats")
}
