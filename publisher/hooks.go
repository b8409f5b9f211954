package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"ebs-release/internal/hook"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
	"ebs-release/internal/release"
	"ebs-release/internal/status"
)

// hooksFolder holds the directories with the operator's programs.
const hooksFolder = "/etc/ebs-release/publish.d"

// The directories in it.
const (
	hookBefore = "before"
	hookVerify = "verify"
	hookAfter  = "after"
)

// hooks is publish.Hooks: the programs in publish.d/before run when all checks have passed and
// nothing is changed yet, those in publish.d/verify when the release is on the release volume and
// no member has it; one that fails stops the publish with exit code 3. Those in publish.d/after run
// once the generation is committed, whatever came of it: see EBS_RELEASE_RESULT.
type hooks struct {
	directory string
	timeout   time.Duration // for each program
	point     string        // where the release volume is mounted
}

// upcoming is what the programs before the commit read from their standard input.
type upcoming struct {
	Schema     int    `json:"schema"`
	Hook       string `json:"hook"` // before, verify
	Generation int64  `json:"generation"`
	Source     string `json:"source,omitempty"`  // of before
	Release    string `json:"release,omitempty"` // of verify, and so on
	Digest     string `json:"digest,omitempty"`
	Staged     string `json:"staged,omitempty"` // the directory that holds the release
	By         string `json:"by"`
	Message    string `json:"message,omitempty"`
}

// Before is publish.Hooks's.
func (h hooks) Before(ctx context.Context, source string, next pointer.Pointer) error {
	return h.run(ctx, hookBefore,
		upcoming{Schema: status.Schema, Hook: hookBefore, Generation: next.Generation, Source: source, By: next.By, Message: next.Message},
		fmt.Sprintf("EBS_RELEASE_GENERATION=%d", next.Generation), "EBS_RELEASE_SOURCE="+source,
		"EBS_RELEASE_BY="+next.By, "EBS_RELEASE_MESSAGE="+next.Message)
}

// Verify is publish.Hooks's.
func (h hooks) Verify(ctx context.Context, next pointer.Pointer) error {
	staged := release.Path(h.point, next.Release)
	return h.run(ctx, hookVerify,
		upcoming{
			Schema: status.Schema, Hook: hookVerify, Generation: next.Generation, Release: next.Release, Digest: next.Digest,
			Staged: staged, By: next.By, Message: next.Message,
		},
		fmt.Sprintf("EBS_RELEASE_GENERATION=%d", next.Generation), "EBS_RELEASE_ID="+next.Release, "EBS_RELEASE_DIGEST="+next.Digest,
		"EBS_RELEASE_STAGED="+staged, "EBS_RELEASE_BY="+next.By, "EBS_RELEASE_MESSAGE="+next.Message)
}

// After is publish.Hooks's. The standard input is the outcome, as `publish --output json` prints
// it.
func (h hooks) After(ctx context.Context, o publish.Outcome) error {
	return h.run(ctx, hookAfter, o,
		fmt.Sprintf("EBS_RELEASE_GENERATION=%d", o.Generation), "EBS_RELEASE_ID="+o.Release, "EBS_RELEASE_SNAPSHOT_ID="+o.SnapshotID,
		"EBS_RELEASE_RESULT="+o.Result, fmt.Sprintf("EBS_RELEASE_MEMBERS=%d", o.Total), fmt.Sprintf("EBS_RELEASE_MEMBERS_ON_IT=%d", o.OnIt))
}

func (h hooks) run(ctx context.Context, when string, input any, env ...string) error {
	data, err := json.Marshal(input)
	if err != nil {
		return err
	}
	dir := h.dir(when)
	dir.Input, dir.Env = append(data, '\n'), append(env, "EBS_RELEASE_HOOK="+when, "EBS_RELEASE_PATH="+h.point+"/current")
	if err := dir.Run(ctx); err != nil {
		return fmt.Errorf("%s: %w", dir.Path, err)
	}
	return nil
}

func (h hooks) dir(when string) hook.Dir {
	return hook.Dir{Path: filepath.Join(h.directory, when), Timeout: h.timeout}
}
