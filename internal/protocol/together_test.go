package protocol

// together: two verbs on one release volume, whose store has no lock. Its own lock keeps them
// apart.
var together = []scenario{
	{"publish with a snapshot before its commit and converge on the same volume, no lock", fine, func(w *world) {
		w.unlocked, w.together = true, true
		s := w.server()
		s.publish("A")
		s.converge("B")
	}, small},
	{"publish with a snapshot after its commit and converge on the same volume, no lock", fine, func(w *world) {
		w.unlocked, w.together, w.packs = true, true, true
		s := w.server()
		s.publish("A")
		s.converge("B")
	}, large},
	{"publish with a snapshot before its commit, killed, and converge on the same volume, no lock", fine, func(w *world) {
		w.unlocked, w.together, w.mayFail = true, true, true
		s := w.server()
		a := s.publish("A")
		w.event("kill", func() { w.s.kill(a); w.freeLock("A"); s.publishing = "" })
		s.converge("B")
	}, large},
	{"publish and second publish on the same volume, no lock", coarse, func(w *world) {
		w.unlocked, w.together, w.packs = true, true, true
		s := w.server()
		s.publish("A")
		s.publish("B")
	}, large},
}
