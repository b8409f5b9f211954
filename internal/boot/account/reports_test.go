package account

import (
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"

	"ebs-release/internal/lab/cloud"
)

// A boot asks for the name under which it reports while it waits for the pointer.
func TestReportsAreOpenedBesideThePointer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newStorm(t, true)
		id, err := w.account.RunInstance(t.Context(), cloud.RunSpec{Role: "member", Mappings: []cloud.Mapping{{
			Device: "/dev/sdf", SnapshotID: w.snapshot, Type: "gp3", DeleteOnTermination: true,
		}}})
		must(t, err)
		<-w.machines.started
		w.brought = map[string]string{}
		for _, v := range w.account.Volumes() {
			if v.Attachment != nil && !v.Root {
				w.brought[v.Attachment.InstanceID] = v.ID
			}
		}
		must(t, w.boot(id, slog.New(slog.DiscardHandler)))
		calls := w.account.CallsBy(id)
		asked := slices.IndexFunc(calls, func(c cloud.Call) bool { return c.Action == "GetCallerIdentity" })
		if len(calls) != 1 || asked != 0 || !calls[0].Start.Before(w.asked.at[0]) {
			t.Errorf("calls %+v, and the pointer came at %v", calls, w.asked.at[0])
		}
	})
}
