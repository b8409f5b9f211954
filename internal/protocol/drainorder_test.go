package protocol

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ebs-release/internal/activation"
	"ebs-release/internal/gc"
	"ebs-release/internal/release"
	"ebs-release/internal/test/blank"
)

// activations are what a member on r1 at generation 1 is told, and what another verb does to it
// while it is drained, or waits to raise the fence.
var activations = []struct {
	name             string
	to               image
	failing          int
	during, meantime image
	want             string
}{
	{name: "another release", to: image{2, "r2"}, want: "drain r1, programs r2"},
	{name: "the same release", to: image{2, "r1"}},
	{name: "programs that fail", to: image{2, "r2"}, failing: 1, want: "drain r1, programs r2"},
	{name: "another one was faster, and is above", to: image{2, "r2"}, during: image{3, "r3"}, want: "drain r1"},
	{name: "another one was faster, and is below", to: image{3, "r2"}, during: image{2, "r3"}, want: "drain r1, drain r3, programs r2"},
	{name: "only the fence went up meanwhile", to: image{2, "r2"}, during: image{3, "r1"}, want: "drain r1"},
	{name: "it is current no more", to: image{3, "r1"}, meantime: image{2, "r2"}, want: "drain r2, programs r1"},
}

// TestActivationOrder holds the activation in memory to the real one: it does the same in the same
// order, and leaves the same.
func TestActivationOrder(t *testing.T) {
	for _, o := range activations {
		t.Run(o.name, func(t *testing.T) {
			real, left := activatesForReal(t, o.to, o.failing, o.during, o.meantime)
			memory, leaves := activatesInMemory(t, o.to, o.failing, o.during, o.meantime)
			if real != memory || real != o.want || left != leaves {
				t.Errorf("the real one: %s, and leaves %s\nin memory:    %s, and leaves %s\nwant:         %s", real, left, memory, leaves, o.want)
			}
		})
	}
}

func activatesForReal(t *testing.T, to image, failing int, during, meantime image) (did, leaves string) {
	v, dir := blank.Volume(t), t.TempDir()
	releases := map[string]release.Ingested{}
	for i := range 3 {
		source := t.TempDir()
		must(t, os.WriteFile(filepath.Join(source, "file"), fmt.Append(nil, i), 0o644))
		in, err := v.Ingest(t.Context(), source, time.Now().Add(time.Duration(i)*time.Second), gc.Wanted{Keep: 9})
		must(t, err)
		releases[fmt.Sprint("r", i+1)] = in
	}
	first := releases["r1"]
	must(t, v.Activate(t.Context(), first.ID, first.Digest, 1))
	must(t, v.MarkDone(t.Context(), first.ID, 1))
	program := func(folder, what, then string) {
		must(t, os.Mkdir(filepath.Join(dir, folder), 0o755))
		text := fmt.Sprintf("#!/bin/sh -e\necho %s $(basename $(readlink $EBS_RELEASE_PATH)) >> %s/did\n%s\n", what, dir, then)
		must(t, os.WriteFile(filepath.Join(dir, folder, "10"), []byte(text), 0o755))
	}
	flip := ""
	if other := releases[during.release].ID; other != "" {
		flip = fmt.Sprintf("mkdir %s/once || exit 0\ncd %s\nln -sfn releases/%s current\necho %d %[3]s > .ebs-release/generation\ncp .ebs-release/generation .ebs-release/activated",
			dir, v.Root(), other, during.generation)
	}
	program(activation.DrainFolder, "drain", flip)
	fails := ""
	if failing > 0 {
		fails = "exit 7"
	}
	program(activation.ActivateFolder, "programs", fails)
	ctx := t.Context()
	if other := releases[meantime.release].ID; other != "" {
		ctx = blank.Meanwhile(t, v, other, meantime.generation)
	}
	err := activation.Run(ctx, v, activation.Programs{Folder: dir, Timeout: time.Minute, Ready: time.Minute},
		activation.Target{Release: releases[to.release].ID, Digest: releases[to.release].Digest, Generation: to.generation})
	n, id, fenceErr := v.Fence()
	must(t, fenceErr)
	done, doneErr := v.ProgramsDone()
	must(t, doneErr)
	said, readErr := os.ReadFile(filepath.Join(dir, "did"))
	if readErr != nil && !os.IsNotExist(readErr) {
		t.Fatal(readErr)
	}
	names := strings.NewReplacer(releases["r1"].ID, "r1", releases["r2"].ID, "r2", releases["r3"].ID, "r3")
	did = strings.ReplaceAll(strings.TrimSpace(names.Replace(string(said))), "\n", ", ")
	return did, fmt.Sprintf("%d %s, done %v, ends well %v", n, names.Replace(id), done, err == nil)
}

func activatesInMemory(t *testing.T, to image, failing int, during, meantime image) (did, leaves string) {
	var all []string
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.drained()
		w.failing = failing
		b := w.serving("m")
		v := w.activates(b, to)
		defer w.s.end()
		close(w.s.start)
		for {
			synctest.Wait()
			options := w.s.options()
			if len(options) == 0 {
				break
			}
			what, is, done := options[0].name, b.mounted.release, b.mounted.done
			if what == "flip" && meantime.release != "" {
				b.mounted.image, b.mounted.done, meantime = meantime, meantime.generation, image{}
			}
			w.s.take(options[0])
			d := b.mounted
			if what == "drain" && d.drained {
				all = append(all, "drain "+is)
				if during.release != "" {
					d.image, during = during, image{}
					d.serveAgain()
				}
			}
			if strings.HasPrefix(what, "programs") && (d.done != done || w.failing < failing) {
				all, failing = append(all, "programs "+is), w.failing
			}
		}
		d := b.mounted
		leaves = fmt.Sprintf("%d %s, done %v, ends well %v", d.generation, d.release, d.done == d.generation, v.err == nil)
	})
	return strings.Join(slices.Compact(all), ", "), leaves
}
