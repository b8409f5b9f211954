package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/bucket"
)

// reports are the names below reports/ in the store, without the caller's role: "1/ready/i-…".
func (r *rig) reports() (names []string) {
	r.Helper()
	for _, file := range r.reportFiles() {
		parts := strings.Split(file, "/")
		n, err := strconv.Atoi(parts[len(parts)-3])
		must(r, err)
		_, id, _ := strings.Cut(parts[len(parts)-1], ":")
		names = append(names, strconv.Itoa(n)+"/"+parts[len(parts)-2]+"/"+id)
	}
	return names
}

func (r *rig) reportFiles() (files []string) {
	r.Helper()
	must(r, filepath.WalkDir(filepath.Join(r.lab.Dir(), "s3/objects", bucket.Name, bucket.Prefix, "reports"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	}))
	return files
}

// TestReportsInS3: members report to the store, with no right to write a tag on a volume that is
// there, and the publisher goes by that, whether it tells them or they follow.
func TestReportsInS3(t *testing.T) {
	for name, follow := range map[string]bool{"told": false, "following": true} {
		t.Run(name, func(t *testing.T) {
			roles := shippedPolicies(t, "ebs-release-agent/ReportOnOwnVolume")
			r := published(t, func(o *lab.Options) {
				o.S3, o.Policy, o.Follow = true, roles.Allow, follow
				o.AgentSettings["follow-interval"] = "1s"
				if follow {
					o.PublisherSettings["reach"] = "follow"
				}
			})
			members := r.scale(2)
			first, second := members[0], members[1]
			has := func(want ...string) {
				t.Helper()
				got := strings.Join(r.reports(), " ")
				for _, w := range want {
					if !strings.Contains(got+" ", w+" ") {
						t.Errorf("reports are %s, want %s", got, w)
					}
				}
			}
			current := func(n int) {
				t.Helper()
				s := r.status()
				for _, m := range s.Members {
					if m.Standing != "current" || m.Generation != s.Generation {
						t.Errorf("%+v", m)
					}
				}
				if len(s.Members) != n {
					t.Errorf("%d members, want %d", len(s.Members), n)
				}
			}
			has("1/ready/"+first.ID, "1/ready/"+second.ID)
			current(2)
			r.sh("echo two > /srv/source/version")
			if out := r.ok("publish", "/srv/source"); !strings.Contains(out, "generation 2 is current: 2/2 members on it") {
				t.Errorf("publish: %s", out)
			}
			has("2/ready/"+first.ID, "2/ready/"+second.ID)
			current(2)
			for _, v := range r.lab.VolumesFor(first.ID) {
				if v.Tags["ebs-release:state"] != "booting" || v.Tags["ebs-release:generation"] != "1" {
					t.Errorf("somebody wrote tags: %v", v.Tags)
				}
			}
			must(t, r.lab.Reboot(within(t, 30*time.Second), first.ID))
			current(2)

			// A generation that no publish made counts until the fence is lowered.
			var file string
			for _, f := range r.reportFiles() {
				if strings.Contains(f, "0000000000000002/ready/") && strings.HasSuffix(f, first.ID) {
					file = f
				}
			}
			text, err := os.ReadFile(file)
			must(t, err)
			r.put(strings.ReplaceAll(file[strings.Index(file, "reports/"):], "0002/", "0900/"), string(text))
			r.stand(first.ID, "ahead")
			r.on(first, "echo 900 "+r.status().Release+" > /release/.ebs-release/generation; ebs-release-agent fence --lower-to 2")
			current(2)

			// What speaks for nobody goes after a day.
			if out := r.ok("gc", "--grace", "0s"); strings.Contains(out, "reports") {
				t.Errorf("gc: %s", out)
			}
			day := time.Now().Add(-25 * time.Hour)
			for _, f := range r.reportFiles() {
				must(t, os.Chtimes(f, day, day))
			}
			if out := r.ok("gc", "--grace", "0s"); !strings.Contains(out, "removed reports 4 objects") {
				t.Errorf("gc: %s", out)
			}
			if got := r.reports(); len(got) != 2 {
				t.Errorf("gc left %v", got)
			}
			current(2)
			if out := r.ok("history"); !strings.Contains(out, "removed 4 reports") {
				t.Errorf("history: %s", out)
			}
			for _, c := range roles.Denied() {
				t.Errorf("refused: %+v", c)
			}
		})
	}
}
