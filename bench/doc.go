// Package bench measures the engine beside a forwarder that keeps nothing.
//
// An absolute rate says more about the machine and the hour than about the
// engine: on a shared two-core machine the same binary moves by a factor of
// 1.5 within the hour. So every number is taken next to a yardstick, in
// interleaved rounds, and what is quoted is the median of the paired ratios
// and their range.
//
// # The parts, each a process of its own
//
//	             POST /v1/send                    the payload
//	Generator  ───────────────▶  engine, or  ────────────────▶  Receiver
//	 closed loop, N conns        Forwarder      HTTP POST        counts marks
//
// What each of them does:
//
//   - [Generate]: N keep-alive connections, one request in flight on each. The
//     same bytes go to both systems. It keeps the set of sends answered 202.
//   - [Forwarder]: the yardstick. A plain fasthttp server that puts each request
//     on a bounded channel, answers 202 at once and forwards it with
//     fasthttp.HostClient: no disk, no retries, no history, no address guard, no
//     authentication. It is what the network alone costs.
//   - [Receiver]: answers 200 and keeps the set of marks that arrived.
//   - the engine: `harepost serve --dev` with a data directory on a real disk. It
//     does all it promises: synced 202, recorded attempts, address guard, lanes.
//
// Every payload begins with a mark (run, sequence number, moment of sending),
// see mark.go. After a round the set of acknowledged sends is compared with the
// set of arrivals, mark by mark: a loss, a duplicate and an arrival that nobody
// sent are three different counts, and a loss makes [Run] return [ErrLost].
//
// # What is measured
//
//   - delivered/s: arrivals between the end of the warm-up and the end of the
//     load. A system that accepts faster than it delivers gains nothing here; its
//     backlog shows as drain time.
//   - CPU seconds per million deliveries and RSS, from /proc of the system's
//     process, and bytes that the disk wrote (see disk.go): from the end of the
//     warm-up until the process is idle again, so that work put off until later is
//     paid for too.
//   - answer latency (request written to 202 read) and arrival latency (request
//     written to payload received). In a closed loop these are latencies at
//     saturation, not the latency that a client sees at a given rate.
//
// A send's payload is 300 bytes of JSON by default; with its envelope the
// request body has about 45 more.
//
// # Calls
//
// [Run] starts all processes, prints the rounds as they end and the summary;
// [Measure] returns the [Report] instead. The receiver, forwarder and generator
// are the calling program again: it is started with the arguments of
// [Options].Child followed by a role, and hands that role, its standard input
// and output to [Child]. Parent and child talk in lines of JSON over them, and a
// child ends when its standard input does, so none outlives its parent.
//
// Goroutines: a Forwarder owns its listener, its workers and nothing else, a
// Receiver its listeners, Generate its connections; each is waited for by Close
// or by the return. Bounds: the forwarder's queue ([ForwarderOptions]), sends of
// one round ([maxSends]), drain and settle time ([Options]).
package bench
