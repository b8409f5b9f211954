// Package e2e holds the tests of the whole: the built programs, as they ship, on the hosts of a
// lab.
package e2e

import (
	"os"
	"testing"

	"ebs-release/internal/lab/build"
	"ebs-release/internal/lab/host"
)

// programs are where TestMain has built them: the agent and the publisher as they ship, and the
// lab's own.
var programs struct{ agent, publisher, lab string }

func TestMain(m *testing.M) {
	host.RunInit()
	os.Exit(build.Run(m, map[string]*string{"agent": &programs.agent, "publisher": &programs.publisher, "internal/lab/cmd/ebs-lab": &programs.lab}))
}
