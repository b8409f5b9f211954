package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/catchup"
	"ebs-release/internal/lab"
	"ebs-release/internal/lab/host"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/store"
	"ebs-release/internal/volume"

	"filippo.io/age"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// chain is a lab with several releases, a snapshot of each, and packs that lead from each to the
// next.
type chain struct {
	*rig
	secret pointer.SecretKey
	said   []pointer.Pointer // of generation 1, 2, …, as they were published
	edges  []pointer.Edge    // from generation 1 to 2, 2 to 3, …
	dir    string            // the store's, for this machine
}

func newChain(t *testing.T, releases int, inS3 bool) *chain {
	t.Helper()
	c := &chain{rig: newRig(t, func(o *lab.Options) { o.S3 = inS3 })}
	c.dir = c.server.Path(lab.PointerStore)
	if inS3 {
		c.dir = filepath.Join(c.lab.Dir(), "s3/objects", strings.TrimPrefix(lab.StoreInS3, "s3://"))
	}
	c.ok("init", "--size", "1")
	var err error
	c.secret, err = pointer.ParseSecretKey(c.sh("cut -d' ' -f1 " + signingKey))
	must(t, err)
	c.sh("mkdir -p /srv/source && seq 1 20000 > /srv/source/data")
	for i := range releases {
		c.sh(fmt.Sprintf("cd /srv/source; echo %d > version; seq 1 %d > new-%d; rm -f new-%d", i+1, i+100, i, i-2))
		c.ok("publish", "/srv/source")
		document, err := os.ReadFile(filepath.Join(c.dir, "release.json"))
		must(t, err)
		p, err := pointer.Parse(document)
		must(t, err)
		c.said = append(c.said, p)
	}
	c.edges = c.said[releases-1].Edges
	c.forgetCommits()
	return c
}

// forgetCommits lets a pointer of an earlier generation be the newest that there was, to a boot.
func (c *chain) forgetCommits() {
	c.Helper()
	var ids []string
	for _, s := range c.lab.Account.Snapshots() {
		ids = append(ids, s.ID)
	}
	_, err := c.ec2.DeleteTags(within(c, 10*time.Second), &ec2.DeleteTagsInput{Resources: ids, Tags: []types.Tag{{Key: aws.String(volume.TagCommitted)}}})
	must(c, err)
}

// names is the pointer of a generation, whose snapshot is that of another one.
func (c *chain) names(generation, snapshot int) pointer.Pointer {
	p, of := c.said[generation-1], c.said[snapshot-1]
	p.Snapshots, p.Edges = of.Snapshots, c.edges
	p.SnapshotOf = &pointer.Held{Generation: of.Generation, Release: of.Release, Digest: of.Digest}
	return p
}

// say makes it what is published, signed.
func (c *chain) say(p pointer.Pointer, by ...pointer.SecretKey) {
	c.Helper()
	document, err := p.Sign(by...)
	must(c, err)
	c.write(document)
}

func (c *chain) write(document []byte) {
	c.Helper()
	name := filepath.Join(c.dir, "release.json")
	must(c, os.WriteFile(name+".new", document, 0o644)) // another file: the S3 server keeps a checksum with each
	must(c, os.Rename(name+".new", name))
}

// boots runs the agent, which has to end well with this many packs ("": it needs none), on one
// volume.
func (c *chain) boots(h *host.Host, p pointer.Pointer, packs string, readies int, args ...string) (volume string) {
	c.Helper()
	out := agent(within(c, 60*time.Second), h, args...)
	must(c, failed(out))
	must(c, c.served(h, p, fmt.Sprint(p.Generation), readies))
	want := fmt.Sprintf("to %s: %s, ", p.Release, packs)
	if got := strings.Count(out.Stderr, "caught up from release "); got != 1 && packs != "" || got != 0 && packs == "" || packs != "" && !strings.Contains(out.Stderr, want) {
		c.Errorf("want one line with %q:\n%s", want, out.Stderr)
	}
	return c.lab.VolumesFor(h.ID)[0].ID
}

// TestCatchUpAtBoot: a volume of another release than the pointer's becomes that, by the packs of
// the store, before anybody sees it.
func TestCatchUpAtBoot(t *testing.T) {
	c := newChain(t, 4, false)
	behind := c.machine()
	c.say(c.names(2, 1), c.secret)
	volume := c.boots(behind, c.names(2, 1), "1 pack", 1)

	c.say(c.names(4, 1), c.secret)
	fresh := c.machine()
	c.boots(fresh, c.names(4, 1), "3 packs", 1)
	for name := range strings.FieldsSeq(c.sh("cd /srv/source; ls")) {
		c.on(fresh, "test -f /release/current/"+name)
	}
	if got := c.on(fresh, "ls /release/releases; ls /release/current"); strings.Contains(got, c.said[0].Release) || strings.Contains(got, "new-1\n") {
		t.Errorf("what is on it: %s", got)
	}
	c.on(fresh, "ebs-release-agent verify")

	// A member whose volume is behind keeps it, be it mounted or not.
	must(t, c.lab.Reboot(within(t, 30*time.Second), behind.ID))
	if got := c.boots(behind, c.names(4, 1), "2 packs", 1); got != volume {
		t.Errorf("after a reboot the volume is %s, it was %s", got, volume)
	}
	resumed := c.machine()
	c.say(c.names(3, 3), c.secret)
	volume = c.boots(resumed, c.names(3, 3), "", 1)
	c.say(c.names(4, 1), c.secret)
	if got := c.boots(resumed, c.names(4, 1), "1 pack", 2); got != volume {
		t.Errorf("after up on a member that serves the volume is %s, it was %s", got, volume)
	}
}

// TestCatchUpFails: whatever is wrong with the store or the pointer, the boot ends with one line
// that says so, and the member goes on from where it stood as soon as all is well.
func TestCatchUpFails(t *testing.T) {
	c := newChain(t, 2, false)
	good, foreign := c.names(2, 1), c.names(2, 1)
	other, err := pointer.NewKey()
	must(t, err)
	foreign.Edges = []pointer.Edge{c.sealedForAnother()}
	pack := filepath.Join(c.dir, c.edges[0].Pack)
	whole, err := os.ReadFile(pack)
	must(t, err)
	changed := bytes.Clone(whole)
	changed[len(changed)/2]++
	trusted := []string{"--trusted-keys", c.said[0].Store + ":" + c.secret.Public().String()}
	const (
		served = "served" // what was mounted stays
		lost   = "lost"   // another one may do, and did not
	)
	for _, tc := range []struct {
		name string
		do   func()
		args []string
		says []string
		left string
	}{
		{"the pack is gone", func() { must(t, os.Remove(pack)) }, nil, []string{"adopt: ", "it stays mounted", "a pack that the pointer names is gone", "publish again"}, served},
		{"a byte of it changed", func() { must(t, os.WriteFile(pack, changed, 0o644)) }, nil, []string{"adopt: ", "it stays mounted", "the pack could not be fetched", "its sha256 is"}, served},
		{"it is cut off", func() { must(t, os.WriteFile(pack, whole[:len(whole)/2], 0o644)) }, nil, []string{"adopt: ", "it stays mounted", "the pack could not be fetched"}, served},
		{"it is encrypted for another key", func() { c.say(foreign, c.secret) }, nil, []string{"catch up: ", "decrypt"}, lost},
		{"no pack leads there", func() { none := good; none.Edges = nil; c.say(none, c.secret) }, nil, []string{"catch up: ", "no packs lead there", "publish again"}, lost},
		{"another key signed", func() { c.say(good, other) }, nil, []string{"adopt: ", "not signed by a trusted key", "No volume and no mount was touched", "--older"}, served},
		{"another key than the trusted one", func() { c.say(good, other) }, trusted, []string{"resolve: ", "not signed by a trusted key", "add its key to trusted-keys"}, served},
		{"nobody signed", func() { c.write(c.said[1].Render()) }, trusted, []string{"resolve: ", "not signed by a trusted key", "trusted-keys"}, served},
		{"nobody signed, and the volume has keys", func() { c.write(c.said[1].Render()) }, nil, []string{"adopt: ", "it is not signed at all"}, served},
		{"a plain line, and the volume has keys", func() { c.write([]byte(c.said[1].Snapshots["us-east-1"] + "\n")) }, nil, []string{"adopt: ", "it is not signed at all"}, served},
		{"below the least", func() {}, []string{"--min-generation", "3"}, []string{"resolve: ", "it says generation 2, and min-generation is 3", "cache"}, served},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := &chain{c.in(t), c.secret, c.said, c.edges, c.dir}
			c.say(c.names(1, 1), c.secret)
			h := c.machine()
			volume := c.boots(h, c.names(1, 1), "", 1)
			c.say(good, c.secret)
			tc.do()
			out := agent(within(t, 60*time.Second), h, append([]string{"--deadline", "20s"}, tc.args...)...)
			refused(t, out.Output, 1, tc.says...)
			if strings.Count(out.last(), "Try: ") != 1 || strings.Contains(out.Stderr, "caught up") {
				t.Errorf("it says %s", out.Stderr)
			}
			if again := strings.Count(out.Stderr, "going back"); (again == 1) != (tc.name == "the pack is gone") && tc.left != lost {
				t.Errorf("it went back %d times: %s", again, out.Stderr)
			}
			if got, err := visible(h); err != nil || (got == "1") != (tc.left == served) {
				t.Errorf("/release shows %q (%v)", got, err)
			}
			found := c.lab.VolumesFor(h.ID)
			if tc.left == lost && len(found) != 0 || tc.left == served && (len(found) != 1 || found[0].ID != volume || found[0].State != "in-use") {
				t.Errorf("it is %s, and the volumes are %s", tc.left, show(found))
			}
			must(t, os.WriteFile(pack, whole, 0o644))
			c.say(good, c.secret)
			if got := c.boots(h, good, "1 pack", 2); got != volume && tc.left != lost {
				t.Errorf("the volume is %s, it was %s", got, volume)
			}
		})
	}
	c.say(good, c.secret)
	c.boots(c.machine(), good, "1 pack", 1, trusted...)
}

// sealedForAnother makes a pack that no member can open.
func (c *chain) sealedForAnother() pointer.Edge {
	c.Helper()
	ctx := within(c, 30*time.Second)
	v, err := release.Open(c.server.Path("/release"))
	must(c, err)
	defer v.Close()
	own, err := v.PackKey()
	must(c, err)
	key, err := age.GenerateX25519Identity()
	must(c, err)
	must(c, v.SetPackKey(ctx, key.String()))
	packs, err := store.NewDirectory(c.dir)
	must(c, err)
	e, err := catchup.Make(within(c, 30*time.Second), v, packs, c.said[0].Release, c.said[1].Release, true)
	must(c, err)
	must(c, v.SetPackKey(ctx, own))
	return e
}

// TestCatchUpFromS3: the packs lie there as they are, and the members' role may read them.
func TestCatchUpFromS3(t *testing.T) {
	c := newChain(t, 2, true)
	c.say(c.names(2, 1), c.secret)
	c.boots(c.machine(), c.names(2, 1), "1 pack", 1)

	// It is gone: who may not list the bucket is told 403, and looks at the pointer once more.
	must(t, os.Remove(filepath.Join(c.dir, c.edges[0].Pack)))
	out := agent(within(t, 60*time.Second), c.machine(), "--deadline", "20s")
	refused(t, out.Output, 1, "catch up: ", "a pack that the pointer names is gone, or may not be read from here", "403")
	if again := strings.Count(out.Stderr, "going back"); again != 1 {
		t.Errorf("it went back %d times: %s", again, out.Stderr)
	}
}
