package main

import (
	"context"
	"errors"
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

// Rights is checks.Templates's.
func (t templates) Rights(ctx context.Context) error { return t.keeper.Rights(ctx) }

// Launches is checks.Templates's.
func (t templates) Launches(ctx context.Context) ([]template.Launch, error) {
	return t.keeper.Launches(ctx)
}

// Behind warns of templates that do not name the pointer's snapshot.
func (t templates) Behind(ctx context.Context, p pointer.Pointer) (warnings []string, err error) {
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
