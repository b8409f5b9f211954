package snapshot_test

import (
	"strings"
	"testing"
	"time"

	"ebs-release/internal/snapshot"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

func TestListOfReleaseSnapshotsIsOldestFirst(t *testing.T) {
	at := func(hour int) *time.Time { t := time.Date(2026, 1, 1, hour, 0, 0, 0, time.UTC); return &t }
	tagged := func(generation string) []types.Tag {
		return []types.Tag{{Key: aws.String("ebs-release:generation"), Value: &generation}, {Key: aws.String("ebs-release:release"), Value: aws.String("r" + generation)}}
	}
	api := &fakeEC2{describe: func(in *ec2.DescribeSnapshotsInput) ([]types.Snapshot, error) {
		var filters []string
		for _, f := range in.Filters {
			filters = append(filters, aws.ToString(f.Name)+"="+strings.Join(f.Values, ","))
		}
		// Another release server's snapshots in the account are not ours.
		if got := strings.Join(filters, " "); got != "volume-id=vol-1 tag:ebs-release:role=release" || in.OwnerIds[0] != "self" {
			t.Errorf("asked for %s", got)
		}
		return []types.Snapshot{
			{SnapshotId: aws.String("snap-b"), StartTime: at(2), Tags: tagged("12")}, {SnapshotId: aws.String("snap-a"), StartTime: at(1), Tags: tagged("x")},
		}, nil
	}}
	found, err := snapshot.Maker{EC2: api, VolumeID: "vol-1"}.List(t.Context())
	if err != nil || len(found) != 2 || found[0].ID != "snap-a" || found[0].Generation != 0 || found[1].Generation != 12 || found[1].Release != "r12" {
		t.Errorf("%+v, %v", found, err)
	}
}

func TestUsableSnapshotIsThereAndCompleted(t *testing.T) {
	for _, tc := range []struct {
		name  string
		found []types.Snapshot
		err   error
		want  bool
		fails bool
	}{
		{"completed", []types.Snapshot{{State: types.SnapshotStateCompleted}}, nil, true, false},
		{"pending", []types.Snapshot{{State: types.SnapshotStatePending}}, nil, false, false},
		{"in error", []types.Snapshot{{State: types.SnapshotStateError}}, nil, false, false},
		{"gone", nil, apiError("InvalidSnapshot.NotFound"), false, false},
		{"not to be told", nil, apiError("UnauthorizedOperation"), false, true},
	} {
		api := &fakeEC2{describe: func(*ec2.DescribeSnapshotsInput) ([]types.Snapshot, error) { return tc.found, tc.err }}
		usable, err := snapshot.Maker{EC2: api}.Usable(t.Context(), "snap-1")
		if usable != tc.want || (err != nil) != tc.fails {
			t.Errorf("%s: %v, %v", tc.name, usable, err)
		}
	}
}
