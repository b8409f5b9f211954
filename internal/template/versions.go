package template

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"ebs-release/internal/advice"
	"ebs-release/internal/volume"
	"ebs-release/internal/words"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// template is one as EC2 shows it.
type template struct {
	standard types.LaunchTemplateVersion // the default one
	latest   types.LaunchTemplateVersion
}

// mostPages of versions: 10,000 versions are 50 pages.
const mostPages = 100

// versions returns some versions of a template ($Default, $Latest or numbers), or all.
func (k Keeper) versions(ctx context.Context, name string, some ...string) (all []types.LaunchTemplateVersion, err error) {
	in := &ec2.DescribeLaunchTemplateVersionsInput{Versions: some}
	in.LaunchTemplateId, in.LaunchTemplateName = byName(name)
	if len(some) == 0 {
		in.MaxResults = aws.Int32(perCall)
	}
	for range mostPages {
		out, err := k.EC2.DescribeLaunchTemplateVersions(ctx, in)
		if err != nil {
			return nil, refused("DescribeLaunchTemplateVersions", "ask EC2 for versions of launch template "+name, err)
		}
		for _, v := range out.LaunchTemplateVersions {
			if v.LaunchTemplateData != nil && v.VersionNumber != nil {
				all = append(all, v)
			}
		}
		if in.NextToken = out.NextToken; aws.ToString(in.NextToken) == "" {
			return all, nil
		}
	}
	return nil, fmt.Errorf("ask EC2 for versions of launch template %s: its answer does not end", name)
}

// look reads the default and the latest version.
func (k Keeper) look(ctx context.Context, name string) (t template, err error) {
	found, err := k.versions(ctx, name, "$Default", "$Latest")
	if err != nil {
		return t, err
	}
	at := slices.IndexFunc(found, func(v types.LaunchTemplateVersion) bool { return aws.ToBool(v.DefaultVersion) })
	if at < 0 {
		return t, fmt.Errorf("EC2 shows no default version of launch template %s", name)
	}
	t.standard, t.latest = found[at], found[at]
	for _, v := range found {
		if number(v) > number(t.latest) {
			t.latest = v
		}
	}
	return t, nil
}

func number(v types.LaunchTemplateVersion) int64 { return aws.ToInt64(v.VersionNumber) }

// byName says how a template is named to EC2.
func byName(name string) (id, called *string) {
	if strings.HasPrefix(name, "lt-") {
		return &name, nil
	}
	return nil, &name
}

// describe is the description of a version, by which it is known as one of ours.
func describe(s Snapshot, from int64) string {
	return fmt.Sprintf("ebs-release: %s of generation %d, from version %d", s.ID, s.Generation, from)
}

var described = regexp.MustCompile(`^ebs-release: snap-[0-9a-f]+ of generation [0-9]+, from version [0-9]+$`)

func madeHere(v types.LaunchTemplateVersion) bool {
	return described.MatchString(aws.ToString(v.VersionDescription))
}

// with is the data of a version with the snapshot in its place.
func (k Keeper) with(ctx context.Context, v types.LaunchTemplateVersion, wanted Snapshot) (*types.ResponseLaunchTemplateData, error) {
	at, err := k.place(ctx, v, wanted.Store)
	if err != nil {
		return nil, err
	}
	data := *v.LaunchTemplateData
	data.BlockDeviceMappings = slices.Clone(data.BlockDeviceMappings)
	ebs := *data.BlockDeviceMappings[at].Ebs
	ebs.SnapshotId = aws.String(wanted.ID)
	data.BlockDeviceMappings[at].Ebs = &ebs
	return &data, nil
}

// place finds the mapping that brings the release.
func (k Keeper) place(ctx context.Context, v types.LaunchTemplateVersion, store string) (int, error) {
	mappings := v.LaunchTemplateData.BlockDeviceMappings
	if k.Device != "" {
		at := slices.IndexFunc(mappings, func(m types.LaunchTemplateBlockDeviceMapping) bool {
			return aws.ToString(m.DeviceName) == k.Device && m.Ebs != nil
		})
		if at < 0 {
			return 0, advice.Try(fmt.Errorf("its version %d has no EBS volume at %s", number(v), k.Device),
				"add one to the template, or another `launch-template-device`")
		}
		return at, nil
	}
	of, err := k.storesOf(ctx, snapshotsOf(v))
	if err != nil {
		return 0, err
	}
	found := -1
	for i, m := range mappings {
		switch {
		case m.Ebs == nil || store == "" || of[aws.ToString(m.Ebs.SnapshotId)] != store:
		case found >= 0:
			return 0, advice.Try(fmt.Errorf("two mappings of its version %d (%s, %s) have snapshots of this store", number(v),
				foreign(aws.ToString(mappings[found].DeviceName)), foreign(aws.ToString(m.DeviceName))), "set `launch-template-device`")
		default:
			found = i
		}
	}
	if found < 0 {
		return 0, advice.Try(fmt.Errorf("no mapping of its version %d has a snapshot of this store", number(v)),
			"set `launch-template-device` to the device name of the mapping that brings the release")
	}
	return found, nil
}

// snapshotsOf are the ids that a version names.
func snapshotsOf(v types.LaunchTemplateVersion) (ids []string) {
	for _, m := range v.LaunchTemplateData.BlockDeviceMappings {
		if m.Ebs != nil && aws.ToString(m.Ebs.SnapshotId) != "" {
			ids = append(ids, *m.Ebs.SnapshotId)
		}
	}
	return ids
}

// storesOf says of snapshots which store's releases they hold. What is gone is not in it.
func (k Keeper) storesOf(ctx context.Context, ids []string) (map[string]string, error) {
	of := map[string]string{}
	if len(ids) == 0 {
		return of, nil
	}
	pages := ec2.NewDescribeSnapshotsPaginator(k.EC2, &ec2.DescribeSnapshotsInput{
		OwnerIds: []string{"self"}, MaxResults: aws.Int32(volume.PerPage),
		Filters: []types.Filter{
			{Name: aws.String("snapshot-id"), Values: ids}, // as ids, one that is gone would be an error
			{Name: aws.String("tag:" + volume.TagRole), Values: []string{volume.RoleRelease}},
		},
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, refused("DescribeSnapshots", "look at the snapshots of a launch template", err)
		}
		for _, s := range page.Snapshots {
			for _, t := range s.Tags {
				if aws.ToString(t.Key) == volume.TagStore {
					of[aws.ToString(s.SnapshotId)] = aws.ToString(t.Value)
				}
			}
		}
	}
	return of, nil
}

// request is what is asked for to get mappings like these.
func request(mappings []types.LaunchTemplateBlockDeviceMapping) (all []types.LaunchTemplateBlockDeviceMappingRequest) {
	for _, m := range mappings {
		r := types.LaunchTemplateBlockDeviceMappingRequest{DeviceName: m.DeviceName, NoDevice: m.NoDevice, VirtualName: m.VirtualName}
		if e := m.Ebs; e != nil {
			r.Ebs = &types.LaunchTemplateEbsBlockDeviceRequest{
				DeleteOnTermination: e.DeleteOnTermination, EbsCardIndex: e.EbsCardIndex, Encrypted: e.Encrypted, Iops: e.Iops,
				KmsKeyId: e.KmsKeyId, SnapshotId: e.SnapshotId, Throughput: e.Throughput,
				VolumeInitializationRate: e.VolumeInitializationRate, VolumeSize: e.VolumeSize, VolumeType: e.VolumeType,
			}
		}
		all = append(all, r)
	}
	return all
}

// differences names the parameters in which two versions differ, not their values: user data may
// have secrets.
func differences(a, b *types.ResponseLaunchTemplateData) (names []string) {
	va, vb := reflect.ValueOf(*a), reflect.ValueOf(*b)
	for i := range va.NumField() {
		if field := va.Type().Field(i); field.IsExported() && !reflect.DeepEqual(va.Field(i).Interface(), vb.Field(i).Interface()) {
			names = append(names, field.Name)
		}
	}
	return names
}

// foreign is text of another program, for a line.
func foreign(text string) string { return words.Printable(fmt.Sprintf("%.200s", text)) }

// refused says what EC2 answered, and which right is missing.
func refused(action, tried string, err error) error {
	if volume.IsDenied(err) {
		service := "ec2:"
		if action == "DescribeAutoScalingGroups" || action == "DescribeInstanceRefreshes" {
			service = "autoscaling:"
		}
		return advice.Errorf("%s: %w", tried, volume.Denied(err, service+action))
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: no answer in time: %w", tried, err)
	}
	return fmt.Errorf("%s: %w", tried, err)
}
