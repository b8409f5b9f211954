package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"ebs-release/internal/hook"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
)

// hooksFolder holds the directories `before` and `after` with the operator's programs.
const hooksFolder = "/etc/ebs-release/publish.d"

// hooks is publish.Hooks: the programs in publish.d/before run when all checks have passed and
// nothing is changed yet; one that fails stops the publish with exit code 3. Those in
// publish.d/after run once the generation is committed, whatever came of it: see
// EBS_RELEASE_RESULT.
type hooks struct {
	directory string
	timeout   time.Duration // for each program
	path      string        // of the release on this machine
}

// Before is publish.Hooks's.
func (h hooks) Before(ctx context.Context, source string, next pointer.Pointer) error {
	return h.run(ctx, "before",
		fmt.Sprintf("EBS_RELEASE_GENERATION=%d", next.Generation), "EBS_RELEASE_SOURCE="+source,
		"EBS_RELEASE_BY="+next.By, "EBS_RELEASE_MESSAGE="+next.Message)
}

// After is publish.Hooks's.
func (h hooks) After(ctx context.Context, o publish.Outcome) error {
	return h.run(ctx, "after",
		fmt.Sprintf("EBS_RELEASE_GENERATION=%d", o.Generation), "EBS_RELEASE_ID="+o.Release, "EBS_RELEASE_SNAPSHOT_ID="+o.SnapshotID,
		"EBS_RELEASE_RESULT="+o.Result, fmt.Sprintf("EBS_RELEASE_MEMBERS=%d", o.Total), fmt.Sprintf("EBS_RELEASE_MEMBERS_ON_IT=%d", o.OnIt))
}

func (h hooks) run(ctx context.Context, when string, env ...string) error {
	dir := hook.Dir{Path: filepath.Join(h.directory, when), Timeout: h.timeout,
		Env: append(env, "EBS_RELEASE_HOOK="+when, "EBS_RELEASE_PATH="+h.path)}
	if err := dir.Run(ctx); err != nil {
		return fmt.Errorf("%s: %w", dir.Path, err)
	}
	return nil
}
