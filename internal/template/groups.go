package template

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"ebs-release/internal/advice"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	astypes "github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// Group is an Auto Scaling group and a template that it launches from. One with a mixed instances
// policy may have several.
type Group struct {
	Name     string
	Template string // its id, or its name
	Called   string // its name, "" when it is not known
	Version  string // $Default, $Latest or a number
}

// is says whether a group launches from the template of a version.
func (g Group) is(v types.LaunchTemplateVersion) bool {
	return g.Template == aws.ToString(v.LaunchTemplateId) || g.Called != "" && g.Called == aws.ToString(v.LaunchTemplateName)
}

// Fixed says that a group names a version by its number: no other default reaches it.
func (g Group) Fixed() bool { return !strings.HasPrefix(g.Version, "$") }

// groupsPerPage is the most that DescribeAutoScalingGroups gives, and takes of names (its API
// reference).
const groupsPerPage = 100

// groups returns what groups launch from: those with names, or all of the account.
func (k Keeper) groups(ctx context.Context, names []string) (all []Group, err error) {
	batches := [][]string{nil}
	if names != nil {
		batches = slices.Collect(slices.Chunk(names, groupsPerPage))
	}
	for _, batch := range batches {
		pages := autoscaling.NewDescribeAutoScalingGroupsPaginator(k.Groups, &autoscaling.DescribeAutoScalingGroupsInput{
			AutoScalingGroupNames: batch, MaxRecords: aws.Int32(groupsPerPage)})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return nil, refused("DescribeAutoScalingGroups", "ask Auto Scaling what groups launch from", err)
			}
			for _, g := range page.AutoScalingGroups {
				all = append(all, launchesFrom(g)...)
			}
		}
	}
	return all, nil
}

func launchesFrom(g astypes.AutoScalingGroup) (all []Group) {
	add := func(s *astypes.LaunchTemplateSpecification) {
		if s == nil {
			return
		}
		of := Group{
			Name: aws.ToString(g.AutoScalingGroupName), Template: aws.ToString(s.LaunchTemplateId), Called: aws.ToString(s.LaunchTemplateName),
			Version: aws.ToString(s.Version),
		}
		if of.Template == "" {
			of.Template = of.Called
		}
		if of.Version == "" { // "If the value is $Default … The default value is $Default" (LaunchTemplateSpecification)
			of.Version = "$Default"
		}
		if of.Template != "" {
			all = append(all, of)
		}
	}
	add(g.LaunchTemplate)
	if p := g.MixedInstancesPolicy; p != nil && p.LaunchTemplate != nil {
		add(p.LaunchTemplate.LaunchTemplateSpecification)
		for _, o := range p.LaunchTemplate.Overrides {
			add(o.LaunchTemplateSpecification)
		}
	}
	return all
}

// refreshes returns what instance refreshes launch from, of those of some groups that the pointer
// feeds, or that launch from the template of a version. Their groups name that only after the
// refresh has succeeded (StartInstanceRefresh, DesiredConfiguration).
func (k Keeper) refreshes(ctx context.Context, groups []Group, of types.LaunchTemplateVersion) (all []Group, err error) {
	over := []astypes.InstanceRefreshStatus{ // a state that is not known counts as going on
		astypes.InstanceRefreshStatusSuccessful, astypes.InstanceRefreshStatusFailed, astypes.InstanceRefreshStatusCancelled,
		astypes.InstanceRefreshStatusRollbackFailed, astypes.InstanceRefreshStatusRollbackSuccessful,
	}
	var names []string
	for _, g := range groups {
		if g.is(of) || slices.Contains(k.Names, g.Name) {
			names = append(names, g.Name)
		}
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		// The first page has the newest, and only that can be going on (StartInstanceRefresh, error
		// InstanceRefreshInProgress).
		out, err := k.Groups.DescribeInstanceRefreshes(ctx, &autoscaling.DescribeInstanceRefreshesInput{AutoScalingGroupName: aws.String(name)})
		if err != nil {
			return nil, refused("DescribeInstanceRefreshes", "ask Auto Scaling what an instance refresh of "+name+" launches from", err)
		}
		for _, r := range out.InstanceRefreshes {
			if d := r.DesiredConfiguration; d != nil && !slices.Contains(over, r.Status) {
				all = append(all, launchesFrom(astypes.AutoScalingGroup{
					AutoScalingGroupName: &name, LaunchTemplate: d.LaunchTemplate, MixedInstancesPolicy: d.MixedInstancesPolicy})...)
			}
		}
	}
	return all, nil
}

// warnOfGroups names groups that launch from a template and do not see its default.
func (k Keeper) warnOfGroups(ctx context.Context, t template, say Say) error {
	groups, err := k.groups(ctx, k.Names)
	if err != nil {
		return err
	}
	for _, g := range groups {
		if wrong := g.misses(t); g.is(t.standard) && wrong != "" {
			say(true, wrong)
		}
	}
	return nil
}

// misses says why a group does not launch from the default version; "": it does.
func (g Group) misses(t template) string {
	switch standard := number(t.standard); {
	case g.Fixed() && g.Version != strconv.FormatInt(standard, 10):
		return advice.Text(fmt.Sprintf("group %s launches from version %s of launch template %s, which it names by number, and not from the "+
			"default, %d", g.Name, g.Version, g.Template, standard), "give the group the version $Default")
	case g.Fixed():
		return advice.Text(fmt.Sprintf("group %s names version %s of launch template %s by number: it will not see the next one",
			g.Name, g.Version, g.Template), "give the group the version $Default")
	case g.Version == "$Latest" && number(t.latest) != standard:
		return advice.Text(fmt.Sprintf("group %s launches from version %d of launch template %s, the latest, and not from the default, %d",
			g.Name, number(t.latest), g.Template, standard), "give the group the version $Default, or make the latest the default")
	}
	return ""
}

// Named says of each snapshot that a version names which one it is: of the templates to keep, and
// of those that the groups launch from.
func (k Keeper) Named(ctx context.Context) (map[string]string, error) {
	groups, err := k.groups(ctx, k.Names)
	if err != nil {
		return nil, err
	}
	names := slices.Clone(k.Templates)
	for _, g := range groups {
		names = append(names, g.Template)
	}
	slices.Sort(names)
	named := map[string]string{}
	for _, name := range slices.Compact(names) {
		all, err := k.versions(ctx, name)
		if volume.IsNoTemplate(err) && !slices.Contains(k.Templates, name) {
			continue // a group without it launches nothing
		}
		if err != nil {
			return nil, err
		}
		for _, v := range all {
			for _, id := range snapshotsOf(v) {
				named[id] = fmt.Sprintf("version %d of launch template %s names it", number(v), name)
			}
		}
	}
	return named, nil
}

// Launch is what a group launches from now.
type Launch struct {
	Group
	Number  int64  // of the version
	Device  string // of the mapping that brings a release; "": none does
	Names   string // its snapshot
	Store   string // whose that is; "": of none, or it is gone
	Deletes bool   // with the instance
	Misses  string // why it is not the default version; "": it is
}

// Launches says what the groups launch from.
func (k Keeper) Launches(ctx context.Context) (all []Launch, err error) {
	groups, err := k.groups(ctx, k.Names)
	if err != nil {
		return nil, err
	}
	seen := map[string]template{} // by name: several groups may have one
	for _, g := range groups {
		l := Launch{Group: g}
		found, err := k.versions(ctx, g.Template, g.Version)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			return nil, fmt.Errorf("EC2 does not show version %s of launch template %s, of group %s", g.Version, g.Template, g.Name)
		}
		l.Number = number(found[0])
		of, err := k.storesOf(ctx, snapshotsOf(found[0]))
		if err != nil {
			return nil, err
		}
		for _, m := range found[0].LaunchTemplateData.BlockDeviceMappings {
			if m.Ebs == nil {
				continue
			}
			id := aws.ToString(m.Ebs.SnapshotId)
			if of[id] != "" || k.Device != "" && aws.ToString(m.DeviceName) == k.Device {
				l.Device, l.Names, l.Store, l.Deletes = aws.ToString(m.DeviceName), id, of[id], aws.ToBool(m.Ebs.DeleteOnTermination)
			}
		}
		t, is := seen[g.Template]
		if !is {
			if t, err = k.look(ctx, g.Template); err != nil {
				return nil, err
			}
			seen[g.Template] = t
		}
		l.Misses = g.misses(t)
		all = append(all, l)
	}
	return all, nil
}

// Behind says which templates do not name a snapshot with their default version, and what they
// name.
func (k Keeper) Behind(ctx context.Context, wanted Snapshot) (behind []string, err error) {
	for _, name := range k.Templates {
		t, err := k.look(ctx, name)
		if err != nil {
			return nil, err
		}
		if ids := snapshotsOf(t.standard); !slices.Contains(ids, wanted.ID) {
			behind = append(behind, fmt.Sprintf("the default version %d of launch template %s names %s, the pointer %s", number(t.standard), name,
				foreign(strings.Join(ids, ", ")), wanted.ID))
		}
	}
	return behind, nil
}

// Rights tries by DryRun what Follow would do to each template. It changes nothing.
func (k Keeper) Rights(ctx context.Context) error {
	for _, name := range k.Templates {
		t, err := k.look(ctx, name)
		if err != nil {
			return err
		}
		id, called := byName(name)
		version, dry := aws.String(strconv.FormatInt(number(t.standard), 10)), aws.Bool(true)
		_, create := k.EC2.CreateLaunchTemplateVersion(ctx, &ec2.CreateLaunchTemplateVersionInput{
			DryRun: dry, LaunchTemplateId: id, LaunchTemplateName: called, SourceVersion: version,
			LaunchTemplateData: &types.RequestLaunchTemplateData{BlockDeviceMappings: request(t.standard.LaunchTemplateData.BlockDeviceMappings)}})
		_, modify := k.EC2.ModifyLaunchTemplate(ctx, &ec2.ModifyLaunchTemplateInput{
			DryRun: dry, LaunchTemplateId: id, LaunchTemplateName: called, DefaultVersion: version})
		_, drop := k.EC2.DeleteLaunchTemplateVersions(ctx, &ec2.DeleteLaunchTemplateVersionsInput{
			DryRun: dry, LaunchTemplateId: id, LaunchTemplateName: called, Versions: []string{*version}})
		for _, asked := range []struct {
			action string
			err    error
		}{{"CreateLaunchTemplateVersion", create}, {"ModifyLaunchTemplate", modify}, {"DeleteLaunchTemplateVersions", drop}} {
			switch {
			case asked.err == nil:
				return fmt.Errorf("%s of launch template %s: EC2 carried out a call that had DryRun set", asked.action, name)
			case !volume.IsDryRun(asked.err):
				return refused(asked.action, "try "+asked.action+" on launch template "+name, asked.err)
			}
		}
	}
	return nil
}
