package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"

	"github.com/spf13/cobra"
)

func (p *program) holdCommand() *cobra.Command {
	var release bool
	var until string
	cmd := &cobra.Command{
		Use:   "hold WHY",
		Short: "Keep publishes back, and say why; --release lets them go on",
		Long: `Keep publishes back: until it is released, or until a time, each is refused with
the reason and who said so (exit 4). A rollback goes through, and a rollout that
is open goes on: ` + "`ebs-release rollout pause`" + ` stops that.`,
		Example: `  sudo ebs-release hold "incident 4711" --until 18:00
  sudo ebs-release hold --release`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case release && len(args) > 0, release && until != "":
				return errors.New("hold --release wants nothing else")
			case !release && (len(args) != 1 || strings.TrimSpace(args[0]) == ""):
				return errors.New(`hold wants the reason, such as: ebs-release hold "incident 4711"`)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if release {
				return p.changePointer(cmd.Context(), verbHoldRelease, "", func(ctx context.Context, store *pointer.Store, _ string) (changed, error) {
					is, err := publish.Hold(ctx, store, nil)
					return changed{is, "publishes go on"}, err
				})
			}
			now := time.Now()
			ends, err := parseUntil(until, now)
			if err != nil {
				return exit.With(exit.Usage, err)
			}
			return p.changePointer(cmd.Context(), verbHold, args[0], func(ctx context.Context, store *pointer.Store, who string) (changed, error) {
				is, err := publish.Hold(ctx, store, &pointer.Hold{Why: args[0], By: who, Since: now.UTC().Truncate(time.Second), Until: ends})
				return changed{is, publish.SayHold(is.Hold, now)}, err
			})
		},
	}
	cmd.Flags().BoolVar(&release, "release", false, "let publishes go on")
	cmd.Flags().StringVar(&until, "until", "", "`TIME` at which it ends by itself: 18:00 (today or tomorrow), 2h, or 2026-12-24T18:00:00Z")
	return cmd
}

// parseUntil reads a time of day here, a duration from now, or a whole time.
func parseUntil(text string, now time.Time) (t time.Time, err error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		t = now.Add(d)
	} else if clock, err := time.ParseInLocation("15:04", text, now.Location()); err == nil {
		t = time.Date(now.Year(), now.Month(), now.Day(), clock.Hour(), clock.Minute(), 0, 0, now.Location())
		if !t.After(now) {
			t = t.AddDate(0, 0, 1)
		}
	} else if t, err = time.Parse(time.RFC3339, text); err != nil {
		return t, fmt.Errorf("--until is %q, want a time such as 18:00, 2h or 2026-12-24T18:00:00Z", text)
	}
	if !t.After(now) {
		return t, fmt.Errorf("--until %s is over", text)
	}
	return t.UTC().Truncate(time.Second), nil
}
