package protocol

import (
	"context"
	"slices"

	"ebs-release/internal/boot"
)

// The mutants of volumes that EC2 brings.
const (
	claimsBrought = "a volume that EC2 brought is claimed by tags"
	looksNowhere  = "a volume is mounted beside the one that is served"
	forgetsServed = "a volume that EC2 brought is given up for an older pointer, although it has served"
	ownIsNotFirst = "a volume that EC2 brought goes before one that the agent has made"
)

// bringing: a disk is there from the launch on. Nothing but the disk says whose it is.
var bringing = []scenario{
	{"publish and boot on a volume that came", fine, func(w *world) {
		w.packs = true
		w.server().publish("A")
		w.up(w.launched("m"))
	}, large},
	{"publish and boot on a volume that came, late listings", medium, func(w *world) {
		w.packs, w.late = true, true
		w.server().publish("A")
		w.up(w.launched("m"))
	}, large},
	{"publish and boot beside a volume of no use that came", medium, func(w *world) {
		w.packs = true
		w.server().publish("A")
		b := w.launched("m")
		b.disks[0].unfit, b.disks[0].image = true, image{7, "other"}
		w.up(b)
	}, small},
	{"publish and reboot on a volume that came", fine, func(w *world) {
		w.packs = true
		w.server().publish("A")
		b := w.servingBrought("m")
		w.event("reboot", func() { w.reboot(b) })
	}, small},
	{"publish and resume on a volume that came", fine, func(w *world) {
		w.packs = true
		w.server().publish("A")
		w.up(w.servingBrought("m"))
	}, small},
	{"publish and the pointer goes back and reboot on a volume that came", medium, func(w *world) {
		w.goesBack(w.servingBrought("m"))
	}, large},
	{"publish and the pointer goes back and reboot beside a volume that came", medium, func(w *world) {
		b := w.serving("m")
		w.bring(b)
		w.goesBack(b)
	}, large},
	{"publish and boot and reboot in it on a volume that came", coarse, func(w *world) {
		w.packs, w.reboots = true, true
		w.server().publish("A")
		b := w.launched("m")
		w.up(b)
		w.event("reboot", func() { w.reboot(b) })
	}, large},
}

// goesBack publishes, restores the pointer of before, and reboots a machine, at any moment.
func (w *world) goesBack(b *box) {
	w.packs, w.back, w.mayFail = true, true, true
	w.server().publish("A")
	before := w.pointer
	w.event("restore", func() { w.pointer = before })
	w.event("reboot", func() { w.reboot(b) })
}

// launched adds a machine that EC2 launches with a volume of generation 1.
func (w *world) launched(id string) *box {
	b := w.add(id)
	w.bring(b)
	return b
}

func (w *world) bring(b *box) {
	d := w.newDisk(b, "snap-1")
	d.came, d.attached, d.protected = true, true, true
}

// servingBrought is serving, on such a volume.
func (w *world) servingBrought(id string) *box {
	b := w.serving(id)
	b.mounted.came, b.mounted.served = true, true
	return b
}

// tagged are the volumes with this machine's tags.
func (v *volumes) tagged() []*disk {
	return slices.DeleteFunc(slices.Clone(v.b.disks), func(d *disk) bool { return d.came && v.mutant != claimsBrought })
}

// made is how many volumes the machine has that its agent made, needs how many it is to have in the
// end.
func (b *box) made() (n int) {
	for _, d := range b.disks {
		if !d.came {
			n++
		}
	}
	return n
}

func (b *box) needs() int {
	if slices.ContainsFunc(b.disks, func(d *disk) bool { return d.came && d.served }) {
		return 0
	}
	return 1
}

// Brought does what boot/disks/brought.go does: where something is mounted it looks at that alone.
// A push may change that meanwhile, so it is a step.
func (d disks) Brought(_ context.Context, want boot.Wanted) (found []boot.Found, err error) {
	if want.Document == "" {
		return nil, d.alive()
	}
	look := func() string {
		for _, v := range d.b.disks {
			if !v.attached || d.b.mounted != nil && d.b.mounted != v {
				continue
			}
			f := boot.Found{
				Volume: boot.Volume{ID: v.id, Attached: true, Protected: true, Brought: true},
				Made:   !v.came && d.mutant != ownIsNotFirst, Served: v.came && v.served && d.mutant != forgetsServed, Generation: v.generation,
			}
			if v.unfit {
				f.Unfit = boot.ErrMismatch
			}
			if v.came || f.Made {
				found = append(found, f)
			}
		}
		return ""
	}
	if d.b.mounted == nil {
		look()
		return found, d.alive()
	}
	err = d.a.step("look at what is mounted", look)
	return found, err
}
