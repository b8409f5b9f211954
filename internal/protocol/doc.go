// Package protocol has no code: its test is the proof that a publish and the boots of members go
// together.
//
// The claim: when a publisher says "converged" on a generation, no member serves an older one, then
// or later; each that serves is on it, not above it (an old copy of the pointer may have been
// restored), and the programs that follow an activation have succeeded there. The test runs the
// real state machines, boot.Run and publish.Publisher, over parts in memory. Each call of a part
// that somebody else could notice is a step; before each step every actor stands still, and a
// scheduler decides who goes on. All decisions are gone through, depth first.
//
// # Why it is true
//
// An agent (1) reports, (2) reads the pointer again, (3) opens the gate. A publisher (4) moves the
// pointer, (5) lists the members, and ends only after two listings, `settle` apart, in which nobody
// is behind. Either (2) comes after (4): the agent sees the new generation and starts over, with
// the gate shut. Or (2) comes before (4): then (1) came before (5), the listing shows the member,
// and (5) goes on until it is up to date. A late activation changes nothing, as each volume has a
// fence: the highest generation that was active on it. A volume that is kept when the pointer moved
// was caught up and verified once more before (1) comes again.
//
// A snapshot is named in the pointer by its own publish or by a later run. Whichever it is, the
// pointer says what it holds, and it is never ahead of the pointer, so each boot can catch up.
//
// Publishers may sit on two servers, and nobody holds a lock then (S3 has none): the pointer is
// written by compare-and-swap, and who is behind it catches up before anything else.
//
// # Members that follow
//
// A follower looks at the pointer, catches up beside what is served, asks once more, flips, runs
// the programs, and reports from their mark alone. Nobody dials it: P5 waits for its report. The
// one here is a model of that order, as the real one has a real volume; TestFollowerOrder lets both
// do the same and compares. Beside publishes, boots and reboots of the same machine, and its own
// end: what is served is what the pointer named for that generation, no fence goes down, no report
// is ahead of the mark, no flip goes to what the pointer had left before all was fetched, and in
// the end the member is where the pointer is.
//
// # Rollouts
//
// A pointer may give another release to some of the members. What is said above of the generation
// holds of each one's own target: an agent reports, reads again and compares its target, so whoever
// looks at the members after a write of the pointer sees them all on it, or sees those that are
// not. The driver here is a model: it writes the pointer, by the real rules of a write, and looks
// until all who have reported are on their targets. Beside boots, reboots, followers, a second
// driver and its own end: no machine is on a side that the pointer never gave it; while the pointer
// is as it was when a driver saw all on their targets, no machine that serves is off its own; and
// in the end nobody is above what is given to it, as no fence would let it back. The real driver
// (publish.Resume) is there, too, beside fewer others: when it says that a step is over, that is
// its claim for those that served as the step began. Who launches meanwhile takes its own side by
// the re-read.
//
// # drain.d
//
// Before a flip, drain.d takes the application out of service, and the programs after it put it
// back. Two verbs may activate on one member, and a boot raise its fence, at the same moment. So a
// flip looks, in one step with itself, whether what it was decided on is still so. Beside two
// drivers, boots, reboots, a follower, its end and a pointer that goes back: no release goes out of
// service without its drain.d, and in the end none is out of service. A driver is needed for that
// where the machine was rebooted meanwhile, and nobody follows. TestActivationOrder lets the real
// activation and the one here do the same, and compares.
//
// # Volumes that EC2 brings
//
// A disk that was there from the launch on is adopted by what is on it, and is in no answer of EC2
// to an agent. Beside publishes, boots, reboots and a pointer that goes back: nobody claims or
// removes it, one of another store is never served, nothing is mounted beside it, and one that has
// served has a fence like any other; where the agent has made a volume, that one goes on.
//
// # Two verbs on one release volume
//
// A store in S3 has no lock, so a converge may start while a publish makes the snapshot that its
// commit has to wait for. The volume's own lock keeps them apart. Without it that publish fails, as
// it looks once more under the freeze. Without that look, too, the snapshot holds another release
// than the one that it is named for.
//
// # What is assumed of a listing
//
// Little. It has to show a member as it was less than `settle` ago or later, and it has to show
// those that had reported by then, as lists of S3 do (package report). One that has not reported
// may be missing: Auto Scaling knows an instance from its launch on, but nobody promises when its
// answers do. (If a listing were exact, P5 alone would do: it waits for each member that boots. The
// re-read is what makes late listings harmless, and the pause between the two listings is for those
// that lag.) An instance that joins the group later without an `up` (attached by hand, or resumed
// from a warm pool in its sleep) is outside of this proof.
package protocol
