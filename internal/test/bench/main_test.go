// Package bench measures the two programs as they ship, on the hosts of a lab, beside what people
// do without them. Its benchmarks print the tables of docs/performance.md.
package bench

import (
	"os"
	"testing"

	"ebs-release/internal/lab/build"
	"ebs-release/internal/lab/host"
)

// programs are where TestMain has built them.
var programs struct{ agent, publisher, fakeagent string }

func TestMain(m *testing.M) {
	host.RunInit()
	os.Exit(build.Run(m, map[string]*string{
		"agent": &programs.agent, "publisher": &programs.publisher, "internal/test/bench/fakeagent": &programs.fakeagent,
	}))
}
