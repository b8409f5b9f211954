package bench

import (
	"fmt"
	"time"
)

// method is a way to bring a changed source to all members.
type method struct {
	name string
	run  func(f *fleet) figures
}

// ours, whole: scan and hash of the source, snapshot of the volume, staging, verification, commit,
// activation, report.
var publishing = method{"`ebs-release publish`, all of it", func(f *fleet) figures {
	f.change(ourSource)
	got, stdout := f.measure("ebs-release publish --output json " + ourSource + " 2>/dev/null")
	o := f.outcome(stdout)
	got.converged = o.phase("P3") + o.phase("P5")
	return got
}}

// ours, without what the others do not do: the release is on the release volume, and committed.
var converging = method{"`ebs-release converge`: staging, verification, activation", func(f *fleet) figures { return converge(f, "") }}

func converge(f *fleet, flags string) figures {
	f.Helper()
	f.change(ourSource)
	f.sh("ebs-release publish --groups nobody " + ourSource + " 2>&1")
	got, stdout := f.measure("ebs-release converge --output json " + flags + " 2>/dev/null")
	o := f.outcome(stdout)
	got.converged = o.phase("P5")
	return got
}

// The loop of the idea, one member after the other.
func loop(ssh string) method {
	return method{"loop of `rsync -a --delete`, " + sshName(ssh), func(f *fleet) figures {
		return theirs(f, fmt.Sprintf(`while read -r member; do rsync -a --delete -e "ssh -F %[1]s/%[2]s" %[3]s/ "$member:%[4]s/" </dev/null || exit 1; done <%[1]s/hosts`,
			sshFolder, ssh, theirSource, plainFolder))
	}}
}

// The same, into a new tree that is switched on at once, as ours: unchanged files are hard links.
var atomicLoop = method{"loop of `rsync -a --delete --link-dest` and a symlink, tuned ssh", func(f *fleet) figures {
	f.Helper()
	return theirs(f, fmt.Sprintf(`while read -r member; do
		rsync -a --delete --link-dest=%[4]s/current/ -e "ssh -F %[1]s/tuned" %[3]s/ "$member:%[4]s/%[5]d/" </dev/null || exit 1
		ssh -nF %[1]s/tuned "$member" "cd %[4]s && old=\$(readlink current) && ln -s %[5]d new && mv -T new current && rm -rf \$old" || exit 1
	done <%[1]s/hosts`, sshFolder, "", theirSource, atomicFolder, f.round+1))
}}

// parallel-rsync of Debian's pssh. Without -p it works on 32 members at a time.
func parallel(ssh, par string) method {
	name, p := "`parallel-rsync -p "+par+"`, ", "-p "+par
	if par == "" {
		name, p = "`parallel-rsync` (32 at a time), ", ""
	}
	return method{name + sshName(ssh), func(f *fleet) figures {
		return theirs(f, fmt.Sprintf(`parallel-rsync -h %[1]s/hosts %[5]s -a -r -x --delete -S "-F %[1]s/%[2]s" %[3]s/ %[4]s/`, sshFolder, ssh, theirSource, plainFolder, p))
	}}
}

// A login on each member that does nothing: what any way over ssh costs at least.
var login = method{"a login that does nothing, 8 at a time, tuned ssh", func(f *fleet) figures {
	f.Helper()
	got, _ := f.measure(fmt.Sprintf(`xargs -a %[1]s/hosts -P 8 -I MEMBER ssh -nF %[1]s/tuned MEMBER true`, sshFolder))
	return got
}}

func sshName(ssh string) string {
	if ssh == "plain" {
		return "ssh as it comes"
	}
	return "tuned ssh"
}

func theirs(f *fleet, script string) figures {
	f.change(theirSource)
	got, _ := f.measure(script)
	return got
}

// per is a duration per member, for a table.
func per(d time.Duration, members int) string {
	return fmt.Sprintf("%.0f ms", float64(d.Microseconds())/1000/float64(members))
}
