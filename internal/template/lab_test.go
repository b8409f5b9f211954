package template_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/template"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	astypes "github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

const store, another = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"

// account is a lab whose disks and machines are only on paper, asked by AWS's own SDK.
type account struct {
	*testing.T
	*cloud.Account
	ec2    *ec2.Client
	asg    *autoscaling.Client
	keeper template.Keeper
	said   []string
	wrong  []string
}

type hardware struct{ cloud.Hardware }

func (hardware) CreateVolume(context.Context, string, int32, string) error { return nil }
func (hardware) CreateSnapshot(context.Context, string, string) error      { return nil }
func (hardware) Launch(context.Context, cloud.InstanceSpec) error          { return nil }

func newAccount(t *testing.T, opts cloud.Options) *account {
	t.Helper()
	opts.Hardware, opts.Seed = hardware{}, 1
	a := &account{T: t}
	var err error
	a.Account, err = cloud.New(opts)
	a.ok(err)
	t.Cleanup(a.Close)
	api := httptest.NewServer(a.EC2Handler())
	t.Cleanup(api.Close)
	c := a.Admin()
	keys := credentials.NewStaticCredentialsProvider(c.AccessKeyID, c.SecretAccessKey, c.SessionToken)
	a.ec2 = ec2.New(ec2.Options{Region: "us-east-1", BaseEndpoint: &api.URL, Credentials: keys, Retryer: aws.NopRetryer{}})
	a.asg = autoscaling.New(autoscaling.Options{Region: "us-east-1", BaseEndpoint: &api.URL, Credentials: keys, Retryer: aws.NopRetryer{}})
	a.keeper = template.Keeper{EC2: a.ec2, Groups: a.asg, Names: []string{"web"}, Keep: 3}
	return a
}

func (a *account) ok(err error) {
	a.Helper()
	if err != nil {
		a.Fatal(err)
	}
}

// snapshot makes one of a release of a store; "": of nothing of ours.
func (a *account) snapshot(of string) string {
	a.Helper()
	v, err := a.ec2.CreateVolume(a.Context(), &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1)})
	a.ok(err)
	in := &ec2.CreateSnapshotInput{VolumeId: v.VolumeId}
	if of != "" {
		in.TagSpecifications = []types.TagSpecification{{ResourceType: types.ResourceTypeSnapshot, Tags: []types.Tag{
			{Key: aws.String(volume.TagRole), Value: aws.String(volume.RoleRelease)}, {Key: aws.String(volume.TagStore), Value: &of}}}}
	}
	var out *ec2.CreateSnapshotOutput
	a.waits("the volume is there", func() bool {
		out, err = a.ec2.CreateSnapshot(a.Context(), in)
		return err == nil
	})
	return *out.SnapshotId
}

func (a *account) waits(what string, ok func() bool) {
	a.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			a.Fatalf("it does not come: %s", what)
		}
	}
}

func mapping(device, snapshot string) types.LaunchTemplateBlockDeviceMappingRequest {
	ebs := &types.LaunchTemplateEbsBlockDeviceRequest{VolumeType: types.VolumeTypeGp3, VolumeSize: aws.Int32(2), DeleteOnTermination: aws.Bool(true),
		Encrypted: aws.Bool(true), Iops: aws.Int32(4000), Throughput: aws.Int32(300), VolumeInitializationRate: aws.Int32(200)}
	if snapshot != "" {
		ebs.SnapshotId = &snapshot
	}
	return types.LaunchTemplateBlockDeviceMappingRequest{DeviceName: &device, Ebs: ebs}
}

// template makes one with mappings and more, and has the keeper look after it.
func (a *account) template(name string, mappings ...types.LaunchTemplateBlockDeviceMappingRequest) string {
	a.Helper()
	out, err := a.ec2.CreateLaunchTemplate(a.Context(), &ec2.CreateLaunchTemplateInput{LaunchTemplateName: &name, LaunchTemplateData: &types.RequestLaunchTemplateData{
		ImageId: aws.String("ami-1"), UserData: aws.String("c2VjcmV0"), SecurityGroupIds: []string{"sg-1", "sg-2"}, BlockDeviceMappings: mappings,
		MetadataOptions: &types.LaunchTemplateInstanceMetadataOptionsRequest{HttpTokens: types.LaunchTemplateHttpTokensStateRequired},
	}})
	a.ok(err)
	id := *out.LaunchTemplate.LaunchTemplateId
	a.keeper.Templates = append(a.keeper.Templates, id)
	return id
}

// by is somebody else's version.
func (a *account) by(id, description string, data types.RequestLaunchTemplateData) int64 {
	a.Helper()
	out, err := a.ec2.CreateLaunchTemplateVersion(a.Context(), &ec2.CreateLaunchTemplateVersionInput{LaunchTemplateId: &id, SourceVersion: aws.String("1"),
		VersionDescription: &description, LaunchTemplateData: &data})
	a.ok(err)
	return *out.LaunchTemplateVersion.VersionNumber
}

func (a *account) makeDefault(id string, n int64) {
	a.Helper()
	_, err := a.ec2.ModifyLaunchTemplate(a.Context(), &ec2.ModifyLaunchTemplateInput{LaunchTemplateId: &id, DefaultVersion: aws.String(fmt.Sprint(n))})
	a.ok(err)
}

// follow has the keeper follow a pointer that names these, one after the other, then the last.
func (a *account) follow(ids ...string) error {
	a.Helper()
	a.said, a.wrong = nil, nil
	return a.keeper.Follow(a.Context(), func(context.Context) (template.Snapshot, error) {
		id := ids[0]
		if len(ids) > 1 {
			ids = ids[1:]
		}
		return template.Snapshot{ID: id, Store: store, Generation: 7}, nil
	}, func(wrong bool, text string) {
		if wrong {
			a.wrong = append(a.wrong, text)
		} else {
			a.said = append(a.said, text)
		}
	})
}

// is what a template has: "4: snap-… snap-…; 5* …", the default with a star.
func (a *account) has(id string) string {
	a.Helper()
	var out []string
	for _, t := range a.Templates() {
		for _, v := range t.Versions {
			star := ""
			if v.Number == t.Default {
				star = "*"
			}
			text := fmt.Sprintf("%d%s:", v.Number, star)
			for n := 1; n < 4; n++ {
				text += strings.TrimRight(" "+v.Data.Get(fmt.Sprintf("BlockDeviceMapping.%d.Ebs.SnapshotId", n)), " ")
			}
			if t.ID == id {
				out = append(out, text)
			}
		}
	}
	return strings.Join(out, "; ")
}

func (a *account) want(id, want string) {
	a.Helper()
	if got := a.has(id); got != want {
		a.Errorf("the template has %s\nwant %s", got, want)
	}
}

// changes are the calls that changed templates.
func (a *account) changes() (all []string) {
	for _, c := range a.Calls() {
		if c.Mutates && strings.Contains(c.Action, "LaunchTemplate") {
			all = append(all, c.Action)
		}
	}
	return all
}

func TestFollowChangesOneSnapshotAlone(t *testing.T) {
	a := newAccount(t, cloud.Options{})
	first, next, other, foreign := a.snapshot(store), a.snapshot(store), a.snapshot(another), a.snapshot("")
	id := a.template("web", mapping("/dev/sdf", foreign), mapping("/dev/sdg", first), mapping("/dev/sdh", other))
	a.by(id, "of somebody", types.RequestLaunchTemplateData{ImageId: aws.String("ami-2")}) // not the default, so not the source
	a.ok(a.follow(next))
	a.want(id, fmt.Sprintf("1: %s %s %s; 2:; 3*: %s %s %s", foreign, first, other, foreign, next, other))
	all := a.Templates()[0].Versions
	was, is := all[0].Data, all[2].Data
	was.Set("BlockDeviceMapping.2.Ebs.SnapshotId", next)
	if was.Encode() != is.Encode() {
		t.Errorf("version 3 has\n%s\nwant\n%s", is.Encode(), was.Encode())
	}
	if d := all[2].Description; d != "ebs-release: "+next+" of generation 7, from version 1" {
		t.Errorf("described as %q", d)
	}
	if len(a.said) != 1 || !strings.Contains(a.said[0], "version 3 is the default, with "+next) || len(a.wrong) > 0 {
		t.Errorf("it says %q, %q", a.said, a.wrong)
	}
	before := len(a.changes())
	a.ok(a.follow(next))
	if n := len(a.changes()); n != before {
		t.Errorf("nothing was to be done, and it called %v", a.changes()[before:])
	}
	a.ok(a.follow(first)) // a rollback: what is newest goes back, too
	a.want(id, fmt.Sprintf("1: %s %s %s; 2:; 3: %s %s %s; 4*: %s %s %s", foreign, next, other, foreign, next, other, foreign, first, other))
	a.ok(a.follow("")) // nothing is published
}

func TestFollowByDevice(t *testing.T) {
	a := newAccount(t, cloud.Options{})
	next, foreign := a.snapshot(store), a.snapshot("")
	id := a.template("web", mapping("/dev/sdf", foreign), mapping("/dev/sdg", ""))
	a.keeper.Device, a.keeper.Templates = "/dev/sdg", []string{"web"} // by its name
	a.ok(a.follow(next))
	a.want(id, fmt.Sprintf("1: %s; 2*: %s %s", foreign, foreign, next))
}

func TestFollowGuessesNoMapping(t *testing.T) {
	for name, tt := range map[string]struct {
		mappings func(a *account) []types.LaunchTemplateBlockDeviceMappingRequest
		device   string
		want     string
	}{
		"none of this store": {func(a *account) []types.LaunchTemplateBlockDeviceMappingRequest {
			return []types.LaunchTemplateBlockDeviceMappingRequest{mapping("/dev/sdf", a.snapshot(another)), mapping("/dev/sdg", "")}
		}, "", "no mapping of its version 1 has a snapshot of this store. Try: set `launch-template-device`"},
		"two": {func(a *account) []types.LaunchTemplateBlockDeviceMappingRequest {
			return []types.LaunchTemplateBlockDeviceMappingRequest{mapping("/dev/sdf", a.snapshot(store)), mapping("/dev/sdg", a.snapshot(store))}
		}, "", "two mappings of its version 1 (/dev/sdf, /dev/sdg) have snapshots of this store"},
		"no such device": {func(a *account) []types.LaunchTemplateBlockDeviceMappingRequest {
			return []types.LaunchTemplateBlockDeviceMappingRequest{mapping("/dev/sdf", a.snapshot(store))}
		}, "/dev/sdz", "its version 1 has no EBS volume at /dev/sdz"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAccount(t, cloud.Options{})
			a.template("web", tt.mappings(a)...)
			a.keeper.Device = tt.device
			before := len(a.changes())
			if err := a.follow(a.snapshot(store)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %s", err, tt.want)
			}
			if n := len(a.changes()); n != before {
				t.Errorf("it called %v", a.changes()[before:])
			}
		})
	}
	// The pointer does not say whose it is: what is of nobody is not of its store.
	a := newAccount(t, cloud.Options{})
	a.template("web", mapping("/dev/sdf", a.snapshot("")))
	err := a.keeper.Follow(t.Context(), func(context.Context) (template.Snapshot, error) { return template.Snapshot{ID: a.snapshot(store)}, nil }, func(bool, string) {})
	if err == nil || !strings.Contains(err.Error(), "no mapping of its version 1") {
		t.Errorf("it says %v", err)
	}
}

// TestFollowGoesOnFromAnyCall: whoever comes next needs no other version where one is there, and
// leaves none that is of another snapshot as the latest.
func TestFollowGoesOnFromAnyCall(t *testing.T) {
	for _, action := range []string{"CreateLaunchTemplateVersion", "ModifyLaunchTemplate"} {
		for _, after := range []bool{false, true} {
			for _, back := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, done %v, then back %v", action, after, back), func(t *testing.T) {
					a := newAccount(t, cloud.Options{})
					first, next := a.snapshot(store), a.snapshot(store)
					id := a.template("web", mapping("/dev/sdf", first))
					disarm := a.Fault(cloud.Fault{Action: action, Effect: cloud.Effect{Fail: cloud.Reset, After: after}})
					if err := a.follow(next); err == nil || !strings.Contains(err.Error(), "goes on without "+next) {
						t.Errorf("it says %v", err)
					}
					disarm()
					wanted := next
					if back {
						wanted = first
					}
					a.ok(a.follow(wanted))
					got := a.has(id)
					last := got[strings.LastIndex(got, "; ")+1:]
					if !strings.Contains(got, "*: "+wanted) || !strings.HasSuffix(last, wanted) {
						t.Errorf("it has %s, want default and latest with %s", got, wanted)
					}
					if !back && strings.Count(got, ":") != 2 {
						t.Errorf("it has %s, want two versions", got)
					}
				})
			}
		}
	}
}

// loses is an EC2 that loses a part of what it is asked for (aws-cli #4297), or that somebody else
// works on as well.
type loses struct {
	*ec2.Client
	data func(*types.RequestLaunchTemplateData)
	then func()
}

func (l loses) CreateLaunchTemplateVersion(ctx context.Context, in *ec2.CreateLaunchTemplateVersionInput, o ...func(*ec2.Options)) (
	*ec2.CreateLaunchTemplateVersionOutput, error) {
	l.data(in.LaunchTemplateData)
	out, err := l.Client.CreateLaunchTemplateVersion(ctx, in, o...)
	l.then()
	return out, err
}

func TestFollowReadsBack(t *testing.T) {
	a := newAccount(t, cloud.Options{})
	first, next := a.snapshot(store), a.snapshot(store)
	id := a.template("web", mapping("/dev/sdf", first))
	for name, change := range map[string]func(*types.RequestLaunchTemplateData){
		"BlockDeviceMappings": func(d *types.RequestLaunchTemplateData) { d.BlockDeviceMappings[0].Ebs.SnapshotId = nil },
		"UserData":            func(d *types.RequestLaunchTemplateData) { d.UserData = aws.String("b3RoZXI=") },
	} {
		a.keeper.EC2 = loses{a.ec2, change, func() {}}
		if err := a.follow(next); err == nil || !strings.Contains(err.Error(), "is not what was asked for, in ["+name+"]") {
			t.Errorf("%s: %v", name, err)
		}
		a.want(id, "1*: "+first)
	}
}

func TestFollowBeginsAnewWhenSomebodyElseChanges(t *testing.T) {
	a := newAccount(t, cloud.Options{})
	first, next, newest := a.snapshot(store), a.snapshot(store), a.snapshot(store)
	id := a.template("web", mapping("/dev/sdf", first))
	once := false
	a.keeper.EC2 = loses{a.ec2, func(*types.RequestLaunchTemplateData) {}, func() {
		if !once { // an operator takes another image
			once = true
			a.makeDefault(id, a.by(id, "of somebody", types.RequestLaunchTemplateData{ImageId: aws.String("ami-2"),
				BlockDeviceMappings: []types.LaunchTemplateBlockDeviceMappingRequest{mapping("/dev/sdf", first)}}))
		}
	}}
	a.ok(a.follow(next))
	a.want(id, fmt.Sprintf("1: %s; 2: %s; 3: %s; 4*: %s", first, next, first, next))
	if image := a.Templates()[0].Versions[3].Data.Get("ImageId"); image != "ami-2" {
		t.Errorf("the operator's image is gone: %s", image)
	}
	a.ok(a.follow(first, newest)) // the pointer moves on meanwhile
	if got := a.has(id); !strings.Contains(got, "*: "+newest) {
		t.Errorf("it has %s, want %s", got, newest)
	}
}

// TestFollowWaitsForEC2: what was written a moment ago may not be seen.
func TestFollowWaitsForEC2(t *testing.T) {
	a := newAccount(t, cloud.Options{Latency: cloud.LatencyTable{Lag: cloud.Lag{Chance: 0.7, Max: 100 * time.Millisecond}}})
	first, next := a.snapshot(store), a.snapshot(store)
	id := a.template("web", mapping("/dev/sdf", first))
	time.Sleep(200 * time.Millisecond) // the lab's lag, so that all of that is seen
	a.ok(a.follow(next))
	a.want(id, fmt.Sprintf("1: %s; 2*: %s", first, next))
	if len(a.wrong) > 0 {
		t.Errorf("it warns of %q", a.wrong)
	}
}

// turns is an EC2 whose default version somebody changes while old ones are looked for.
type turns struct {
	*ec2.Client
	turn func()
}

func (l turns) DescribeLaunchTemplateVersions(ctx context.Context, in *ec2.DescribeLaunchTemplateVersionsInput, o ...func(*ec2.Options)) (
	*ec2.DescribeLaunchTemplateVersionsOutput, error) {
	if len(in.Versions) == 0 {
		l.turn()
	}
	return l.Client.DescribeLaunchTemplateVersions(ctx, in, o...)
}

func TestPruneAsksForNoDefault(t *testing.T) {
	a := newAccount(t, cloud.Options{})
	first, next := a.snapshot(store), a.snapshot(store)
	id := a.template("web", mapping("/dev/sdf", first))
	a.keeper.Keep = 1
	a.ok(a.follow(next)) // 2
	a.keeper.EC2 = turns{a.ec2, func() { a.makeDefault(id, 2) }}
	a.ok(a.follow(first)) // 3
	if len(a.wrong) > 0 {
		t.Errorf("it warns of %q", a.wrong)
	}
	a.want(id, fmt.Sprintf("1: %s; 2*: %s; 3: %s", first, next, first))
}

func TestPruneSparesWhatSomebodyNames(t *testing.T) {
	a := newAccount(t, cloud.Options{})
	first := a.snapshot(store)
	id := a.template("web", mapping("/dev/sdf", first))
	a.by(id, "ebs-release: by hand", types.RequestLaunchTemplateData{ImageId: aws.String("ami-2")}) // 2
	two, three := a.snapshot(store), a.snapshot(store)
	a.ok(a.follow(two))   // 3
	a.ok(a.follow(three)) // 4
	a.ok(a.CreateGroup(cloud.GroupSpec{Name: "elsewhere", Template: cloud.TemplateRef{ID: id, Version: "3", Mixed: true}}))
	for _, next := range []string{two, three, two, three} { // 5 to 8
		a.ok(a.follow(next))
	}
	a.want(id, fmt.Sprintf("1: %s; 2:; 3: %s; 6: %s; 7: %s; 8*: %s", first, two, three, two, three))
	a.ok(a.SetLaunch("elsewhere", cloud.RunSpec{})) // somebody makes another the default: 9, which brings nothing
	a.keeper.Device = "/dev/sdf"
	if err := a.follow(two); err == nil {
		t.Error("there is no mapping, and it goes on")
	}
	a.makeDefault(id, 1)
	a.ok(a.follow(two))
	a.want(id, fmt.Sprintf("1: %s; 2:; 3: %s; 7: %s; 8: %s; 9:; 10*: %s", first, two, two, three, two))
}

// An instance refresh launches from what it was started with, which its group does not name before
// the refresh has succeeded.
func TestPruneSparesWhatARefreshLaunches(t *testing.T) {
	a := newAccount(t, cloud.Options{})
	first, two, three := a.snapshot(store), a.snapshot(store), a.snapshot(store)
	a.ok(a.CreateGroup(cloud.GroupSpec{Name: "web", Max: 1}))
	id := a.template("app", mapping("/dev/sdf", first))
	a.ok(a.follow(two)) // 2
	_, err := a.asg.StartInstanceRefresh(t.Context(), &autoscaling.StartInstanceRefreshInput{AutoScalingGroupName: aws.String("web"),
		DesiredConfiguration: &astypes.DesiredConfiguration{LaunchTemplate: &astypes.LaunchTemplateSpecification{LaunchTemplateId: &id, Version: aws.String("2")}},
		Preferences:          &astypes.RefreshPreferences{BakeTime: aws.Int32(3600)}})
	a.ok(err)
	for _, next := range []string{three, two, three, two} { // 3 to 6
		a.ok(a.follow(next))
	}
	a.want(id, fmt.Sprintf("1: %s; 2: %s; 4: %s; 5: %s; 6*: %s", first, two, two, three, two))
}

func TestWhatGroupsLaunchFrom(t *testing.T) {
	a := newAccount(t, cloud.Options{})
	first, foreign := a.snapshot(store), a.snapshot(another)
	id := a.template("web", mapping("/dev/sdf", first))
	hers := a.template("hers", mapping("/dev/sdf", foreign))
	for name, ref := range map[string]cloud.TemplateRef{
		"a-default": {ID: id, Version: "$Default"}, "b-number": {ID: id, Version: "1", Mixed: true}, "c-latest": {ID: id, Version: "$Latest"},
		"d-hers": {ID: hers, Version: "$Default"}, "e-unset": {ID: id},
	} {
		a.ok(a.CreateGroup(cloud.GroupSpec{Name: name, Template: ref}))
		a.keeper.Names = append(a.keeper.Names, name)
	}
	a.ok(a.CreateGroup(cloud.GroupSpec{Name: "f-own"}))
	a.keeper.Names, a.keeper.Templates = append(a.keeper.Names, "f-own"), []string{id}
	next := a.snapshot(store)
	a.ok(a.follow(next))
	latest := a.by(id, "of somebody", types.RequestLaunchTemplateData{BlockDeviceMappings: []types.LaunchTemplateBlockDeviceMappingRequest{mapping("/dev/sdz", first)}})
	a.ok(a.follow(next))
	for _, want := range []string{"group b-number launches from version 1 of launch template " + id + ", which it names by number",
		fmt.Sprintf("group c-latest launches from version %d of launch template %s, the latest, and not from the default, 2", latest, id)} {
		if !slices.ContainsFunc(a.wrong, func(text string) bool { return strings.Contains(text, want) }) {
			t.Errorf("nothing says %s: %q", want, a.wrong)
		}
	}
	if len(a.wrong) != 2 {
		t.Errorf("it warns of %q", a.wrong)
	}

	launches, err := a.keeper.Launches(t.Context())
	a.ok(err)
	var got []string
	for _, l := range launches {
		got = append(got, fmt.Sprintf("%s %d %s %s %s %v %v", l.Name, l.Number, l.Device, l.Names, l.Store, l.Deletes, l.Misses != ""))
	}
	slices.Sort(got)
	want := []string{
		"a-default 2 /dev/sdf " + next + " " + store + " true false", "b-number 1 /dev/sdf " + first + " " + store + " true true",
		"c-latest 3 /dev/sdz " + first + " " + store + " true true", "d-hers 1 /dev/sdf " + foreign + " " + another + " true false",
		"e-unset 2 /dev/sdf " + next + " " + store + " true false", "f-own 1    false false",
	}
	if !slices.Equal(got, want) {
		t.Errorf("launches\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	named, err := a.keeper.Named(t.Context())
	a.ok(err)
	if len(named) != 3 || named[next] != "version 2 of launch template "+id+" names it" || named[foreign] == "" {
		t.Errorf("named: %v", named)
	}
	behind, err := a.keeper.Behind(t.Context(), template.Snapshot{ID: first, Store: store})
	a.ok(err)
	if len(behind) != 1 || !strings.Contains(behind[0], "the default version 2 of launch template "+id+" names "+next+", the pointer "+first) {
		t.Errorf("behind: %q", behind)
	}
	a.keeper.Templates = append(a.keeper.Templates, "lt-00000000000000009")
	if _, err := a.keeper.Named(t.Context()); err == nil {
		t.Error("a template that is not there names nothing")
	}
}

// TestTheMissingRightIsNamed: that of each call.
func TestTheMissingRightIsNamed(t *testing.T) {
	for _, action := range []string{"ec2:DescribeLaunchTemplateVersions", "ec2:CreateLaunchTemplateVersion", "ec2:ModifyLaunchTemplate",
		"ec2:DeleteLaunchTemplateVersions", "autoscaling:DescribeAutoScalingGroups", "autoscaling:DescribeInstanceRefreshes"} {
		denied := ""
		a := newAccount(t, cloud.Options{Policy: func(_ context.Context, c cloud.Check) bool { return c.Action != denied }})
		first, next := a.snapshot(store), a.snapshot(store)
		a.template("app", mapping("/dev/sdf", first))
		a.ok(a.CreateGroup(cloud.GroupSpec{Name: "web"}))
		a.keeper.Keep = 1
		a.ok(a.keeper.Rights(t.Context()))
		a.ok(a.follow(a.snapshot(store)))
		denied = action
		err := a.follow(next)
		text := fmt.Sprint(err, a.wrong)
		if !strings.Contains(text, "not allowed") || !strings.Contains(text, "allow "+action+" in the role") {
			t.Errorf("%s: %s", action, text)
		}
		if err := a.keeper.Rights(t.Context()); strings.HasPrefix(action, "ec2:") && (err == nil || !strings.Contains(err.Error(), "allow "+action)) {
			t.Errorf("%s: %v", action, err)
		}
		if _, err := a.keeper.Named(t.Context()); strings.Contains(action, "Describe") && !strings.HasSuffix(action, "Refreshes") && (err == nil || !strings.Contains(err.Error(), "allow "+action)) {
			t.Errorf("%s: %v", action, err)
		}
	}
}
