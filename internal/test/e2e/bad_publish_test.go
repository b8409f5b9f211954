package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/host"
)

// unchanged runs a publish that must be refused with code and words, and checks that nothing came
// of it.
func (r *rig) unchanged(run func() host.Output, code int, want ...string) {
	r.Helper()
	state := func() string {
		return r.account() + r.sh("cat "+lab.PointerStore+"/release.json; readlink /release/current; cat /release/current/version; ls -A /release/releases")
	}
	before := state()
	out := run()
	refused(r.T, out, code, want...)
	if after := state(); after != before {
		r.Errorf("something changed:\n%s\n%s", before, after)
	}
	r.sh("touch /release/releases/writable && rm /release/releases/writable") // not frozen
}

func TestBadSourceIsRefused(t *testing.T) {
	r := published(t, nil)
	for _, tc := range []struct {
		name, make, source string
		want               []string
	}{
		{"missing", ":", "/srv/nothing-here", []string{"/srv/nothing-here"}},
		{"a file", "echo x > /srv/file", "/srv/file", []string{"/srv/file"}},
		{"empty", "mkdir /srv/empty", "/srv/empty", []string{"/srv/empty", "empty"}},
		{"a fifo", "mkdir /srv/fifo; mkfifo /srv/fifo/pipe", "/srv/fifo", []string{"pipe"}},
		{"a device", "mkdir /srv/device; mknod /srv/device/null c 1 3", "/srv/device", []string{"null"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := r.in(t)
			r.sh(tc.make)
			r.unchanged(func() host.Output { return r.publisher("publish", tc.source) }, 3, tc.want...)
		})
	}
	t.Run("unreadable in one file", func(t *testing.T) {
		r := r.in(t)
		// Root reads everything, so the publisher runs without that right here. Of the volume, it
		// would then miss the lock alone, which is its owner's.
		r.sh("chmod 0644 /release/.ebs-release/lock; mkdir -p /srv/secret/sub; echo a > /srv/secret/a; echo b > /srv/secret/sub/hidden; chown -R nobody /srv/secret; chmod 0600 /srv/secret/sub/hidden")
		r.unchanged(func() host.Output {
			out, _ := r.server.Run(within(r, 30*time.Second), "setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search", "ebs-release", "publish", "/srv/secret")
			return out
		}, 3, "sub/hidden", "permission denied")
	})
	t.Run("no argument", func(t *testing.T) {
		r := r.in(t)
		r.unchanged(func() host.Output { return r.publisher("publish") }, 2, "SOURCE", "--help")
	})
}

func TestOddNamesAreShippedRight(t *testing.T) {
	r := published(t, nil)
	h := r.scale(1)[0]
	r.sh(`cp -a /srv/source /srv/odd; cd /srv/odd
printf x > "$(printf 'new\nline')"; printf y > "$(printf 'latin\351')"; printf z > ' -leading and trailing '; printf s > 'back\slash'; printf q > "quote'\""
mkdir "$(printf 'dir\n\377')"; printf d > "$(printf 'dir\n\377')/inner"; ln -s "$(printf 'new\nline')" link; printf star > '*'; printf hash > '#x'; printf excl > '!'`)
	r.ok("publish", "/srv/odd")
	sum := `cd "$1"; find . -print0 | LC_ALL=C sort -z | while IFS= read -r -d '' f; do printf '%q ' "$f"; if [ -d "$f" ]; then stat -c %A -- "$f"; else stat -c "%A %s" -- "$f"; fi; if [ -L "$f" ]; then readlink -- "$f" | sha256sum; elif [ -f "$f" ]; then sha256sum < "$f"; fi; done`
	list := func(h *host.Host, dir string) string {
		out, err := h.Run(within(t, 20*time.Second), "bash", "-euc", sum, "sum", dir)
		must(t, err)
		return out.Stdout
	}
	want, got := list(r.server, "/srv/odd"), list(h, "/release/current/")
	lines := func(s string) string { _, rest, _ := strings.Cut(s, "\n"); return rest } // the root's own mode is not part of a release
	if lines(want) != lines(got) || !strings.Contains(got, "inner") {
		t.Errorf("source:\n%s\nmember:\n%s", want, got)
	}
}

func TestNoMemberReachable(t *testing.T) {
	r := published(t, nil)
	hosts := r.scale(2)
	r.sh("echo two > /srv/source/version")
	for _, h := range hosts {
		r.on(h, "until [ -s /run/sshd.pid ]; do sleep 0.05; done; kill $(cat /run/sshd.pid)")
	}
	r.unchanged(func() host.Output { return r.publisher("publish", "/srv/source") }, 3, "none of 2 members", "10.0.0.", "not reachable by ssh")
}

func TestWrongSSHKey(t *testing.T) {
	r := published(t, nil)
	r.scale(1)
	r.sh("echo two > /srv/source/version; ssh-keygen -q -t ed25519 -N '' -f /root/other")
	r.unchanged(func() host.Output { return r.publisher("publish", "/srv/source", "--ssh-key", "/root/other") }, 3, "ermission denied")
	r.unchanged(func() host.Output { return r.publisher("publish", "/srv/source", "--ssh-key", "/root/nothing") }, 3, "/root/nothing")
}

// A key that ssh cannot load is named before anybody is dialed: the members are not to blame.
func TestSSHKeyThatCannotBeLoaded(t *testing.T) {
	r := published(t, nil)
	r.scale(1)
	r.sh("echo two > /srv/source/version")
	r.sh(`cd /root && ssh-keygen -q -t ed25519 -N '' -f open && ssh-keygen -q -t ed25519 -N secret -f locked
chmod 644 open; install -m 600 locked.pub half; (umask 077; echo '-----BEGIN OPENSSH PRIVATE KEY-----' > text); mkdir -m 700 directory`)
	for name, words := range map[string]string{"open": "bad permissions", "locked": "passphrase", "half": "Load key", "text": "Load key", "directory": "/root/directory"} {
		for verb, code := range map[string]int{"publish /srv/source": 3, "rollback": 3, "converge": 3, "doctor": 1, "verify --all": 3} {
			var out host.Output
			args := append(strings.Fields(verb), "--ssh-key", "/root/"+name)
			r.unchanged(func() host.Output { out = r.publisher(args...); return out }, code)
			said := out.Stdout + out.Stderr
			if !strings.Contains(said, "cannot load the private key /root/"+name) || !strings.Contains(said, words) || strings.Contains(said, "login refused") {
				t.Errorf("%s with the key %s: %s", verb, name, said)
			}
		}
	}
}

func TestUnknownGroup(t *testing.T) {
	r := published(t, nil)
	r.sh("echo two > /srv/source/version")
	r.unchanged(func() host.Output { return r.publisher("publish", "/srv/source", "--groups", "wbe") }, 3, `"wbe"`)
}

func TestAnotherPublishIsRunning(t *testing.T) {
	r := published(t, nil)
	r.sh("echo two > /srv/source/version")
	// The lock is flock(2) on a file of the store: a publish that hangs holds it.
	out := make(chan host.Output, 1)
	go func() {
		o, _ := r.server.Run(within(t, 30*time.Second), "flock", lab.PointerStore+"/.lock", "sh", "-c", "echo held; touch /run/held; while [ -e /run/held ]; do sleep 0.05; done")
		out <- o
	}()
	r.sh("for i in $(seq 200); do [ -e /run/held ] && exit 0; sleep 0.05; done; exit 1")
	r.unchanged(func() host.Output { return r.publisher("publish", "/srv/source") }, 4, "lock")
	r.sh("rm /run/held")
	<-out
	r.ok("publish", "/srv/source")
}

func TestReleaseVolumeFull(t *testing.T) {
	r := published(t, nil)
	r.sh("mkdir /srv/big; cp -a /srv/source/. /srv/big; head -c 50M /dev/urandom > /srv/big/blob; fallocate -l $(( $(df --output=avail -B1 /release | tail -1) - 30000000 )) /release/ballast")
	r.unchanged(func() host.Output { return r.publisher("publish", "/srv/big") }, 3, "no space left")
	r.sh("rm /release/ballast")
	r.ok("publish", "/srv/big")
}

func TestMemberFull(t *testing.T) {
	r := published(t, func(o *lab.Options) { o.PublisherSettings["converge-deadline"] = "6s" })
	hosts := r.scale(2)
	slices.SortFunc(hosts, func(a, b *host.Host) int { return strings.Compare(a.ID, b.ID) })
	fine, full := hosts[0], hosts[1]
	r.on(full, "fallocate -l $(( $(df --output=avail -B1 /release | tail -1) - 5000000 )) /release/ballast 2>/dev/null || dd if=/dev/zero of=/release/ballast bs=1M status=none || true")
	r.sh("head -c 50M /dev/urandom > /srv/source/blob; echo two > /srv/source/version")
	out := r.publisher("publish", "/srv/source")
	refused(t, out, 5, "1/2 members", full.ID, "o space left")
	if got := r.on(fine, "cat /release/current/version"); got != "two" {
		t.Errorf("the sound member says %q", got)
	}
	if got := r.on(full, "cat /release/current/version"); got != "one" {
		t.Errorf("the full member says %q", got)
	}
	if listed := r.status().Members; listed[0].InstanceID != full.ID || listed[1].InstanceID != fine.ID {
		t.Errorf("%+v: those behind come first", listed)
	}
	r.on(full, "rm /release/ballast")
	r.ok("converge", "--converge-deadline", "1m") // the publish's is short, so that it gives up
	for _, m := range r.status().Members {
		if m.Generation != 2 {
			t.Errorf("%s is on generation %d after converge", m.InstanceID, m.Generation)
		}
	}
	if got := r.on(full, "cat /release/current/version"); got != "two" {
		t.Errorf("after converge the member says %q", got)
	}
}
