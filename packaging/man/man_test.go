package main

import (
	"slices"
	"strings"
	"testing"
	"time"
)

const sample = `Publish SOURCE as the next release.
It does it in phases.

P0 check   look
P1 ingest  take in

Exit codes: 0 done.

Usage:
  ebs-release publish SOURCE [flags]

Flags:
      --dry-run          show,
                         change nothing
  -h, --help             help for publish
  -m, --message string   why (kept in the history)

Global Flags:
  --config --output

"ebs-release --help" explains the global flags.
`

func TestParseTakesHelpApart(t *testing.T) {
	h, err := parse(sample)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"Publish SOURCE as the next release. It does it in phases.", "P0 check   look\nP1 ingest  take in", "Exit codes: 0 done."}; !slices.Equal(h.text, want) {
		t.Errorf("text: %q, want %q", h.text, want)
	}
	if h.usage != "ebs-release publish SOURCE [flags]" {
		t.Errorf("usage: %q", h.usage)
	}
	if want := []entry{{"--dry-run", "show, change nothing"}, {"-h, --help", "help for publish"}, {"-m, --message string", "why (kept in the history)"}}; !slices.Equal(h.flags, want) {
		t.Errorf("flags: %q, want %q", h.flags, want)
	}
	top, err := parse("About.\n\nUsage:\n  x [flags]\n  x [command]\n\nAvailable Commands:\n  up     Do all\n  wait   Wait\n\nUse \"x [command] --help\" for more.\n")
	if err != nil {
		t.Fatal(err)
	}
	if want := []entry{{"up", "Do all"}, {"wait", "Wait"}}; !slices.Equal(top.commands, want) || top.usage != "x [command]" {
		t.Errorf("commands %q, usage %q", top.commands, top.usage)
	}
	if _, err := parse("unknown command"); err == nil {
		t.Error("what is no help was taken for one")
	}
}

func TestPageEscapesForRoff(t *testing.T) {
	h, err := parse(sample)
	if err != nil {
		t.Fatal(err)
	}
	h.text = append(h.text, ".profile is a file", `a \n stays`)
	p := page{name: "ebs-release", version: "1.0", date: time.Unix(0, 0).UTC(), about: pages()["ebs-release"], top: help{usage: "x"}, verbs: []help{h}}
	out := p.render()
	for _, want := range []string{
		".TH \"EBS\\-RELEASE\" \"8\" \"1970\\-01\\-01\"", ".SS \"ebs\\-release publish SOURCE [flags]\"", ".B \"\\-\\-dry\\-run\"\nshow, change nothing\n",
		".EX\nP0 check   look\nP1 ingest  take in\n.EE\n", "\\&.profile is a file", `a \en stays`, "ebs\\-release \\- ship code to EC2 Auto Scaling groups on EBS snapshots\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the page does not have %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "help for publish") {
		t.Error("the page lists --help for every command")
	}
	if strings.Contains(out, `\-\-output`) {
		t.Error("the page lists global flags with a command")
	}
}
