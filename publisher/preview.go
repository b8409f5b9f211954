package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"ebs-release/internal/cli"
	"ebs-release/internal/manifest"
	"ebs-release/internal/publish"
	"ebs-release/internal/release"
	"ebs-release/internal/status"
	"ebs-release/internal/volume"
	"ebs-release/internal/words"
)

// previewReport is what `publish --dry-run --output json` prints.
type previewReport struct {
	Schema     int              `json:"schema"`
	DryRun     bool             `json:"dry_run"`
	Generation int64            `json:"generation"` // of the pointer
	Next       int64            `json:"next"`       // that a publish would make
	Base       string           `json:"base,omitempty"`
	Digest     string           `json:"digest,omitempty"`
	Files      *previewFiles    `json:"files"`  // null for a remote source, which is not fetched, and where the release volume is behind
	Verify     []string         `json:"verify"` // the programs of publish.d/verify, which would run before the commit
	Members    []publish.Member `json:"members"`
}

// previewFiles is the difference to the current release: files, directories and links.
type previewFiles struct {
	Added   []string `json:"added"`
	Changed []string `json:"changed"`
	Removed []string `json:"removed"`
	Bytes   int64    `json:"bytes"` // of the files that are not in the current release
}

// preview is `publish --dry-run`: P0, and what P1 would find. It changes nothing.
func (p *program) preview(ctx context.Context, j job) error {
	values, err := p.settings("pointer-store", "groups")
	if err != nil {
		return err
	}
	parts, err := newParts(ctx, values, p.configFile, j)
	if err != nil {
		return before(ctx, err)
	}
	defer func() { _ = parts.volume.close() }()
	talk := newTalker(p.stderr, p.getenv("TERM"))
	parts.Talk = talk.event
	found, err := parts.Preview(ctx)
	talk.close()
	if err != nil {
		return err
	}
	report := previewReport{Schema: status.Schema, DryRun: true, Generation: found.Before.Generation,
		Next: found.Next, Base: found.Before.Release, Members: found.Members}
	verify := hooks{directory: hooksFolder}.dir(hookVerify)
	names, err := verify.Names()
	if err != nil {
		return before(ctx, fmt.Errorf("%s: %w", verify.Path, err))
	}
	report.Verify = slices.Concat([]string{}, names)
	if !release.IsRemote(j.source) && !found.Behind {
		if report.Files, report.Digest, err = parts.difference(ctx, j, found.Before.Release); err != nil {
			return before(ctx, err)
		}
	}
	if p.output == cli.JSON {
		return p.printJSON(report)
	}
	return p.printPreview(report, j.source, found.Before.Digest, j.all)
}

// difference compares the source with the current release.
func (p *parts) difference(ctx context.Context, j job, base string) (*previewFiles, string, error) {
	v, err := p.volume.open()
	if err != nil {
		return nil, "", err
	}
	var old manifest.Manifest
	if base != "" {
		if old, err = v.Manifest(base); err != nil {
			return nil, "", err
		}
	}
	next, err := v.ScanOver(ctx, j.source, old, time.Now(), j.full)
	if err != nil {
		return nil, "", err
	}
	delta := manifest.Diff(old, next)
	files := &previewFiles{Added: []string{}, Changed: []string{}, Removed: slices.Concat([]string{}, delta.Removed)}
	for _, e := range delta.Added {
		files.Added = append(files.Added, e.Path)
	}
	for _, e := range delta.Changed {
		files.Changed = append(files.Changed, e.Path)
	}
	for _, e := range release.Missing(old, next) {
		files.Bytes += e.Size
	}
	return files, next.Digest(), nil
}

// mostPaths is how many paths a person reads without being asked.
const mostPaths = 20

func (p *program) printPreview(r previewReport, source, current string, all bool) error {
	what := "which files would change is not known before the release volume has caught up"
	if release.IsRemote(source) {
		what = "the files of a remote source are not looked at"
	}
	if f := r.Files; f != nil {
		shown := 0
		for _, part := range []struct {
			mark  string
			paths []string
		}{{"+", f.Added}, {"~", f.Changed}, {"-", f.Removed}} {
			for _, path := range part.paths {
				if shown++; shown <= mostPaths || all {
					fmt.Fprintf(p.stdout, "%s %s\n", part.mark, printable(path))
				}
			}
		}
		if shown > mostPaths && !all {
			fmt.Fprintf(p.stdout, "… and %d more (--all lists them)\n", shown-mostPaths)
		}
		what = fmt.Sprintf("%d added, %d changed, %d removed, %s to send", len(f.Added), len(f.Changed), len(f.Removed), words.Bytes(f.Bytes))
		if r.Digest == current {
			what = "the source equals the current release"
		}
	}
	if len(r.Members) > 0 {
		fmt.Fprintln(p.stdout)
		if err := printMembers(p.stdout, r.Members); err != nil {
			return err
		}
		fmt.Fprintln(p.stdout)
	}
	if len(r.Verify) > 0 {
		fmt.Fprintf(p.stdout, "before the commit %s/%s would run: %s\n", hooksFolder, hookVerify, strings.Join(r.Verify, ", "))
	}
	ready := 0
	for _, m := range r.Members {
		if volume.Serves(m.State) {
			ready++
		}
	}
	_, err := fmt.Fprintf(p.stdout, "dry run: generation %d would follow %d: %s; %s, %d of them ready; "+
		"all checks passed, rights by DryRun among them; nothing was changed\n",
		r.Next, r.Generation, what, words.Count(len(r.Members), "member"), ready)
	return err
}

// printable keeps a file name from breaking the line or the terminal.
func printable(path string) string {
	quoted := fmt.Sprintf("%q", path)
	if quoted == `"`+path+`"` {
		return path
	}
	return quoted
}
