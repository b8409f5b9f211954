package activation

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/gc"
	"ebs-release/internal/test/blank"
)

// What is served goes out of service by drain.d alone, also when another verb has flipped after it
// was decided that there is nothing to drain.
func TestNothingIsFlippedUndrained(t *testing.T) {
	r := newRig(t, DrainFolder, ActivateFolder)
	ctx := blank.Meanwhile(t, r.v, r.two.Release, r.two.Generation)
	r.one.Generation = 3 // current as this begins: only the fence is to go up
	r.must(Run(ctx, r.v, r.Programs, r.one))
	r.want(r.one, true)
	if got := r.ran(); got != "drain 3 one activate 3 one" {
		t.Errorf("it ran %s", got)
	}
}

// The other verb is faster, and has what is wanted: nothing goes out of service for that.
func TestWhatBecomesCurrentMeanwhileStays(t *testing.T) {
	r := newRig(t, ActivateFolder)
	ctx := blank.Meanwhile(t, r.v, r.two.Release, r.two.Generation)
	r.two.Generation = 3
	r.must(Run(ctx, r.v, r.Programs, r.two))
	r.want(r.two, true)
	if got := r.ran(); got != "" {
		t.Errorf("it ran %s", got)
	}
}

// drain.d has run for one release, and another one is current as the flip comes.
func TestADrainCountsForWhatItTookOutOfService(t *testing.T) {
	r := newRig(t, DrainFolder, ActivateFolder)
	source := t.TempDir()
	r.must(os.WriteFile(source+"/file", []byte("three"), 0o644))
	three, err := r.v.Ingest(t.Context(), source, time.Now().Add(2*time.Hour), gc.Wanted{Keep: 5})
	r.must(err)
	r.program(DrainFolder, "20-another-verb", fmt.Sprintf(`mkdir %s/once 2>/dev/null || exit 0
cd %s && ln -sfn releases/%s current && echo 2 %[3]s > .ebs-release/generation && cp .ebs-release/generation .ebs-release/activated`,
		r.Folder, r.v.Root(), three.ID))
	r.two.Generation = 3
	r.must(Run(t.Context(), r.v, r.Programs, r.two))
	r.want(r.two, true)
	if got := r.ran(); got != strings.TrimSpace(strings.Repeat("drain 3 two ", 4)+"activate 3 two") { // two programs, twice
		t.Errorf("it ran %s", got)
	}
}
