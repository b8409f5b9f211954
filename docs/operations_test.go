package docs

import (
	"os"
	"strings"
	"testing"
)

// TestEveryErrorLineInOperationsIsOneOfTheCode: whoever searches the manual for a line that the
// agent printed must find it.
func TestEveryErrorLineInOperationsIsOneOfTheCode(t *testing.T) {
	explainsWhatIsSaid(t, "operations.md", "## Error line, cause, remedy", 20)
}

// TestTheRunbookQuotesTheCode: the words by which somebody finds a paragraph at night are those
// that the programs print.
func TestTheRunbookQuotesTheCode(t *testing.T) {
	manual, err := os.ReadFile("operations.md")
	if err != nil {
		t.Fatal(err)
	}
	runbook, _, _ := strings.Cut(string(manual), "# The agent in detail")
	said := messages(t)
	for _, quote := range []string{
		"nothing was changed", "is committed", "hook failed", "ssh login refused", "its disk is full", "belongs to user id", "another ssh host key", "committed, no report",
		"a publish is running", "members report generation",
	} {
		if !strings.Contains(runbook, quote) {
			t.Errorf("the runbook does not quote %q any more", quote)
		}
		if !said.have(quote) {
			t.Errorf("the runbook quotes %q, which no program says", quote)
		}
	}
}
