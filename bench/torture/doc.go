// Package torture breaks a cluster of real processes in every way that one
// machine allows, under load, and counts what came of it.
//
// [Run] starts three `harepost serve`, sends through all of them, and plays events
// one after another: kills, pauses, cables pulled, links that work one way only,
// full and failing disks, restarts and upgrades in turn, changes of leadership, a
// node whose disk was lost. Its [Options] say how many; the events and what they draw come
// from a seed, which is printed. Times are the machine's own, so that a seed
// repeats the plan and not the moment.
//
// Beside the load, a node can be away for so many sends that it needs a snapshot when
// it comes back ([Options].Away); it and who sends it are killed in every phase of that.
//
//	       senders ─────────────┐  every delivery has a number; senders and
//	       10.77.0.1            │  receiver write into one ledger, which lives
//	          │                 │  in this process and survives every event
//	 ┌────────┴──── bridge ─────┼──────────┐
//	 │ cable      │ cable       │ cable    │
//	┌┴─────────┐ ┌┴─────────┐ ┌─┴────────┐ │
//	│ n1       │ │ n2       │ │ n3       │ receiver and name server, 10.77.0.1
//	│ .11 disk │ │ .12 disk │ │ .13 disk │
//	└──────────┘ └──────────┘ └──────────┘
//
// # What must hold
//
// After every event sends are accepted again and deliveries go on, through every
// node, within [Options].Patience. While nodes are restarted in turn, or upgraded to
// another build of the program and back, a send that is tried again is accepted
// within [Options].Retry. At quiet points, where the load rests, and at the end:
//
//   - what was acknowledged has been received (lost = 0);
//   - one idempotency key has one delivery, whoever answered and however often;
//   - nothing is received that was not sent or that was refused;
//   - nothing is received twice but in an event that changed who leads, and then
//     only what was in flight or not on record: see bound.go;
//   - all nodes have applied the same index, show the same deliveries, and
//     `harepost check` finds their directories sound.
//
// What breaks is a line in [Record].Broken; [Run]'s error is for an experiment that
// could not be made.
//
// # Where it runs
//
// As root each node has a network of its own and a disk of its own, an ext4 in a
// file in memory. All of it belongs to namespaces that the kernel takes apart when
// the process that made them ends, however it ends: [Isolate] makes a command such
// a process, and [Isolated] is how Run is told. Without that, the nodes share this
// machine's loopback and disk, and events that need more are left out.
//
// Goroutines: those of senders, receiver, name server and the watch on who leads
// end before Run returns, as do the nodes' processes. Bounds: sends under way
// (mostUnderWay), sends in all (mostSends), batches while a node is away
// (floods), logs kept of a node (keptLogBytes).
package torture
