// Package transport makes outbound attempts: it takes one HTTP request at a
// time to a target on the Internet, and says what came of it. It knows nothing
// of deliveries, schedules or storage.
//
//	t, err := transport.New(transport.Options{...})
//	err = t.CheckHost(ctx, host, port)   // before a send is accepted
//	t.Do(&req, &res)                     // one attempt, by its deadline
//	t.Close()
//
// # An attempt
//
//	Do ─ idle connection? ─ fresh? ──yes──────────────┐
//	         │ none           └no: close, next         ▼
//	         └► resolve ► check all ► dial one ► TLS ► write ► head ► classify
//	            (cached)   (guard)    (guard)                   │        │
//	                                                          body ◄─────┘
//	                                             whole and silent: keep, else close
//
// # Guarantees
//
//   - No connection is made to an address that the guard refuses, whatever DNS,
//     redirects or spellings say. Names are resolved once, by us; one forbidden
//     answer refuses the name; the connection goes to an address that was
//     checked, and the dialer's control hook checks what the kernel is given.
//     Redirects are not followed.
//   - A response is credited to the request it answers. An idle connection on
//     which anything has happened is not used again; nor is one that holds a
//     byte more than its response; and what is read, sooner than the path's
//     shortest round trip, while nothing of the request has been received is to
//     somebody else.
//   - A request is written at most once. Idle connections found stale are
//     replaced before the first byte; after it, every failure is the attempt's
//     result, for any method.
//   - Do returns by the attempt's deadline, which covers lookup, connect, TLS,
//     request and response head. The status line decides; the body, read
//     afterwards and within the same deadline, undoes nothing.
//   - Everything that a target controls is bounded: head 16 KiB (each of at
//     most 100 interim ones too), body 64 KiB and one second, of which 4 KiB are
//     kept, addresses, aliases, cached names, sessions, connections. Nothing is
//     decompressed. No text in a Result comes from a target, but Body.
//
// # What it refuses
//
// Local names (single labels, localhost, .local, .internal, .svc) and numbers
// posing as names; every address that is not public (guard.go lists them),
// unless EgressAllow has it; our own listeners in any case. HTTP/2, redirects,
// TLS before 1.2, and headers that belong to the connection or to us.
//
// # Why not fasthttp's client
//
// fasthttp parses responses here, but its HostClient does not hold the
// connections. It takes a pooled connection without looking at it, runs a
// cleaner goroutine per host that nobody can stop or wait for, gives a 16 KiB
// reader to every attempt that is still waiting, drops what is left in that
// reader when a connection goes back to the pool (which hides half of an
// unasked answer, and leaves the other half), and does not let a dial say what
// its phases took. What remained to be written without it is a stack of idle
// connections per destination (pool.go) and a request head (head.go).
//
// # Goroutines
//
// One sweeps idle connections, from New to Close. One runs per DNS lookup, two
// for a moment, bounded by Options.Lookups; Close ends them and waits. Attempts
// run in their callers' goroutines; there are exactly as many connections in
// use as callers inside Do.
//
// # Full
//
// Idle connections beyond HostConns or IdleConns are closed instead of kept;
// destinations beyond Hosts push out the one used longest ago; names beyond
// DNSEntries likewise; lookups beyond sixteen times Lookups fail as
// dns_failure, which is retried.
package transport
