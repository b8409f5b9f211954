package e2e

import (
	"encoding/json"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/pointer"
)

// Whoever can write to the store cannot have a member that has served from a brought volume go back
// to an instance that has none: it boots on no pointer that this volume does not believe.
func TestBroughtVolumeThatHasServedIsNotPassedOver(t *testing.T) {
	r := published(t, nil)
	secret, err := pointer.NewKey()
	must(t, err)
	const other = "0123456789abcdef"
	forge := func(keys string) string {
		return r.snapshotFrom(r.releaseSnapshot(1), `mkdir -p /mnt/b; mount -o nouuid $dev /mnt/b 2>/dev/null || mount $dev /mnt/b; cd /mnt/b
			echo `+other+` > .ebs-release/store; `+keys+`; cd /; umount /mnt/b`, "")
	}
	bare, signed := forge("rm .ebs-release/keys"), forge("echo "+secret.Public().String()+" > .ebs-release/keys")
	is, good := r.pointerNow(), r.sh("cat "+lab.PointerStore+"/release.json")
	of := func(snapshot string) pointer.Pointer {
		p := is
		p.Store, p.Keys, p.Edges, p.Snapshots = other, nil, nil, map[string]string{r.lab.Account.Region(): snapshot}
		return p
	}
	theirs, err := of(signed).Sign(secret)
	must(t, err)
	plain := of(bare)
	plain.Schema = 1
	unsigned, err := json.Marshal(plain)
	must(t, err)

	for name, document := range map[string]string{
		"a snapshot's id": bare, "another store, unsigned": string(unsigned), "another store, signed by somebody": string(theirs),
	} {
		t.Run(name, func(t *testing.T) {
			r := r.in(t)
			ctx := within(t, 60*time.Second)
			r.pointer(good)
			h, err := r.launch(ctx, bringing(r.idle(), r.releaseSnapshot(1)))
			must(t, err)
			must(t, failed(agent(ctx, h)))
			r.servesBrought(h, "one", 0, 1)
			before := len(r.ofEC2(h))
			r.pointer(document)
			for _, rebooted := range []bool{false, true} {
				if rebooted {
					r.reboot(h)
				}
				refused(t, agent(ctx, h).Output, 1, "not signed", "No volume and no mount was touched")
			}
			if calls := r.ofEC2(h)[before:]; len(calls) > 0 || len(r.lab.VolumesFor(h.ID)) > 0 {
				t.Errorf("calls of EC2: %+v; volumes %s", calls, show(r.lab.VolumesFor(h.ID)))
			}
			r.pointer(good)
			must(t, failed(agent(ctx, h)))
			r.servesBrought(h, "one", before, 1)
			must(t, r.lab.Account.TerminateInstance(h.ID))
		})
	}
}
