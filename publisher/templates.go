package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"ebs-release/internal/advice"
	"ebs-release/internal/config"
	"ebs-release/internal/pointer"
	"ebs-release/internal/template"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

// templates is publish.Templates.
type templates struct {
	keeper template.Keeper
	region string
}

func templatesOf(cfg aws.Config, values config.Values) templates {
	return templates{region: cfg.Region, keeper: template.Keeper{
		EC2: ec2.NewFromConfig(cfg), Groups: autoscaling.NewFromConfig(cfg), Names: values.List("groups"),
		Templates: values.List("launch-template"), Device: values.Get("launch-template-device"), Keep: values.Int("keep"),
	}}
}

// Follow is publish.Templates's.
func (t templates) Follow(
	ctx context.Context, now func(context.Context) (pointer.Pointer, error), say func(wrong bool, text string),
) error {
	return t.keeper.Follow(ctx, func(ctx context.Context) (template.Snapshot, error) {
		p, err := now(ctx)
		return t.named(p), err
	}, say)
}

// named is the snapshot that a pointer names; without an ID it names none.
func (t templates) named(p pointer.Pointer) template.Snapshot {
	if p.Generation == 0 {
		return template.Snapshot{}
	}
	return template.Snapshot{ID: p.Snapshots[t.region], Store: p.Store, Generation: p.Holds().Generation}
}

// behind warns of templates that do not name the pointer's snapshot.
func (t templates) behind(ctx context.Context, p pointer.Pointer) (warnings []string, err error) {
	wanted := t.named(p)
	if wanted.ID == "" {
		return nil, nil
	}
	behind, err := t.keeper.Behind(ctx, wanted)
	for _, text := range behind {
		warnings = append(warnings, advice.Text(text, "ebs-release converge, which says why, or puts it right"))
	}
	return warnings, err
}

// templateNames are those that EC2 takes: an id, or a name (error code
// InvalidLaunchTemplateName.MalformedException).
var templateNames = regexp.MustCompile(`^(lt-[0-9a-f]{8,17}|[A-Za-z0-9()./_-]{3,128})$`)

func checkTemplates(value string) error {
	for name := range strings.SplitSeq(value, ",") {
		if name = strings.TrimSpace(name); name != "" && !templateNames.MatchString(name) {
			return errors.New("want ids (lt-…) or names of launch templates, separated by commas")
		}
	}
	return nil
}

// lookAtTemplates tries the rights, and compares what the templates name with the pointer.
func (p *parts) lookAtTemplates(ctx context.Context) (string, error) {
	if p.Templates == nil {
		return "no launch-template is set: none is changed", nil
	}
	if err := p.templates.keeper.Rights(ctx); err != nil {
		return "", warn("a publish leaves them as they are: %w", err)
	}
	current, err := p.store.Read(ctx)
	if err != nil {
		return "", err
	}
	warnings, err := p.templates.behind(ctx, current)
	switch {
	case err != nil:
		return "", err
	case len(warnings) > 0:
		return "", warn("%w", advice.Parse(warnings[0]))
	}
	return fmt.Sprintf("%s: the snapshot of the pointer", strings.Join(p.templates.keeper.Templates, ", ")), nil
}

// lookAtLaunches says what volume of the release EC2 brings to what the groups launch.
func (p *parts) lookAtLaunches(ctx context.Context) (string, error) {
	current, err := p.store.Read(ctx)
	if err != nil {
		return "", err
	}
	launches, err := p.templates.keeper.Launches(ctx)
	if err != nil {
		return "", warn("not known: %w", err)
	}
	var says []string
	for _, l := range launches {
		version := fmt.Sprintf("group %s launches from version %d (%s) of launch template %s", l.Name, l.Number, l.Version, l.Template)
		switch {
		case l.Device == "":
			says = append(says, l.Name+" brings no volume of a release: members make their own")
			continue
		case l.Store != current.Store:
			return "", advice.Try(warn("%s, which brings %s at %s: no release of this store, and members make volumes of their own",
				version, orDash(l.Names), l.Device), "set launch-template, or take the mapping out of the template")
		case !l.Deletes:
			return "", advice.Try(warn("%s, whose volume at %s stays when its instance is terminated, and costs money", version, l.Device),
				"set DeleteOnTermination in its block device mapping")
		case l.Misses != "" && p.Templates != nil:
			return "", warn("%w", advice.Parse(l.Misses))
		}
		text := fmt.Sprintf("%s brings %s at %s by version %d", l.Name, l.Names, l.Device, l.Number)
		if !l.Fixed() {
			text += " (" + l.Version + ": its instance refreshes cannot have AutoRollback)"
		}
		says = append(says, text)
	}
	if len(says) == 0 {
		return "no group has a launch template", nil
	}
	return strings.Join(says, "; "), nil
}
