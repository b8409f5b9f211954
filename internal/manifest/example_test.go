package manifest_test

import (
	"fmt"
	"log"
	"os"
	"strings"

	"ebs-release/internal/manifest"
)

// What a release is, and what the next one changes.
func Example() {
	const index, logo, new = "a1", "b2", "c3"
	line := func(sum, path string) string {
		return "f 0644 5 " + strings.Repeat(sum, 32) + " 1795651200 " + path + "\n"
	}
	base, err := manifest.Parse(strings.NewReader(line(index, "index.html") + line(logo, "logo.svg")))
	if err != nil {
		log.Fatal(err)
	}
	next, err := manifest.Parse(strings.NewReader(line(new, "index.html") + line(logo, "mark.svg")))
	if err != nil {
		log.Fatal(err)
	}
	c := manifest.Count(base, next)
	fmt.Println(c.Added, "added,", c.Changed, "changed,", c.Removed, "removed")
	if err := next.Encode(os.Stdout); err != nil {
		log.Fatal(err)
	}
	// Output:
	// 1 added, 1 changed, 1 removed
	// f 0644 5 c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3 1795651200 index.html
	// f 0644 5 b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2 1795651200 mark.svg
}
