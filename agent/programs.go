package main

import (
	"context"
	"path/filepath"
	"time"

	"ebs-release/internal/activation"
	"ebs-release/internal/boot/disks"
	"ebs-release/internal/doctor"
	"ebs-release/internal/hook"
	"ebs-release/internal/words"
)

// readyTimeout is the setting, for who may have no right to read it: a release is not refused for
// that.
func (p *program) readyTimeout() time.Duration {
	values, err := p.settings()
	if err != nil {
		p.logger().Warn("ready-timeout is not known, and taken for a minute", "error", err)
		return time.Minute
	}
	return values.Duration("ready-timeout")
}

// checkPrograms looks at the operator's programs as a push does before it runs them. Who that would
// be is known where a release volume is mounted.
func (p *program) checkPrograms(folder string) doctor.Check {
	return doctor.Check{Name: "programs", Do: func(ctx context.Context) doctor.Finding {
		user := hook.AnyUser
		if now, err := p.ready(ctx); err == nil {
			if f, err := disks.ReadFence(ctx, p.logger(), now.MountPoint); err == nil {
				user = f.UID
			}
		}
		var directories []string
		for _, name := range activation.Folders() {
			directories = append(directories, filepath.Join(folder, name))
		}
		says, plain, err := hook.Inspect(directories, user)
		if err != nil {
			return doctor.Failure("let root or the owner of the tree alone own and write it", "%s", words.OneLine(err))
		}
		if len(plain) > 0 {
			wrong, try := hook.NotExecutable(plain)
			return doctor.Warning(try, "%s", wrong)
		}
		return doctor.Fine("%s", says)
	}}
}
