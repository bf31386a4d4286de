// Package api is Harepost's REST API: HTTP and JSON on one side, an
// engine.Engine on the other.
//
// # Calls in order
//
//	s, err := api.New(e, api.Options{})
//	go s.Serve(ln)      // may be called for several listeners
//	s.Drain()           // readiness off, keep-alive connections told to close
//	s.Shutdown(ctx)     // no new requests; waits for those under way
//
// # What it does
//
// A request is routed, authenticated, decoded, validated and handed to the
// engine; the engine's answer or error is written as JSON. Everything that is
// a choice about text is made here and nowhere else: JSON types, clamping of
// policy numbers, spelling of host names, RFC 3339, the words of an error. The
// engine is given values that need no second look, and it alone decides what
// depends on state or on the network: whether a domain is verified, whether an
// address is forbidden, whether an account is over its rate.
//
// # What it guarantees
//
//   - A 202 is written only after Engine.Send returned: the send is durable.
//   - A JSON body goes out byte for byte as it came, white space inside it
//     included. Nothing is re-serialised.
//   - Every answer is JSON and has X-Request-Id, those for malformed HTTP
//     included; every 405 has Allow, every 429 and 503 has Retry-After.
//   - No request ends the process: a panic becomes a 500 and a log line.
//   - No key, token, secret or payload is logged.
//
// A request whose head another reader could take for something else (a folded
// line, a name that is none, two kinds of length) is refused and its connection
// closed, so that a proxy in front and this server agree where requests end.
//
// # What it bounds
//
// Connections, header bytes (431), body bytes (413), time to read a request
// (408), idle time, and every field of a send. On connections above the limit
// liveness, readiness and metrics are answered, everything else gets a 503.
//
// Memory is bounded as well. fasthttp allocates a body's declared length at
// once, so one larger than smallBodyBytes is read only for an account that has
// proved itself, is not suspended, and has room: such bodies have a bound in
// all and one for each account, from their head to their answer, and above it
// the answer is a 503 before anything of the body is read. They also have to
// come at a rate, so that nobody keeps the others' room for long. What requests
// hold is then at most Connections * (ReadBufferBytes + smallBodyBytes) and
// BodyBytes, and some times that while batches are worked on.
//
// # Decisions where the contract leaves room
//
//   - JSON is read as I-JSON (RFC 7493): invalid UTF-8, and a duplicate among
//     the members that are ours, are a 400. Two parsers that read a duplicate
//     differently are how one request comes to mean two things. Inside body
//     and metadata names may repeat: those bytes go on as they came.
//   - A number in exponent or fraction form is taken when it is whole (5.0,
//     1e3): JSON has one number type, and some encoders write integers so.
//   - A target may not be an IP address: nobody can verify one. Loopback is
//     the exception of Options.Dev.
//   - A domain may not be a public suffix, ICANN's or a private one (such as
//     github.io): below either, names belong to strangers, and a verified
//     suffix would cover them all. An underscore in a host name is accepted,
//     since such names are in use.
//   - Octets that RFC 3986 does not allow in a path or query are
//     percent-encoded, since they would be malformed HTTP; all others, and all
//     existing percent-encoding, stay as given.
//   - delay_ms and not_before beyond a year, and an expires_at that is past or
//     not after not_before, are a 400 rather than clamped: moving a date that
//     someone chose is worse than saying no.
//   - A bound on keys, domains, secrets or jobs that is reached is a 400: a 409
//     is about the state of the one thing that the request names.
//   - A rate_limit_per_minute of 0 is no limit, null the server's default.
//   - An empty query parameter is one that was not given, but for status, which
//     has no word for "any": an empty one is a 400.
//   - Open sign-up opens POST /v1/accounts; the other routes of accounts need
//     the admin token all the same. It refuses a
//     request with the header Origin of another site: a web page, which may be
//     open on the machine of whoever runs the server.
//   - Bulk operations never guess. Their filter must be there, {} being
//     everything; an unknown, null, empty or repeated field of it is a 400, not
//     a warning, and so is one beside it, or a misspelt dry_run would purge.
//     DELETE /v1/dead-letters has its filter in the query, where no proxy drops
//     it, refuses a body, and removes everything only for all=true.
//   - A job is at /v1/jobs whatever it does, and a replay at /v1/replays too.
//     Its filter is shown with the date up to which it goes: it takes nothing
//     that was accepted after it began.
//
// # In a cluster
//
// With Options.Cluster, the node that leads answers, and others hand requests on
// to it as they came, see proxy.go: liveness, readiness, metrics, the document,
// GET /v1/cluster, snapshots, backups and reads with consistency=stale excepted.
// Which node leads, and how it is reached, is the Cluster's.
//
//   - A request is acted on by one node at most. Another is asked only when none
//     has acted on it; what is lost on the way is "outcome unknown".
//   - A read is linearizable: what was read is answered only by a node that at
//     that moment cannot have a successor, and whose reign has not ended since.
//     So it is with refusals, which depend on what was read.
//   - What a node got from another it never hands on.
//
// # Goroutines
//
// fasthttp has one per connection, which waits inside Engine.Send for the
// group commit; connections above the limit are bounded, and have seconds.
// Shutdown waits for all of them, unless it runs out of time: then it cancels
// their wait and closes their connections. One more looks for deadlines that
// have passed, from Serve until the last connection is closed.
package api
