package main

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
	"ebs-release/internal/snapshot"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// account has snapshots, each of a volume.
type account struct {
	snapshot.EC2
	of map[string]types.Snapshot // by the volume that it is of
}

func (a account) DescribeSnapshots(_ context.Context, in *ec2.DescribeSnapshotsInput, _ ...func(*ec2.Options)) (*ec2.DescribeSnapshotsOutput, error) {
	out := &ec2.DescribeSnapshotsOutput{}
	for _, f := range in.Filters {
		if aws.ToString(f.Name) == "volume-id" {
			out.Snapshots = append(out.Snapshots, a.of[f.Values[0]])
		}
	}
	return out, nil
}

// TestTheHistoryNamesNoForeignSnapshot: who may write to the store may write any line there. A
// rollback names only what EC2 says is a snapshot of this volume, from after its keys.
func TestTheHistoryNamesNoForeignSnapshot(t *testing.T) {
	k := newKeyed(t)
	k.ok("key", "init")
	opened := &releaseVolume{point: k.volume.Root()}
	ring, err := k.keys().Open()
	must(t, err)
	since, err := keysSince(opened, ring.Since)
	must(t, err)
	must(t, opened.close())
	const id = "snap-00000000000000001"
	for name, tc := range map[string]struct {
		volume, release string
		before          bool // there were these keys
		state           types.SnapshotState
		want            string
	}{
		"of this volume":      {"vol-ours", k.in.ID, false, types.SnapshotStateCompleted, id},
		"of another volume":   {"vol-theirs", k.in.ID, false, types.SnapshotStateCompleted, ""},
		"of another release":  {"vol-ours", releaseOf(1), false, types.SnapshotStateCompleted, ""},
		"from before the key": {"vol-ours", k.in.ID, true, types.SnapshotStateCompleted, ""},
		"not completed":       {"vol-ours", k.in.ID, false, types.SnapshotStatePending, ""},
	} {
		started := since.Add(1)
		if tc.before {
			started = since.Add(-1)
		}
		api := account{of: map[string]types.Snapshot{"vol-ours": {SnapshotId: aws.String("snap-00000000000000002")}}}
		api.of[tc.volume] = types.Snapshot{
			SnapshotId: aws.String(id), StartTime: &started, State: tc.state,
			Tags: []types.Tag{{Key: aws.String("ebs-release:release"), Value: aws.String(tc.release)}},
		}
		opened := &releaseVolume{point: k.volume.Root()}
		p := &parts{
			Publisher: &publish.Publisher{Settings: publish.Settings{Region: "r"}},
			store:     k.store, volume: opened, maker: &snapshot.Maker{EC2: api, VolumeID: "vol-ours"},
		}
		line := pointer.Entry{Committed: true, Generation: 1, Release: k.in.ID, Digest: k.in.Digest, Asked: map[string]string{"r": id}}
		got, err := p.snapshotOf(t.Context(), publish.Target{Release: k.in.ID, Digest: k.in.Digest}, []pointer.Entry{line})
		if err != nil || got != tc.want {
			t.Errorf("%s: %q, %v, want %q", name, got, err, tc.want)
		}
		must(t, opened.close())
	}
}

// TestTheHistoryLeadsARollbackToReleasesAlone: a line of it names what is on the volume, as it was
// published, or nothing.
func TestTheHistoryLeadsARollbackToReleasesAlone(t *testing.T) {
	k := newKeyed(t)
	opened := &releaseVolume{point: k.volume.Root()}
	t.Cleanup(func() { _ = opened.close() })
	for i, tc := range []struct{ release, digest, want string }{
		{"../../../etc/shadow", "", "is not a release id"},
		{releaseOf(1), k.in.Digest, "is not on the release volume"},
		{k.in.ID, strings.Repeat("f", 64), "it was published with"},
	} {
		generation := int64(2 + i)
		must(t, k.store.Record(t.Context(), pointer.Entry{Verb: verbPublish, Committed: true, Generation: generation, Release: tc.release, Digest: tc.digest}))
		p := &parts{Publisher: &publish.Publisher{}, store: k.store, volume: opened, maker: &snapshot.Maker{EC2: account{}}}
		if _, err := p.target(t.Context(), k.pointer(9), fmt.Sprint(generation)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.release, err, tc.want)
		}
	}
}
