package checks

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"ebs-release/internal/advice"
	"ebs-release/internal/doctor"
)

// lookAtTemplates tries the rights, and compares what the templates name with the pointer.
func (d *Doctor) lookAtTemplates(ctx context.Context) (string, error) {
	if len(d.FollowedTemplates) == 0 {
		return "no launch-template is set: none is changed", nil
	}
	if err := d.Templates.Rights(ctx); err != nil {
		return "", doctor.Minorf("a publish leaves them as they are: %w", err)
	}
	current, err := d.Store.Read(ctx)
	if err != nil {
		return "", err
	}
	warnings, err := d.Templates.Behind(ctx, current)
	switch {
	case err != nil:
		return "", err
	case len(warnings) > 0:
		return "", doctor.Minorf("%w", advice.Parse(warnings[0]))
	}
	return fmt.Sprintf("%s: the snapshot of the pointer", strings.Join(d.FollowedTemplates, ", ")), nil
}

// lookAtLaunches says what volume of the release EC2 brings to what the groups launch.
func (d *Doctor) lookAtLaunches(ctx context.Context) (string, error) {
	current, err := d.Store.Read(ctx)
	if err != nil {
		return "", err
	}
	launches, err := d.Templates.Launches(ctx)
	if err != nil {
		return "", doctor.Minorf("not known: %w", err)
	}
	var says []string
	for _, l := range launches {
		version := fmt.Sprintf("group %s launches from version %d (%s) of launch template %s", l.Name, l.Number, l.Version, l.Template)
		switch {
		case l.Device == "":
			says = append(says, l.Name+" brings no volume of a release: members make their own")
			continue
		case l.Store != current.Store:
			return "", advice.Try(doctor.Minorf("%s, which brings %s at %s: no release of this store, and members make volumes of their own",
				version, cmp.Or(l.Names, "-"), l.Device), "set launch-template, or take the mapping out of the template")
		case !l.Deletes:
			return "", advice.Try(doctor.Minorf("%s, whose volume at %s stays when its instance is terminated, and costs money", version, l.Device),
				"set DeleteOnTermination in its block device mapping")
		case l.Misses != "" && len(d.FollowedTemplates) > 0:
			return "", doctor.Minorf("%w", advice.Parse(l.Misses))
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
