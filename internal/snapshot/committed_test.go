package snapshot_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/snapshot"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// Only what is asked for after its commit says that the generation was committed.
func TestASnapshotSaysThatItsGenerationIsCommitted(t *testing.T) {
	for _, committed := range []bool{true, false} {
		tags := map[string]string{}
		api := &fakeEC2{create: func(_ context.Context, in *ec2.CreateSnapshotInput) (string, error) {
			for _, tag := range in.TagSpecifications[0].Tags {
				tags[aws.ToString(tag.Key)] = aws.ToString(tag.Value)
			}
			return "snap-7", nil
		}}
		asked := request
		asked.Committed = committed
		if _, err := maker(api, disk(t), 5*time.Second).Create(t.Context(), asked); err != nil {
			t.Fatal(err)
		}
		if got := tags["ebs-release:committed"]; (got == "yes") != committed || !committed && got != "" {
			t.Errorf("committed %t: tags %v", committed, tags)
		}
	}
}

func TestTheNewestCommittedSnapshotOfAStore(t *testing.T) {
	of := func(id, generation string, day int) types.Snapshot {
		return types.Snapshot{SnapshotId: &id, StartTime: aws.Time(time.Date(2026, 1, day, 0, 0, 0, 0, time.UTC)),
			Tags: []types.Tag{{Key: aws.String("ebs-release:generation"), Value: &generation}}}
	}
	there := []types.Snapshot{of("snap-a", "9", 1), of("snap-b", "12", 2), of("snap-c", "3", 3), of("snap-d", "x", 4)}
	api := &fakeEC2{describe: func(in *ec2.DescribeSnapshotsInput) ([]types.Snapshot, error) {
		var filters []string
		for _, f := range in.Filters {
			filters = append(filters, aws.ToString(f.Name)+"="+strings.Join(f.Values, ","))
		}
		want := "tag:ebs-release:store=0123456789abcdef tag:ebs-release:committed=yes tag:ebs-release:role=release"
		if got := strings.Join(filters, " "); got != want || in.OwnerIds[0] != "self" {
			t.Errorf("asked for %s", got)
		}
		return there, nil
	}}
	if got, err := snapshot.NewestCommitted(t.Context(), api, "0123456789abcdef"); err != nil || got.ID != "snap-b" || got.Generation != 12 {
		t.Errorf("%+v, %v", got, err)
	}
	there = nil
	if got, err := snapshot.NewestCommitted(t.Context(), api, "0123456789abcdef"); err != nil || got.ID != "" || got.Generation != 0 {
		t.Errorf("none: %+v, %v", got, err)
	}
}
