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

// TestTheRunbookQuotesTheCode: the words by which somebody finds a paragraph at night are those that the programs print.
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
		if !strings.Contains(said, quote) {
			t.Errorf("the runbook quotes %q, which no program says", quote)
		}
	}
}
