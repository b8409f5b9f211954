package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/host"
)

// deploy is the user id of lab.SSHUser: it owns the sources, so that no method has owners to fix.
const deploy = 61200

// memory is where the disks of the lab are: on EC2 the members' volumes are disks of their own, not
// files on one disk that all of them sync. What a killed benchmark leaves there the next lab
// removes.
const memory = "/dev/shm"

// Folders of the release server. Ours and the others' source begin as equals, and each is changed
// before each measurement.
const (
	ourSource   = "/srv/ours"
	theirSource = "/srv/theirs"
	sshFolder   = "/srv/ssh"
)

// Folders on the members that the others write to. They are on the release volume, too, and come
// with the snapshot.
const (
	plainFolder  = "/release/plain"  // what a plain rsync keeps up to date in place
	atomicFolder = "/release/atomic" // trees, and `current`: the same layout and the same switch as ours
)

// fleet is a lab with a release server, and members that all hold the first release.
type fleet struct {
	testing.TB
	lab     *lab.Lab
	server  *host.Host
	members []*host.Host
	files   []string // of the source, relative
	changed int      // of them, each time
	round   int      // counts the changes
}

// newFleet starts it.
func newFleet(tb testing.TB, latency cloud.LatencyTable, members, files, changed int) *fleet {
	tb.Helper()
	ctx := within(tb, 10*time.Minute)
	l, err := lab.Start(ctx, lab.Options{
		Agent: programs.agent, Publisher: programs.publisher, Dir: memory, Seed: 1, Latency: latency,
		// Two listings of the members this far apart end a publish. It is a wait that nobody works
		// in; the default is 5 s.
		PublisherSettings: map[string]string{"settle": "100ms"},
	})
	must(tb, err)
	tb.Cleanup(func() { must(tb, l.Close()) })
	f := &fleet{TB: tb, lab: l, changed: changed}
	f.server, err = l.ReleaseServer(ctx)
	must(tb, err)
	must(tb, l.Group("web", 0, 1000))
	must(tb, l.Group("nobody", 0, 1))
	f.makeSource(files)
	f.sh(`mkdir -p ` + sshFolder + `; cp -al ` + ourSource + ` ` + theirSource)
	f.sh(`ebs-release init --size 8; ebs-release publish ` + ourSource + ` 2>&1`)
	// Hard links: rsync replaces files, it does not write into them.
	f.sh(`umask 022; mkdir -p ` + atomicFolder + ` && cp -al /release/current/. ` + plainFolder + `/ && cp -al ` + plainFolder + ` ` + atomicFolder + `/0 &&
		ln -s 0 ` + atomicFolder + `/current && chown -h deploy:deploy ` + atomicFolder + ` ` + atomicFolder + `/current && chown deploy:deploy ` + plainFolder + ` ` + atomicFolder + `/0`)
	// The snapshot has all that in it, and as many releases as a member keeps: the first pushes to
	// a volume with fewer make a tree of hard links, later ones make the oldest tree into the new
	// one.
	for range 2 {
		f.change(ourSource)
		f.sh(`ebs-release publish ` + ourSource + ` 2>&1`)
	}
	must(tb, l.Account.SetDesired("web", int32(members)))
	f.members, err = l.AllBooted(ctx, "web", members)
	must(tb, err)
	f.configureSSH()
	return f
}

// makeSource makes a tree of small files, 100 in a directory, 2.5 KiB each on average.
func (f *fleet) makeSource(files int) {
	f.Helper()
	root := f.server.Path(ourSource)
	chance := rand.New(rand.NewPCG(1, 2))
	f.files = make([]string, files)
	for i := range files {
		dir := fmt.Sprintf("part%d/module%d", i/5000, i/100)
		if i%100 == 0 {
			must(f, os.MkdirAll(filepath.Join(root, dir), 0o755))
		}
		f.files[i] = fmt.Sprintf("%s/file%d.txt", dir, i)
		must(f, os.WriteFile(filepath.Join(root, f.files[i]), text(chance, 200+chance.IntN(4800)), 0o644))
	}
	f.sh(`chown -R deploy:deploy ` + ourSource)
}

// text is made of words, as sources are.
func text(chance *rand.Rand, size int) []byte {
	var b strings.Builder
	for b.Len() < size {
		fmt.Fprintf(&b, "%x ", chance.Uint32N(1<<20))
	}
	return []byte(b.String())
}

// change writes some files of a source anew, others each time, from all over the tree. A file is
// replaced, as an editor or a build does it.
func (f *fleet) change(source string) {
	f.Helper()
	f.round++
	chance := rand.New(rand.NewPCG(3, uint64(f.round)))
	apart := len(f.files) / f.changed
	for i := f.round % apart; i < len(f.files); i += apart {
		path := filepath.Join(f.server.Path(source), f.files[i])
		must(f, os.WriteFile(path+".new", text(chance, 200+chance.IntN(4800)), 0o644))
		must(f, os.Chown(path+".new", deploy, deploy))
		must(f, os.Rename(path+".new", path))
	}
}

// configureSSH gives the others what an operator has: a key, known hosts, and a choice of ssh's own
// defaults or better ones.
func (f *fleet) configureSSH() {
	f.Helper()
	var known, hosts strings.Builder
	for _, h := range f.members {
		key, err := h.ReadFile(within(f, 10*time.Second), "/etc/ssh/ssh_host_ed25519_key.pub")
		must(f, err)
		fields := strings.Fields(key)
		fmt.Fprintf(&known, "%s %s %s\n", h.Address, fields[0], fields[1])
		fmt.Fprintln(&hosts, h.Address)
	}
	plain := "User " + lab.SSHUser + "\nIdentityFile " + lab.SSHKey + "\nUserKnownHostsFile " + sshFolder + "/known_hosts\nBatchMode yes\n"
	for name, text := range map[string]string{
		"known_hosts": known.String(), "hosts": hosts.String(), "plain": plain,
		"tuned": plain + "KexAlgorithms curve25519-sha256\nCiphers aes128-gcm@openssh.com\nHostKeyAlgorithms ssh-ed25519\nPreferredAuthentications publickey\nGSSAPIAuthentication no\nIdentitiesOnly yes\n",
	} {
		must(f, f.server.WriteFile(within(f, 10*time.Second), sshFolder+"/"+name, []byte(text), 0o600))
	}
}

// sh runs a shell script on the release server.
func (f *fleet) sh(script string) string {
	f.Helper()
	out, err := f.server.Run(within(f, 10*time.Minute), "bash", "-euc", script)
	if err != nil {
		f.Fatalf("%s: %v\n%s", script, err, out.Stdout)
	}
	return out.Stdout
}

// same checks that a directory of every member is what a source is.
func (f *fleet) same(directory, source string) {
	f.Helper()
	const sum = `cd "$1/" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum`
	list := func(h *host.Host, dir string) string {
		out, err := h.Run(within(f, time.Minute), "bash", "-euc", sum, "sum", dir)
		must(f, err)
		return out.Stdout
	}
	want := list(f.server, source)
	for _, h := range f.members {
		if got := list(h, directory); got != want {
			f.Errorf("%s: %s is not what %s is", h.ID, directory, source)
		}
	}
}

// outcome is what `ebs-release publish --output json` says.
type outcome struct {
	OnIt  int `json:"on_it"`
	Total int
	Live  int64 `json:"live_milliseconds"`

	Milliseconds int64
	Phases       []struct {
		Name         string
		Milliseconds int64
	}
}

func (f *fleet) outcome(stdout string) (o outcome) {
	f.Helper()
	must(f, json.Unmarshal([]byte(stdout), &o))
	if o.OnIt != len(f.members) || o.Total != len(f.members) {
		f.Errorf("%d of %d members are on the generation, want %d", o.OnIt, o.Total, len(f.members))
	}
	return o
}

func (o outcome) phase(name string) time.Duration {
	for _, p := range o.Phases {
		if p.Name == name {
			return time.Duration(p.Milliseconds) * time.Millisecond
		}
	}
	return 0
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// within is a context with a deadline that ends with the test.
func within(tb testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(tb.Context(), d)
	tb.Cleanup(cancel)
	return ctx
}
