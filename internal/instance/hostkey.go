package instance

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"ebs-release/internal/advice"
)

// maxTagValue is the most that EC2 takes as the value of a tag, in characters. An RSA key of 2048
// bits has 380.
const maxTagValue = 256

// HostKey returns the public key of this machine's sshd, "ssh-ed25519 AAAA…" without its comment,
// from a directory such as /etc/ssh. The publisher trusts no other when it pushes to this member.
func HostKey(dir string) (string, error) {
	var failures []error
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		path := filepath.Join(dir, "ssh_host_"+kind+"_key.pub")
		text, err := os.ReadFile(path)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		words := strings.Fields(string(text))
		if len(words) < 2 {
			failures = append(failures, fmt.Errorf("%s is no public key", path))
			continue
		}
		key := words[0] + " " + words[1]
		if len(key) > maxTagValue {
			failures = append(failures, advice.Try(fmt.Errorf("the key in %s has %d characters, a tag holds %d", path, len(key), maxTagValue),
				"ssh-keygen -A (it makes an ed25519 key)"))
			continue
		}
		return key, nil
	}
	return "", errors.Join(failures...)
}
