package release

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/gc"

	"golang.org/x/sys/unix"
)

// What a file has that a release does not carry is told, once for each kind.
func TestIngestTellsWhatIsLeftBehind(t *testing.T) {
	tree, source := volume(t), t.TempDir()
	write := func(name string) string {
		t.Helper()
		path := filepath.Join(source, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(name), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ingest := func() []string {
		t.Helper()
		got, err := tree.Ingest(t.Context(), source, time.Unix(1, 0), gc.Wanted{Keep: 3})
		must(err)
		return got.LeftBehind
	}
	write("plain")
	must(unix.Setxattr(write("labelled"), "security.selinux", []byte("system_u:object_r:bin_t:s0\x00"), 0))
	if got := ingest(); len(got) > 0 {
		t.Errorf("of ordinary files: %q", got)
	}

	// The value of cap_net_raw+ep, as the kernel's linux/capability.h has it (VFS_CAP_REVISION_2).
	must(unix.Setxattr(write("bin/ping"), "security.capability", []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0))
	// The value of an ACL with an entry for user 1, as acl(5) and the kernel's posix_acl_xattr.h
	// have it.
	acl := []byte{2, 0, 0, 0}
	for _, entry := range [][3]byte{{1, 7, 0xff}, {2, 7, 1}, {4, 5, 0xff}, {0x10, 7, 0xff}, {0x20, 5, 0xff}} {
		id := []byte{entry[2], entry[2], entry[2], entry[2]}
		if entry[0] == 2 {
			id = []byte{1, 0, 0, 0}
		}
		acl = append(append(acl, entry[0], 0, entry[1], 0), id...)
	}
	must(unix.Setxattr(filepath.Dir(write("shared/a")), "system.posix_acl_access", acl, 0))
	must(unix.Setxattr(write("noted"), "user.origin", []byte("here"), 0))
	must(unix.Setxattr(write("noted too"), "user.origin", []byte("here"), 0))
	long := write("with long names")
	for _, c := range "abc" {
		must(unix.Setxattr(long, "user."+strings.Repeat(string(c), 200), nil, 0))
	}
	must(os.Link(filepath.Join(source, "plain"), filepath.Join(source, "plain again")))
	must(os.Truncate(write("sparse"), 1<<20))
	must(unix.Setxattr(source, "system.posix_acl_default", acl, 0)) // last: what is made in it gets one, too

	got := strings.Join(ingest(), "\n")
	want := strings.Join([]string{
		"a release does not carry file capabilities: bin/ping has them",
		"a release does not carry ACLs: SOURCE itself and 1 more have them",
		"a release does not carry extended attributes: noted and 2 more have them",
		"a release does not carry hard links, which become files of their own: \"plain again\" has them",
		"a release does not carry holes, which are filled: sparse has them",
	}, "\n")
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
