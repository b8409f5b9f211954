package docs

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestNothingSuggestsARestart: a restart of the unit stops the application, which stays down while
// the pointer is away; `up` does the same work beside it. No text of the programs may say it, on
// whatever member, and the manual only where it warns.
func TestNothingSuggestsARestart(t *testing.T) {
	restart := regexp.MustCompile(`(?i)systemctl (restart|stop|try-restart)|restart (the agent|ebs-release)|start the agent again`)
	for words, want := range map[string]bool{"systemctl restart ": true, "then restart the agent": true, "start the agent again": true, "ebs-release-agent up": false} {
		if restart.MatchString(words) != want {
			t.Fatalf("%q: the pattern is wrong", words)
		}
	}
	said := messages(t)
	for _, m := range said {
		if restart.MatchString(m.text) {
			t.Errorf("%s says %q. Want what stops nothing: ebs-release-agent up", m.path, m.text)
		}
	}
	if len(said) < 1000 {
		t.Fatalf("only %d texts were looked at", len(said))
	}
	manual := regexp.MustCompile(`(?i)systemctl restart ebs-release-agent|restart (the agent|ebs-release-agent)`)
	for _, document := range []string{"operations.md", "reference.md", "install.md", "../README.md"} {
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if manual.MatchString(line) && !strings.Contains(line, "Do not `systemctl restart") {
				t.Errorf("%s suggests a restart: %s", document, line)
			}
		}
	}
}
