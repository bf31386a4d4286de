// Package bench measures the engine, or a running server, beside yardsticks.
//
// An absolute rate says more about the machine and the hour than about the
// engine: on a shared two-core machine the same binary moves by a factor of
// 1.5 within the hour. So every number is taken next to a yardstick, in
// interleaved rounds, and what is quoted is the median of the paired ratios
// and their range. Package report holds the numbers and writes them.
//
// # The parts, each a process of its own
//
//	             POST /v1/send                    the payload
//	Generator  ───────────────▶  engine, or  ────────────────▶  Receiver
//	 closed or open loop         Forwarder      HTTP POST        counts marks
//	     │                                                          ▲
//	     └──────────────────────── direct ──────────────────────────┘
//
// What each of them does:
//
//   - [Generate]: N keep-alive connections, one request under way on each. In a
//     closed loop each sends when it has its answer. In an open loop a pacer says
//     when a request is due (evenly or at random, at a rate, a ramp or steps), and
//     all latencies count from that moment: a send that waits for a connection has
//     waited. Single sends or batches; accounts, targets and payload sizes change
//     from send to send in a way that depends on the send's number alone, so that
//     all systems get the same. It keeps the set of sends answered 202.
//   - [Forwarder]: a yardstick. A plain fasthttp server that puts each request
//     on a bounded channel, answers 202 at once and forwards it with
//     fasthttp.HostClient: no disk, no retries, no history, no address guard, no
//     authentication. It is what the network alone costs.
//   - direct: the other yardstick, and no process. The generator posts the payload
//     to the receiver itself, as one would who has no system between.
//   - [Receiver]: answers as the path says, 200 without a word of it, and keeps
//     the set of marks that arrived.
//   - the engine: `harepost serve --dev` with a data directory on a real disk. It
//     does all it promises: synced 202, recorded attempts, address guard, lanes.
//   - a cluster: three such processes on loopback, each with a directory of its own,
//     that replicate to each other. What is said of a process is their sum.
//   - a server: one that runs somewhere, given by its URL. Nothing is known of its
//     process, and it must reach the receiver.
//   - trivial: a server that answers 202 to everything. What the generator reaches
//     against it is the generator's own limit, which every report states.
//
// Every payload begins with a mark (run, sequence number, moment of sending),
// see mark.go. After a round the set of acknowledged sends is compared with the
// set of arrivals, mark by mark: a loss, a duplicate and an arrival that nobody
// sent are three different counts, and a loss makes [Run] return [ErrLost]. A send
// that is repeated on purpose, with its idempotency key, is the same bytes again
// and has the same mark: it counts once, and must arrive once.
//
// # What is measured
//
//   - accepted/s and delivered/s: answers, and arrivals, between the end of the
//     warm-up and the end of the load. A system that accepts faster than it
//     delivers gains nothing in the second; its backlog shows as drain time.
//   - answer latency (due, or in a closed loop written, to 202 read; of a batch,
//     the whole batch's) and arrival latency (the same to payload received). In a
//     closed loop these are latencies at saturation, not the latency that a client
//     sees at a given rate.
//   - CPU per delivery, from /proc of the system's process, and bytes that the disk
//     wrote (see disk.go): from the end of the warm-up until the process is idle
//     again, so that work put off until later is paid for too. RSS and Go heap at
//     the end of the load, peak RSS of all.
//   - syncs/s and entries per sync, from the engine's own metrics page.
//   - a timeline of the round, a sample every half second.
//   - with [Options].ProfileDir, where the CPU of a delivery goes, by stages of its
//     way: see package stages. The profile is of one more round, the CPU is not.
//
// # Scenarios
//
// [Run] plays a [Scenario], shows its rounds as they run, and writes the report;
// [Measure] returns it instead. A scenario is a struct of options and one method
// that plans rounds; what a plan is, and what else a session offers, is in round.go
// and run.go. Each has two sizes: the real one, and Quick, which ends within half
// a minute.
//
//   - [Throughput]: closed loops of several sizes, or an open loop at a rate.
//   - [Batch]: the batch API beside the single one.
//   - [Latency]: an open loop at a fixed rate, at shares of saturation, beyond it.
//   - [Payload]: payloads from 0.1 to 256 KiB.
//   - [RetryStorm], [BlackHoles], [NoisyTenant]: what bad targets and a flood cost
//     the good traffic beside them, against the same traffic alone. Each of these
//     flows has a generator and a receiver of its own, see flow.go.
//   - [ManyHosts]: a hundred thousand destinations.
//   - [Outage]: a receiver goes away and comes back while the load goes on.
//   - [Backlog]: millions pending to dead and slow hosts, a restart, the drain.
//   - [Soak]: a mixed load for an hour, and what grows.
//   - [StoreSize]: a delivery beside ten million finished ones, against one in an
//     empty store; and pages of those.
//   - [Cluster]: three nodes beside one, and the leader's death; or settings of three
//     beside each other.
//   - [DeadLetters]: a million dead letters are counted, replayed and purged.
//
// # Processes, goroutines, bounds
//
// The receiver, forwarder, generator and trivial server are the calling program
// again: it is started with the arguments of [Options].Child followed by a role,
// and hands that role, its standard input and output to [Child]. Parent and child
// talk in lines of JSON over them, and a child ends when its standard input does,
// or when it finds nobody to talk to, so none outlives its parent for long.
//
// Goroutines: a Forwarder owns its listener, its workers and nothing else, a
// Receiver its listeners, Generate its connections and the pacer; each is waited
// for by Close or by the return. A round owns a sampler and one listener of its
// generator, which end before it does. Bounds: the forwarder's queue
// ([ForwarderOptions]), sends of one round ([maxSends]), requests that are due and
// not taken ([backlogRequests]), samples of a timeline, drain and settle time
// ([Options]).
package bench
