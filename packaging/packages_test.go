package packaging_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab/debian"
)

// TestPackages makes the packages for this machine and tries them: the same bytes twice, lintian,
// rpmlint, and what an AMI builder and an operator do with them. It needs root, the Debian packages
// lintian, rpm, rpmlint, mmdebstrap, systemd-container and curl, and this machine's own source of
// Debian packages for the trees that it installs into, which are kept in the user's cache.
func TestPackages(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	v1 := build(t, "..", first, "1.0")
	v2 := build(t, "..", second, "2.0")

	t.Run("reproducible", func(t *testing.T) {
		elsewhere := copyTree(t)
		again := build(t, elsewhere, t.TempDir(), "1.0")
		for name, path := range v1 {
			if a, b := digest(t, path), digest(t, again[name]); a != b {
				t.Errorf("%s: built in another directory at another time it is another file: %s, %s", filepath.Base(path), a, b)
			}
		}
	})
	t.Run("lintian", func(t *testing.T) {
		cmd := exec.Command("lintian", "--allow-root", "--profile", "debian", "--fail-on", "error,warning", v1["ebs-release-agent.deb"], v1["ebs-release.deb"])
		cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir()) // it leaves files behind
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("lintian: %v\n%s", err, out)
		}
	})
	t.Run("rpmlint", func(t *testing.T) {
		// rpmlint unpacks with cpio, to wherever the names in the package say, and nfpm's begin
		// with a slash: as root that is this machine.
		safe := t.TempDir()
		write(t, filepath.Join(safe, "cpio"), "#!/bin/sh\nexec /usr/bin/cpio --no-absolute-filenames \"$@\"\n")
		run(t, "chmod", "+x", filepath.Join(safe, "cpio"))
		cmd := exec.Command("rpmlint", "--config", "rpmlint.toml", v1["ebs-release-agent.rpm"], v1["ebs-release.rpm"])
		cmd.Env = append(os.Environ(), "PATH="+safe+":"+os.Getenv("PATH"), "HOME="+safe)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), " 0 errors") {
			t.Errorf("rpmlint: %v\n%s", err, out)
		}
	})
	for _, tree := range []struct {
		name    string
		systemd bool
		running bool
	}{
		{"without systemd", false, false},
		{"with systemd in a chroot", true, false}, // as image builders install
		{"with systemd running", true, true},      // Packer on an instance
	} {
		t.Run("deb "+tree.name, func(t *testing.T) { lifeOfDeb(t, newTree(t, tree.systemd, tree.running), v1, v2) })
		t.Run("rpm "+tree.name, func(t *testing.T) { lifeOfRPM(t, newTree(t, tree.systemd, tree.running), v1, v2) })
	}
	t.Run("deb under systemd", func(t *testing.T) { lifeUnderSystemd(t, newTree(t, true, false), v1, v2) })
}

// lifeOfDeb installs, upgrades, removes and purges as an operator would, while something is mounted
// at /release.
func lifeOfDeb(t *testing.T, tree tree, v1, v2 map[string]string) {
	dpkg := func(args ...string) {
		t.Helper()
		tree.run(t, "dpkg", append([]string{"--root=" + tree.root}, args...)...)
	}
	dpkg("--install", v1["ebs-release-agent.deb"], v1["ebs-release.deb"])
	tree.has(t, enabledAgent, "etc/ebs-release/agent.toml", "etc/ebs-release/publisher.toml", "var/lib/ebs-release/pointer",
		"etc/ebs-release/stage.d", "etc/ebs-release/drain.d", "etc/ebs-release/activate.d", "etc/ebs-release/ready.d",
		"etc/ebs-release/publish.d/before", "etc/ebs-release/publish.d/verify", "etc/ebs-release/publish.d/after",
		"usr/share/doc/ebs-release/operations.md", "usr/share/doc/ebs-release-agent/operations.md",
		"usr/share/doc/ebs-release/reference.md", "usr/share/doc/ebs-release-agent/reference.md")
	tree.hasNot(t, enabledServe)
	if got := tree.run(t, "chroot", tree.root, "/usr/bin/ebs-release-agent", "version"); !strings.Contains(got, "1.0") {
		t.Errorf("ebs-release-agent version says %q", got)
	}

	release := tree.mountRelease(t)
	write(t, tree.path("etc/ebs-release/agent.toml"), "pointer = \"http://release.internal/release.json\"\n")
	write(t, tree.path("etc/ebs-release/disabled"), "")
	write(t, tree.path("var/lib/ebs-release/pointer/release.json"), "{}\n")
	dpkg("--install", v2["ebs-release-agent.deb"], v2["ebs-release.deb"])
	tree.has(t, enabledAgent, "etc/ebs-release/disabled")
	if got := read(t, tree.path("etc/ebs-release/agent.toml")); !strings.Contains(got, "release.internal") {
		t.Errorf("the upgrade lost the operator's configuration: %s", got)
	}
	release.untouched(t)

	// What the operator disabled stays disabled.
	tree.run(t, "rm", tree.path(enabledAgent))
	dpkg("--install", v2["ebs-release-agent.deb"])
	tree.hasNot(t, enabledAgent)
	tree.run(t, "ln", "-s", "/usr/lib/systemd/system/ebs-release-agent.service", tree.path(enabledAgent))

	dpkg("--remove", "ebs-release-agent")
	tree.has(t, "etc/ebs-release/agent.toml", "etc/ebs-release/disabled")
	tree.hasNot(t, "usr/bin/ebs-release-agent", "usr/lib/systemd/system/ebs-release-agent.service", "usr/lib/systemd/system/ebs-release-agent.path")
	dpkg("--purge", "ebs-release-agent")
	tree.has(t, "etc/ebs-release/publisher.toml") // the other package's
	tree.hasNot(t, enabledAgent, "etc/ebs-release/agent.toml", "etc/ebs-release/disabled")
	dpkg("--purge", "ebs-release")
	tree.has(t, "var/lib/ebs-release/pointer/release.json") // members boot by it
	tree.hasNot(t, "etc/ebs-release", "usr/share/doc/ebs-release")
	release.untouched(t)
	tree.toldSystemd(t, map[string]bool{
		"--system daemon-reload": true, "daemon-reload": false,
		"--root=/ --system --preset-mode=enable-only preset ebs-release-agent.service":                           true, // deb-systemd-helper enable
		"stop ebs-release-gc.timer ebs-release-rollout.timer ebs-release-serve.socket ebs-release-serve.service": true,
		"stop ebs-release-follow.service ebs-release-warm.service":                                               true,
	})
}

// lifeOfRPM is the same on the distributions whose presets disable everything by default. rpm knows
// no purge.
func lifeOfRPM(t *testing.T, tree tree, v1, v2 map[string]string) {
	write(t, tree.path("usr/lib/systemd/system-preset/99-default-disable.preset"), "disable *\n")
	// --nodeps: this tree's other programs came from Debian.
	rpm := func(args ...string) {
		t.Helper()
		tree.run(t, "rpm", append([]string{"--root=" + tree.root, "--nodeps", "--nosignature"}, args...)...)
	}
	rpm("--install", v1["ebs-release-agent.rpm"], v1["ebs-release.rpm"])
	tree.has(t, "etc/ebs-release/agent.toml", "etc/ebs-release/publisher.toml", "var/lib/ebs-release/pointer")
	if tree.systemd {
		tree.has(t, enabledAgent)
	}
	tree.hasNot(t, enabledServe)

	release := tree.mountRelease(t)
	write(t, tree.path("etc/ebs-release/agent.toml"), "pointer = \"http://release.internal/release.json\"\n")
	write(t, tree.path("var/lib/ebs-release/pointer/release.json"), "{}\n")
	rpm("--upgrade", v2["ebs-release-agent.rpm"], v2["ebs-release.rpm"])
	if got := read(t, tree.path("etc/ebs-release/agent.toml")); !strings.Contains(got, "release.internal") {
		t.Errorf("the upgrade lost the operator's configuration: %s", got)
	}
	if tree.systemd {
		tree.has(t, enabledAgent)
		tree.run(t, "rm", tree.path(enabledAgent)) // what the operator disabled stays disabled
		rpm("--upgrade", "--replacepkgs", v2["ebs-release-agent.rpm"])
		tree.hasNot(t, enabledAgent)
	}
	rpm("--erase", "ebs-release-agent", "ebs-release")
	tree.has(t, "etc/ebs-release/agent.toml.rpmsave", "var/lib/ebs-release/pointer/release.json")
	tree.hasNot(t, "usr/bin/ebs-release-agent", enabledAgent)
	release.untouched(t)
	tree.toldSystemd(t, map[string]bool{
		"daemon-reload": true,
		"--no-reload preset ebs-release-agent.service ebs-release-follow.service": true, "--no-reload preset ebs-release-serve.socket ebs-release-gc.timer ebs-release-rollout.timer": true,
		"--no-reload disable ebs-release-agent.service ebs-release-follow.service": true, "--no-reload disable ebs-release-serve.socket ebs-release-gc.timer ebs-release-rollout.timer": true,
		"stop ebs-release-gc.timer ebs-release-rollout.timer ebs-release-serve.socket ebs-release-serve.service": true,
		"stop ebs-release-follow.service ebs-release-warm.service":                                               true,
	})
}

const (
	enabledAgent = "etc/systemd/system/multi-user.target.wants/ebs-release-agent.service"
	enabledServe = "etc/systemd/system/sockets.target.wants/ebs-release-serve.socket"
)

// build makes the packages of the source tree for this machine's architecture, and returns them by
// "NAME.deb", "NAME.rpm".
func build(t *testing.T, source, out, version string) map[string]string {
	t.Helper()
	cmd := exec.Command(filepath.Join(source, "packaging/dev/packages"), out)
	cmd.Env = append(os.Environ(), "ARCHES="+runtime.GOARCH, "VERSION="+version, "SOURCE_DATE_EPOCH=1767225600")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("packaging/dev/packages: %v\n%s", err, out)
	}
	made := map[string]string{}
	for _, name := range []string{"ebs-release", "ebs-release-agent"} {
		for pattern, kind := range map[string]string{name + "_*.deb": ".deb", name + "-[0-9]*.rpm": ".rpm"} {
			found, _ := filepath.Glob(filepath.Join(out, pattern))
			if len(found) != 1 {
				t.Fatalf("packaging/dev/packages made %d files %s, want one", len(found), pattern)
			}
			made[name+kind] = found[0]
		}
	}
	return made
}

// copyTree copies what the packages are made of to another directory; times and permissions as
// another checkout would have them.
func copyTree(t *testing.T) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "another", "checkout")
	if err := os.MkdirAll(to, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"go.mod", "go.sum", "nfpm.yaml", "nfpm.publisher.yaml", "LICENSE", "agent", "publisher", "internal", "systemd", "packaging", "docs"} {
		run(t, "cp", "-r", filepath.Join("..", name), to)
	}
	run(t, "chmod", "-R", "go-rwx", to)
	return to
}

func digest(t *testing.T, path string) string {
	t.Helper()
	return fmt.Sprintf("%x", sha256.Sum256([]byte(read(t, path))))
}

// tree is a small Debian, thrown away after the test.
type tree struct {
	root    string
	systemd bool // systemctl is there
	running bool // and systemd seems to run; systemctl writes down what it is told
}

// newTree lays an overlay on a tree that is made once and kept in the user's cache.
func newTree(t *testing.T, systemd, running bool) tree {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	suite, err := debian.Suite()
	if err != nil {
		t.Fatal(err)
	}
	name, include := suite, "rsync,e2fsprogs,openssh-client"
	if systemd {
		name, include = name+"-systemd", include+",systemd"
	}
	base := filepath.Join(cache, "ebs-release", "packaging", name)
	if _, err := os.Stat(base); err != nil {
		making := fmt.Sprintf("%s.%d", base, os.Getpid())
		if err := os.MkdirAll(filepath.Dir(base), 0o755); err != nil {
			t.Fatal(err)
		}
		line, err := debian.Bootstrap(t.Context(), suite, making, "--variant=essential", "--include="+include)
		if err != nil {
			t.Fatal(err)
		}
		run(t, line[0], line[1:]...)
		if err := os.Rename(making, base); err != nil {
			t.Fatal(err)
		}
	}
	root, upper := t.TempDir(), t.TempDir()
	for _, dir := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(upper, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "mount", "-t", "overlay", "overlay", "-o", fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", base, upper, upper), root)
	t.Cleanup(func() { run(t, "umount", "--recursive", root) })
	made := tree{root, systemd, running}
	if running {
		if err := os.MkdirAll(made.path("run/systemd/system"), 0o755); err != nil {
			t.Fatal(err)
		}
		run(t, "mv", made.path("usr/bin/systemctl"), made.path("usr/bin/systemctl.real"))
		write(t, made.path("usr/bin/systemctl"), `#!/bin/sh
echo "$@" >>/systemctl.log
case "$*" in *preset* | *disable*) SYSTEMD_OFFLINE=1 exec systemctl.real "$@" ;; esac
`)
		run(t, "chmod", "+x", made.path("usr/bin/systemctl"))
	}
	return made
}

func (tree tree) path(name string) string { return filepath.Join(tree.root, name) }

// run runs a program that must succeed within five minutes; nothing in it may ask a question.
func (tree tree) run(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive", "HOME=/root"} // HOME: in the tree, for rpm
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (tree tree) has(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := os.Lstat(tree.path(name)); err != nil {
			t.Errorf("/%s is missing", name)
		}
	}
}

func (tree tree) hasNot(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := os.Lstat(tree.path(name)); err == nil {
			t.Errorf("/%s is there", name)
		}
	}
}

// toldSystemd holds what the scripts told systemd against a list: what is true must have been told;
// nothing else may have been, unless it is false.
func (tree tree) toldSystemd(t *testing.T, words map[string]bool) {
	t.Helper()
	if !tree.running {
		tree.hasNot(t, "systemctl.log")
		return
	}
	told := strings.Split(strings.TrimSpace(read(t, tree.path("systemctl.log"))), "\n")
	for _, line := range told {
		if _, ok := words[line]; !ok {
			t.Errorf("a script told systemd: %s", line)
		}
	}
	for line, must := range words {
		if must && !slices.Contains(told, line) {
			t.Errorf("no script told systemd: %s", line)
		}
	}
}

// mounted is a file system at /release.
type mounted struct{ tree tree }

func (tree tree) mountRelease(t *testing.T) mounted {
	t.Helper()
	if err := os.MkdirAll(tree.path("release"), 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "mount", "-t", "tmpfs", "release", tree.path("release"))
	write(t, tree.path("release/current/index.html"), "hello\n")
	return mounted{tree}
}

func (m mounted) untouched(t *testing.T) {
	t.Helper()
	run(t, "mountpoint", "--quiet", m.tree.path("release"))
	m.tree.has(t, "release/current/index.html")
}
