// Package fleet knows the members: which instances the groups have, where they are, and what they
// reported.
//
// Who is a member says Auto Scaling; where it is, EC2; what it holds, the tags that its agent put
// on its volume (internal/volume, tags.go), or on the instance where EC2 brought that, and with a
// store in S3 an object there (internal/report). Which of them counts is said here, in take, and
// nowhere else.
package fleet

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"ebs-release/internal/advice"
	"ebs-release/internal/report"
	"ebs-release/internal/trouble"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	astypes "github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"golang.org/x/sync/errgroup"
)

// Member is an instance of the groups, in any lifecycle state but terminated.
type Member struct {
	InstanceID       string
	Group            string
	LifecycleState   string // Auto Scaling's word: Pending, InService, Terminating:Wait, …
	AvailabilityZone string
	Unhealthy        bool   // Auto Scaling's HealthStatus
	Machine          string // EC2's state: running, shutting-down, …; "" when EC2 does not know the instance
	Ended            string // EC2's StateReason, the code: by whom it was ended; "" while it runs
	Address          string // private IPv4, or IPv6 where there is none; "" when EC2 does not know the instance (yet, or any more)

	// From what it reported. Zero values when it has no volume yet.
	VolumeID   string
	Generation int64
	Ignored    string // what the tag says instead, when that is no generation, or one that cannot be true
	Release    string // "" too, when the tag is no release id
	Store      string // whose releases its volume holds; "": not known
	State      string // volume.StateBooting, volume.StateReady, volume.StateHookFailed, or StateUnknown
	HostKey    string // "ssh-ed25519 AAAA…", or "" as long as the agent has not reported it
	Caller     string // as what it reports to the store (report.Report); "": it has only tags
	Reported   string // the name of that object
	Trouble    trouble.Trouble

	Made string // the volume that was made for it, and is attached to it; "": it has none

	Verified *report.Verified // what came of reading all files of Release there; nil: not known

	// OnInstance: the tags that say this are the instance's own, as EC2 brought its volume, which
	// nobody claims by tags.
	OnInstance bool
}

// Tagged is what carries the tags of the member's report: its volume, or itself.
func (m Member) Tagged() string {
	if m.OnInstance {
		return m.InstanceID
	}
	return m.VolumeID
}

// StateUnknown is the state of a member without a volume that says more.
const StateUnknown = "unknown"

// Groups is what List needs of Auto Scaling.
type Groups interface {
	DescribeAutoScalingGroups(context.Context, *autoscaling.DescribeAutoScalingGroupsInput,
		...func(*autoscaling.Options)) (*autoscaling.DescribeAutoScalingGroupsOutput, error)
}

// Machines is what List needs of EC2.
type Machines interface {
	DescribeInstances(context.Context, *ec2.DescribeInstancesInput, ...func(*ec2.Options)) (*ec2.DescribeInstancesOutput, error)
	DescribeVolumes(context.Context, *ec2.DescribeVolumesInput, ...func(*ec2.Options)) (*ec2.DescribeVolumesOutput, error)
}

// Sizes of a batch. EC2 counts the values of all filters of a call together, and takes 200 (row
// 36): one place is left for the role. DescribeAutoScalingGroups answers with at most 100 groups a
// page. Each Describe of EC2 asks for pages: without MaxResults it has a smaller request bucket,
// and times out in an account that is large (row 42).
const (
	groupsPerPage = 100
	idsPerCall    = 199
	perPage       = volume.PerPage
)

// Reports is what List needs of a store in S3: report.Reader.Newest from the pointer's generation.
type Reports interface {
	Newest(ctx context.Context, members map[string]report.Wanted) (map[string]report.Report, error)
}

// List returns the members of groups, sorted by group and instance id. A group that does not exist
// is an error that names it: a name with a typo must not look like an empty fleet. store is nil
// where members have nothing but tags to report by.
func List(ctx context.Context, asg Groups, machines Machines, store Reports, groups []string) ([]Member, error) {
	members, _, err := membership(ctx, asg, groups)
	if err != nil {
		return nil, err
	}
	return complete(ctx, machines, store, members)
}

// complete fills in where members are and what they have reported.
func complete(ctx context.Context, machines Machines, store Reports, members []Member) ([]Member, error) {
	if len(members) == 0 {
		return nil, nil
	}
	byID := make(map[string]*Member, len(members))
	ids := make([]string, 0, len(members))
	for i := range members {
		byID[members[i].InstanceID] = &members[i]
		ids = append(ids, members[i].InstanceID)
	}
	gone, wanted, own := map[string]bool{}, map[string]report.Wanted{}, map[string]types.Instance{}
	for batch := range slices.Chunk(ids, idsPerCall) {
		both, ctx := errgroup.WithContext(ctx) // neither writes what the other does
		both.Go(func() error { return addresses(ctx, machines, batch, byID, gone, own) })
		both.Go(func() error { return tags(ctx, machines, batch, byID, wanted) })
		if err := both.Wait(); err != nil {
			return nil, err
		}
	}
	for id, i := range own {
		byID[id].takeOwn(i, wanted)
	}
	if store != nil {
		objects, err := store.Newest(ctx, wanted)
		if err != nil {
			return nil, advice.Errorf("read what members have reported to the store: %w", err)
		}
		for id, r := range objects {
			byID[id].takeObject(r)
		}
	}
	members = slices.DeleteFunc(members, func(m Member) bool { return gone[m.InstanceID] })
	slices.SortFunc(members, func(a, b Member) int {
		return cmp.Or(strings.Compare(a.Group, b.Group), strings.Compare(a.InstanceID, b.InstanceID))
	})
	return members, nil
}

// membership asks Auto Scaling who belongs to the groups, and which of them have a warm pool.
func membership(ctx context.Context, asg Groups, groups []string) (members []Member, pools []string, err error) {
	missing := map[string]bool{}
	for _, name := range groups {
		missing[name] = true
	}
	if len(missing) == 0 {
		return nil, nil, nil
	}
	pages := autoscaling.NewDescribeAutoScalingGroupsPaginator(asg, &autoscaling.DescribeAutoScalingGroupsInput{
		AutoScalingGroupNames: groups, MaxRecords: aws.Int32(groupsPerPage),
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, nil, fmt.Errorf("ask Auto Scaling for the members of %s: %w", strings.Join(groups, ", "), err)
		}
		for _, g := range page.AutoScalingGroups {
			delete(missing, aws.ToString(g.AutoScalingGroupName))
			if g.WarmPoolConfiguration != nil {
				pools = append(pools, aws.ToString(g.AutoScalingGroupName))
			}
			for _, i := range g.Instances {
				if m := memberOf(g.AutoScalingGroupName, i); !m.Warmed() && i.LifecycleState != astypes.LifecycleStateTerminated {
					members = append(members, m)
				}
			}
		}
	}
	for _, name := range groups {
		if missing[name] {
			return nil, nil, fmt.Errorf("there is no Auto Scaling group %q in this account and Region: "+
				"check --groups ($EBS_RELEASE_GROUPS) and the Region", name)
		}
	}
	return members, pools, nil
}

func memberOf(group *string, i astypes.Instance) Member {
	return Member{
		InstanceID: aws.ToString(i.InstanceId), Group: aws.ToString(group), LifecycleState: string(i.LifecycleState),
		AvailabilityZone: aws.ToString(i.AvailabilityZone), State: StateUnknown,
		Unhealthy: aws.ToString(i.HealthStatus) == "Unhealthy",
	}
}

// addresses asks EC2 where instances are. By filter, not by id: one id that EC2 has forgotten would
// fail the call for all the others. An instance that EC2 says is terminated is gone, even where
// Auto Scaling has not noticed. own gets the others.
func addresses(
	ctx context.Context, machines Machines, ids []string, members map[string]*Member, gone map[string]bool, own map[string]types.Instance,
) error {
	pages := ec2.NewDescribeInstancesPaginator(machines, &ec2.DescribeInstancesInput{
		MaxResults: aws.Int32(perPage),
		Filters:    []types.Filter{{Name: aws.String("instance-id"), Values: ids}},
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return fmt.Errorf("ask EC2 for the addresses of %d members: %w", len(ids), err)
		}
		for _, r := range page.Reservations {
			for _, i := range r.Instances {
				m := members[aws.ToString(i.InstanceId)]
				if m == nil {
					continue
				}
				m.Address = cmp.Or(aws.ToString(i.PrivateIpAddress), aws.ToString(i.Ipv6Address)) // a subnet may be IPv6 only
				if i.State != nil {
					m.Machine = string(i.State.Name)
				}
				if i.StateReason != nil {
					m.Ended = aws.ToString(i.StateReason.Code)
				}
				gone[m.InstanceID] = i.State != nil && i.State.Name == types.InstanceStateNameTerminated
				if !gone[m.InstanceID] {
					own[m.InstanceID] = i
				}
			}
		}
	}
	return nil
}

// tags reads what is written on the members' volumes, and notes of which of them a report in the
// store may be.
func tags(ctx context.Context, machines Machines, ids []string, members map[string]*Member, wanted map[string]report.Wanted) error {
	pages := ec2.NewDescribeVolumesPaginator(machines, &ec2.DescribeVolumesInput{MaxResults: aws.Int32(perPage), Filters: []types.Filter{
		{Name: aws.String("tag:" + volume.TagRole), Values: []string{volume.RoleMember}},
		{Name: aws.String("tag:" + volume.TagInstance), Values: ids},
	}})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return fmt.Errorf("read the tags of %d members' volumes: %w", len(ids), err)
		}
		for _, v := range page.Volumes {
			if r, ok := readReport(v); ok {
				if m := members[r.instance]; m != nil {
					m.take(r)
					m.Made = r.volumeID
					w := wanted[r.instance]
					if len(w.Volumes) == 0 || r.generation < w.Least {
						w.Least = r.generation
					}
					w.Volumes = append(w.Volumes, r.volumeID)
					wanted[r.instance] = w
				}
			}
		}
	}
	return nil
}

// said is what one volume, or an object about it, says.
type said struct {
	instance, volumeID, release, store, state, hostKey, ignored string
	generation                                                  int64
	verified                                                    *report.Verified
	trouble                                                     trouble.Trouble
	onInstance                                                  bool
}

// readReport reads a volume's tags. Only a volume that is attached to the instance that it was made
// for speaks for it: anybody who may tag a volume could claim another's name.
func readReport(v types.Volume) (said, bool) {
	r := readTags(v.Tags)
	r.volumeID = aws.ToString(v.VolumeId)
	attached := slices.ContainsFunc(v.Attachments, func(a types.VolumeAttachment) bool { return aws.ToString(a.InstanceId) == r.instance })
	return r, attached && r.state != volume.StateLeft
}

// readTags reads a report on a volume, or on an instance, which names the volume.
func readTags(list []types.Tag) said {
	tags := make(map[string]string, len(list))
	for _, t := range list {
		tags[aws.ToString(t.Key)] = aws.ToString(t.Value)
	}
	r := said{
		instance: tags[volume.TagInstance], volumeID: tags[volume.TagVolume],
		release: volume.ParseRelease(tags[volume.TagRelease]), store: volume.ParseStore(tags[volume.TagStore]),
		state: volume.ParseState(tags[volume.TagState]), hostKey: tags[volume.TagHostKey],
		trouble: trouble.Parse(tags[volume.TagTrouble]),
	}
	if id, verified := report.ParseTag(tags[volume.TagVerified]); id == r.release {
		r.verified = verified
	}
	var ok bool
	if r.generation, ok = volume.ParseGeneration(tags[volume.TagGeneration]); !ok { // 0, which is behind everything
		r.ignored = tags[volume.TagGeneration]
	}
	return r
}

// takeOwn takes what an instance says by its own tags, of a volume that EC2 brought, and notes what
// is attached to it: a report in the store may be about a volume that has no tags. A volume that
// was made for it and serves says the same or more, and is asked first.
func (m *Member) takeOwn(i types.Instance, wanted map[string]report.Wanted) {
	var attached []string
	for _, b := range i.BlockDeviceMappings {
		if b.Ebs != nil && b.Ebs.VolumeId != nil && aws.ToString(b.DeviceName) != aws.ToString(i.RootDeviceName) {
			attached = append(attached, aws.ToString(b.Ebs.VolumeId))
		}
	}
	if r := readTags(i.Tags); slices.Contains(attached, r.volumeID) {
		r.onInstance = true
		m.take(r)
	}
	w := wanted[m.InstanceID]
	for _, id := range attached {
		if !slices.Contains(w.Volumes, id) {
			w.Volumes = append(w.Volumes, id)
			wanted[m.InstanceID] = w
		}
	}
}

// take makes a report the member's. Of several the highest generation speaks: of two volumes, while
// one is replaced, and of the tags of a volume and an object in the store about it, which agents of
// two versions, or agent and publisher, have written. Of one generation the one that is served
// speaks, as the other volume is on its way off, and its tags are of its making; then the one whose
// programs have succeeded: who is taken out of service after that is on its way to another
// generation.
func (m *Member) take(r said) {
	if m.VolumeID != "" && (m.Generation > r.generation || m.Generation == r.generation && weight(m.State) >= weight(r.state)) {
		return
	}
	m.VolumeID, m.Generation, m.Ignored, m.Release, m.Store, m.HostKey = r.volumeID, r.generation, r.ignored, r.release, r.store, r.hostKey
	m.Verified, m.Trouble = r.verified, r.trouble
	m.OnInstance = r.onInstance
	if m.State = r.state; m.State == "" {
		m.State = StateUnknown
	}
}

func weight(state string) int {
	return slices.Index([]string{volume.StateHookFailed, volume.StateReady}, state)
}

// takeObject takes a report from the store, which is about one of the member's volumes. The host
// key is always its: who writes tags for a member does not know it.
func (m *Member) takeObject(r report.Report) {
	m.take(said{
		instance: r.InstanceID, volumeID: r.VolumeID, generation: r.Generation, release: r.Release,
		state: r.State, store: m.Store, hostKey: r.HostKey, verified: r.Verified, trouble: r.Trouble,
	})
	m.Caller, m.Reported = r.Caller, r.Key()
	if r.HostKey != "" {
		m.HostKey = r.HostKey
	}
}
