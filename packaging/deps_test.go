package packaging_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestDepsLookWhereTheHostsLook: a program that this machine's PATH has, and the PATH of the lab's
// hosts has not, is missing.
func TestDepsLookWhereTheHostsLook(t *testing.T) {
	elsewhere := t.TempDir()
	for name, text := range map[string]string{"aws": "", "rsync": "", "apt-get": `echo "$@" >>` + elsewhere + "/asked\n"} {
		write(t, filepath.Join(elsewhere, name), "#!/bin/sh\n"+text)
		run(t, "chmod", "+x", filepath.Join(elsewhere, name))
	}
	// /usr/bin has no rsync and no aws, for this one process.
	const hide = `for f in /usr/bin/rsync /usr/bin/aws /usr/local/bin/aws; do [ ! -e $f ] || mount --bind /dev/null $f; done; exec dev/deps bench`
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "sh", "-ec", hide)
	cmd.Env = []string{"PATH=" + elsewhere + ":/usr/local/bin:/usr/bin:/bin"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, asked, _ := strings.Cut(read(t, filepath.Join(elsewhere, "asked")), "install ")
	for _, name := range []string{" rsync", " awscli"} {
		if !strings.Contains(asked, name) {
			t.Errorf("no%s was asked for, but:%s", name, asked)
		}
	}
	if !strings.Contains(string(out), "the lab's hosts find no rsync") {
		t.Errorf("deps said %q", out)
	}

	// The two say the same of where that is.
	machine, deps := read(t, "../internal/lab/machine.go"), read(t, "dev/deps")
	_, path, _ := strings.Cut(machine, `"PATH=`)
	if path, _, _ = strings.Cut(path, `"`); path == "" || !strings.Contains(deps, "\nPATH="+path+"\n") {
		t.Errorf("deps does not look in the hosts' PATH, %s", path)
	}
}
