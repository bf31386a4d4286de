// Command harepost is the whole product in one binary: the server, the
// commands that talk to it, a receiver for trying things out, and the offline
// check of a data directory.
//
//	harepost demo        everything on one screen, in a directory that is removed
//	harepost serve       the server
//	harepost accounts | keys | secret | domains     the API from a shell
//	harepost send | deliveries | dead-letters | replays      the same
//	harepost listen      a receiver that prints, verifies and can fail on purpose
//	harepost bench       measures this machine, beside a forwarder that keeps nothing
//	harepost cluster     the nodes, certificates for them, and what is left when most are lost
//	harepost check       what is in a data directory, and whether it is sound
//	harepost completion  makes bash, zsh or fish complete all this
//	harepost version     what was built
//
// This room wires the others and decides nothing about deliveries. Flags exist
// only here. A command is two things kept apart: a struct of flags, which kong
// fills from the command line, from HAREPOST_... variables and (for serve) from
// a file, and a Run method that gets everything it may touch in a [shell]. So a
// test can run the entire program, in its own process or as a child.
//
// # Serve
//
// The order of opening is: check the flags against each other, bind the
// listeners, lock and recover the data directory, serve. Binding comes first
// because it is what most often fails and costs nothing; connections that
// arrive while the directory is being recovered wait in the kernel's backlog
// and are answered as soon as it is.
//
// The order of closing on SIGTERM or SIGINT is: readiness off, wait
// --drain-delay for load balancers to see it, stop accepting, answer the
// requests that are in, let attempts end or park them (a parked attempt is made
// again after the next start), flush, unlock, exit 0. The whole takes at most
// --drain-delay and --drain-timeout together, and two seconds for what cannot be
// cut off. A second signal ends the process at once; nothing accepted is lost by
// that either, because the log was synced before the answer left.
//
// When the engine fails (the first failed write or sync is final) the process
// says so and exits with status 3 without draining: what it has in memory may
// be ahead of what is on the disk, and only a restart finds out.
//
// A --unix-socket that nobody answers on was left by a server that was killed,
// and is replaced; closing removes it. The TLS certificate is looked at by the
// handshakes themselves, so that no goroutine watches it.
//
// # Cluster
//
// A node opens its part of the cluster before its engine, which takes its log from
// there, and waits until it belongs to one; SIGTERM ends that wait. When it ends, it
// stops to begin attempts, waits for those under way, hands leadership on, and only
// then refuses connections: what still comes in goes on to the node that leads. That
// takes up to five seconds of --drain-timeout.
//
// # Dev mode
//
// serve --dev keeps one account for the person at the keyboard. Its key is
// printed at every start, so it must be known in clear, while the engine stores
// only hashes: the key stands in a file of its own in the data directory,
// mode 0600, and is used again at the next start, so that a pasted curl line
// goes on working. Nothing but --dev writes or reads that file. Where the key was
// revoked, or the file is not there, as in what was restored of a backup, the
// same account gets another key; another account is made only where there is
// none.
//
// # Exit status
//
// Scripts may rely on these; they are also in `harepost --help`.
//
//	0    done
//	1    failed, also to write the output; or damage found (check), or a promise not kept (demo)
//	2    flags wrong, missing, or contradicting each other
//	3    serve: the storage failed while running
//	4    the server refused the request for another reason than 8 to 10; repeating it will not help
//	5    not now: unreachable, overloaded, rate limited, or a domain still pending
//	6    send --wait, deliveries get --wait: the delivery ended undelivered
//	7    send --wait, deliveries get --wait: still pending when the wait was over
//	8    there is no such thing (404)
//	9    not in its present state (409), such as a replay of what is still pending
//	10   not allowed (401, 403): key, token, domain, or a suspended account
//	11   serve: the cluster has removed this node, or does not take it for who it says; starting it again does not help
//	130  ended at once by a second SIGINT (143 for SIGTERM)
//
// # Goroutines
//
// A [program] owns the accept loops of the API and, with --pprof, that of the
// profiler; run returns when all are gone. Everything else belongs to the
// engine and the API server and is gone when close returns.
package main
