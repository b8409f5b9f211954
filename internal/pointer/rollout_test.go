package pointer

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// rollingOut is a pointer at generation 1 with a rollout of generation 2.
func rollingOut() Pointer {
	p, next := sample(1), sample(2)
	p.Schema = Signed
	p.Rollout = &Rollout{
		Held:  Held{2, next.Release, strings.Repeat("b", 64)},
		Steps: []Step{{Members: 1}, {Percent: 10}, {Percent: 100}},
		By:    "alice@release", Until: time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC),
	}
	return p
}

func instances(zones string, each int) (all []Instance) {
	for _, zone := range strings.Fields(zones) {
		for i := range each {
			all = append(all, Instance{fmt.Sprintf("i-%s%03d", zone, i), zone})
		}
	}
	return all
}

func included(r Rollout, all []Instance) (in []Instance) {
	return slices.DeleteFunc(slices.Clone(all), func(i Instance) bool { return !r.Includes(i) })
}

func TestRaisedHasExactlyTheWantedMembersSpreadOverZones(t *testing.T) {
	all := instances("us-east-1a us-east-1b us-east-1c", 10)
	r := *rollingOut().Rollout
	var before []Instance
	for want := range len(all) + 1 {
		r = r.Raised(all, want)
		in := included(r, all)
		if len(in) != want {
			t.Fatalf("%d members are in, want %d", len(in), want)
		}
		zones := map[string]int{}
		for _, i := range in {
			zones[i.Zone]++
		}
		for _, z := range []string{"us-east-1a", "us-east-1b", "us-east-1c"} {
			if n := zones[z]; n < want/3 || n > (want+2)/3 {
				t.Errorf("%d of %d are in zone %s", n, want, z)
			}
		}
		for _, i := range before {
			if !slices.Contains(in, i) {
				t.Errorf("at %d, %v is no longer in", want, i)
			}
		}
		before = in
	}
	if in := included(r.Raised(all, 3), all); len(in) != len(all) {
		t.Errorf("a smaller number took %d away", len(all)-len(in))
	}
	r.All = true
	if !r.Includes(Instance{"i-new", "us-east-1f"}) {
		t.Error("all is not all")
	}
}

func TestForIsTheOwnSideAndTheSameForEver(t *testing.T) {
	p := rollingOut()
	all := instances("us-east-1a us-east-1b", 20)
	raised := p.Rollout.Raised(all, 10)
	p.Rollout = &raised
	document, err := p.Sign(key(t))
	if err != nil {
		t.Fatal(err)
	}
	read, err := Parse(document)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		mine := read.For(i)
		side := Held{mine.Generation, mine.Release, mine.Digest}
		want := Held{p.Generation, p.Release, p.Digest}
		if p.Rollout.Includes(i) {
			want = p.Rollout.Held
		}
		if side != want || mine.Holds() != p.Holds() || mine.Rollout != nil {
			t.Errorf("%v: %+v of a snapshot of %+v", i, side, mine.Holds())
		}
		if again := mine.For(i); again.Generation != mine.Generation {
			t.Errorf("%v: twice is not the same as once", i)
		}
	}
}

func TestRolloutsThatCannotBeAreRefused(t *testing.T) {
	signer := key(t)
	for name, change := range map[string]func(*Pointer){
		"not above":      func(p *Pointer) { p.Rollout.Generation = 1 },
		"no digest":      func(p *Pointer) { p.Rollout.Digest = "x" },
		"no steps":       func(p *Pointer) { p.Rollout.Steps = nil },
		"beyond":         func(p *Pointer) { p.Rollout.Step = 3 },
		"share":          func(p *Pointer) { p.Rollout.Share = map[string]string{"us-east-1a": "all"} },
		"zone":           func(p *Pointer) { p.Rollout.Share = map[string]string{"a\nb": strings.Repeat("0", 16)} },
		"text":           func(p *Pointer) { p.Rollout.Terms.Gate = strings.Repeat("x", mostText+1) },
		"hold for what?": func(p *Pointer) { p.Hold = &Hold{} },
	} {
		p := rollingOut()
		if _, err := p.Sign(signer); err != nil {
			t.Fatal(err)
		}
		if change(&p); p.Rollout == nil {
			t.Fatal(name)
		}
		if _, err := p.Sign(signer); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
}

func TestStepsAreReadAsTheyAreWritten(t *testing.T) {
	for text, of := range map[string]int{"1": 1, "30": 25, "10%": 3, "1%": 1, "100%": 25, "all": 25} {
		s, err := ParseStep(text)
		if err != nil || s.Of(25) != of {
			t.Errorf("%s: %d of 25, %v, want %d", text, s.Of(25), err, of)
		}
		if again, err := ParseStep(s.String()); err != nil || again != s {
			t.Errorf("%s becomes %s", text, s)
		}
	}
	for _, bad := range []string{"", "0", "-1", "0%", "101%", "many", "1.5%", "%"} {
		if s, err := ParseStep(bad); err == nil {
			t.Errorf("%q is %s", bad, s)
		}
	}
}

// Whoever has the new release keeps it, or gets a higher generation: a fence refuses to go back.
func TestCompareAndSwapNeverLeavesOneBehind(t *testing.T) {
	began := rollingOut()
	r := began.Rollout.Raised(instances("us-east-1a", 10), 5)
	began.Rollout = &r
	back := func(generation int64) Pointer {
		p := began
		p.Generation, p.Rollout = generation, nil
		return p
	}
	through := back(2)
	through.Release, through.Digest = r.Release, r.Digest
	smaller, wider, other := began, began, began
	less := r
	less.Share = map[string]string{"us-east-1a": strings.Repeat("0", 16)}
	smaller.Rollout = &less
	more := r
	more.All = true
	wider.Rollout = &more
	another := r
	another.Generation = 3
	other.Rollout = &another
	for name, tc := range map[string]struct {
		next Pointer
		ok   bool
	}{
		"raised":                    {wider, true},
		"came through":              {through, true},
		"goes back":                 {back(3), true},
		"forgotten":                 {back(1), false},
		"its generation, but older": {back(2), false},
		"a smaller share":           {smaller, false},
		"another rollout":           {other, false},
	} {
		if err := CheckMove(began, began, tc.next); tc.ok != (err == nil) || err != nil && !errors.Is(err, ErrConflict) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
