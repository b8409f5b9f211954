package e2e

import (
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
)

// TestAgentFileSystems boots from snapshots of real file systems in every condition: the release is
// served, or refused, in time and by a line that says why.
func TestAgentFileSystems(t *testing.T) {
	r := published(t, func(o *lab.Options) { o.Policy = nil })
	const (
		fill  = ` $dev; mkdir -p /mnt/f; mount $dev /mnt/f; cp -a /release/. /mnt/f/; sync -f /mnt/f; cd /mnt/f; m=$(echo .ebs-release/*.manifest); `
		done  = `cd /; umount /mnt/f; `
		write = `seq 1 200000 > releases/new; mkdir releases/d; rm -r releases/d; `
		crash = `xfs_io -x -c "shutdown -f" .; cd /; umount /mnt/f; ` // the journal is written, what it speaks of is not
		ext4  = `mkfs.ext4 -q` + fill
	)
	for _, c := range []struct {
		name, write string
		says        []string // nil: it is served
		fsck        bool     // e2fsck is run
	}{
		{"ext3", `mkfs.ext3 -q` + fill + done, nil, false},
		{"ext4", ext4 + done, nil, false},
		{"xfs", `mkfs.xfs -q` + fill + done, nil, false},
		{"ext3 with a dirty journal", `mkfs.ext3 -q` + fill + write + crash, nil, false},
		{"ext4 with a dirty journal", ext4 + write + crash, nil, false},
		{"xfs with a dirty log", `mkfs.xfs -q` + fill + write + crash, nil, false},
		{"row 14 ext4 with the error flag", ext4 + done + `debugfs -w -R "set_super_value state 2" $dev 2>/dev/null`, nil, true},
		{"ext3 not clean", `mkfs.ext3 -q` + fill + done + `debugfs -w -R "set_super_value state 0" $dev 2>/dev/null`, nil, true},
		{"row 14 ext4 that e2fsck does not repair by itself", ext4 + done + `debugfs -w -R "clri <2>" $dev 2>/dev/null; debugfs -w -R "set_super_value state 2" $dev 2>/dev/null`,
			[]string{"check: ", "e2fsck -p", "error flag", "exit code 4"}, true},
		{"ext4 with a corrupt superblock", ext4 + done + `printf garbage | dd of=$dev bs=1 seek=1100 conv=notrunc status=none`, []string{"check: ", "checksum"}, false},
		{"xfs with a corrupt superblock", `mkfs.xfs -q` + fill + done + `printf garbage | dd of=$dev bs=1 seek=40 conv=notrunc status=none`, []string{"check: ", "checksum"}, false},
		{"current leads out, absolute", ext4 + `ln -sfn /etc current; ` + done, nil, false}, // catch up makes it lead where the pointer says
		{"current leads out, relative", ext4 + `ln -sfn releases/../../etc current; ` + done, nil, false},
		{"current is a directory", ext4 + `rm current; mkdir current; ` + done, []string{"catch up: ", "current"}, false},
		{"manifest is a fifo", ext4 + `rm $m; mkfifo $m; ` + done, []string{"verify: ", "manifest"}, false},
		{"manifest is a symbolic link", ext4 + `rm $m; ln -s /etc/passwd $m; ` + done, []string{"verify: ", "manifest"}, false},
		{"manifest is a device", ext4 + `rm $m; mknod $m c 1 5; ` + done, []string{"verify: ", "manifest"}, false},
		{"manifest is huge", ext4 + `truncate -s 100G $m; ` + done, []string{"verify: "}, false},
		{"manifest of another release", ext4 + `echo "d 0755 other" > $m; ` + done, []string{"verify: "}, false},
		{"state directory is a symbolic link that stays inside", ext4 + `mv .ebs-release s; ln -s s .ebs-release; ` + done, []string{"catch up: ", "symbolic link"}, false},
		{"generation is a fifo", ext4 + `rm .ebs-release/generation; mkfifo .ebs-release/generation; ` + done, []string{"catch up: "}, false},
		{"lock is a fifo", ext4 + `rm -f .ebs-release/lock; mkfifo .ebs-release/lock; ` + done, []string{"catch up: ", "lock"}, false},
		{"releases leads out", ext4 + `mv releases r; ln -s /etc releases; ` + done, []string{"catch up: ", "releases"}, false},
		{"releases is a symbolic link that stays inside", ext4 + `mv releases r; ln -s r releases; ` + done, []string{"catch up: ", "not a directory"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r.in(t).bootFrom(r.snapshotOf(strings.TrimRight(c.write, "; "), ""), c.fsck, c.says...)
		})
	}
}

// bootFrom boots from a snapshot as if it were the published one: it is served, or refused by a
// line with certain words.
func (r *rig) bootFrom(snapshot string, fsck bool, says ...string) {
	r.Helper()
	p := r.pointerNow()
	p.Snapshots = map[string]string{r.lab.Account.Region(): snapshot}
	h := r.machine()
	r.pointer(r.signed(p))
	out := agent(within(r, 30*time.Second), h, "--deadline", "10s")
	if ran := strings.Contains(out.Stderr, "e2fsck ended"); ran != fsck {
		r.Errorf("e2fsck ran: %t, want %t", ran, fsck)
	}
	if out.took > 6*time.Second+busy {
		r.Errorf("it took %s", out.took)
	}
	if says == nil {
		must(r, failed(out))
		must(r, r.served(h, p, "one", 1))
		r.on(h, "ebs-release-agent verify") // reads every file
	} else {
		refused(r.T, out.Output, 1, append(says, "Try: ")...)
		if n := ready(h); n != 0 || len(mounts(h)) != 0 {
			r.Errorf("READY=1 said %d times, mounts %q", n, mounts(h))
		}
	}
	must(r, r.gone(within(r, 20*time.Second), h))
}

// TestAgentFileSystemsInMidWrite boots from snapshots that were taken while somebody wrote to the
// file system, without a freeze: a snapshot made by hand, or by another tool. The journal is dirty
// in the way it is then: some of it is written through, some is not. The mount replays it, and the
// release that was there before the writing is whole.
func TestAgentFileSystemsInMidWrite(t *testing.T) {
	r := published(t, nil)
	for _, c := range []struct {
		name, mkfs string
		dirty      string // a look at the disk: the journal has something to replay
	}{
		{"ext3", `mkfs.ext3 -q`, `dumpe2fs -h $dev 2>/dev/null | grep -q needs_recovery`},
		{"ext4", `mkfs.ext4 -q`, `dumpe2fs -h $dev 2>/dev/null | grep -q needs_recovery`},
		{"xfs", `mkfs.xfs -q`, `xfs_logprint -t $dev | grep -q "<DIRTY>"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := r.in(t)
			// As a push does: a tree beside the current one, file by file, some of it on its way
			// out again. Each file is synced.
			snapshot := r.snapshotOf(c.mkfs+` $dev; mkdir -p /mnt/f; mount $dev /mnt/f; cp -a /release/. /mnt/f/; sync -f /mnt/f; mkdir /mnt/f/releases/new.partial
				cat > /run/writer <<'EOF'
				cd /mnt/f/releases/new.partial
				while :; do
					i=$((i + 1)); mkdir d$i
					for f in 1 2 3 4; do dd if=/dev/urandom of=$f bs=3k count=7 conv=fsync status=none; mv $f d$i/; done
					rm -rf d$((i - 9)); touch /run/written.$i
				done
EOF
				setsid sh /run/writer </dev/null >/dev/null 2>&1 & echo $! >/run/writer.pid
				until [ -e /run/written.20 ]; do sleep 0.02; done`,
				`kill -9 $(cat /run/writer.pid); until umount /mnt/f; do sleep 0.05; done; rm /run/writ*`)
			r.onVolume(snapshot, c.dirty, func(string) {})
			r.bootFrom(snapshot, false)
		})
	}
}
