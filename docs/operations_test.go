package docs

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestEveryErrorLineInOperationsIsOneOfTheCode: whoever searches the manual for a line that the agent printed must find it.
func TestEveryErrorLineInOperationsIsOneOfTheCode(t *testing.T) {
	manual, err := os.ReadFile("operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(manual), "## Error line, cause, remedy")
	lines := regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(section, -1)
	if !found || len(lines) < 20 {
		t.Fatalf("the table of error lines has %d rows", len(lines))
	}
	said := messages(t)
	for _, line := range lines {
		if !strings.Contains(said, line[1]) {
			t.Errorf("the manual explains %q, which no program says", line[1])
		}
	}
}
