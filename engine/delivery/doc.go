// Package delivery has the nouns of the engine's main job, and their bytes:
// the [ID] of a delivery, its [Status], the [Record] that a send became, the
// [Attempt] that was made of it, and the [Row] in which the state keeps both.
//
// Everything here is a value: no clock, no randomness, no I/O. The encodings
// are part of the log's and the state's format; a change of one needs a new
// version byte, and the decoders keep reading the old.
//
// # Bytes of a record
//
// A record is what the caller asked for, encoded once when the send is
// accepted; the same bytes go into the log, and from there into the state.
// Numbers are uvarints unless said otherwise, strings have their length before
// them (see package wire).
//
//	version     byte, 1
//	flags       byte: 1 sign, 2 respect Retry-After, 4 fixed backoff, 8 no jitter,
//	            64 it has an ordering key, 128 which does not wait if it ends dead
//	id          16 bytes
//	account     8 bytes, big-endian
//	not before  milliseconds after the id's time
//	expires     0: never, else 1 + milliseconds after the id's time
//	method      string
//	scheme, host, port, URI, URL
//	headers     count, then name and value of each
//	policy      max attempts, base delay, max delay, timeout (milliseconds)
//	idempotency key, metadata: strings
//	labels      count, then each
//	body bytes  the length of the body, which follows the record where it is kept
//	body crc    4 bytes, CRC32C of the body: checked when the body is sent
//	ordering key  string, if there is one
//
// # Bytes of an attempt
//
//	length      of what follows
//	number
//	outcome     byte
//	status      HTTP status, 0: none
//	started     zigzag milliseconds since the Unix epoch
//	latency     microseconds
//	ended       zigzag milliseconds since the Unix epoch
//	next        0: none, else 1 + milliseconds after the end of the attempt
//	timing      flags byte (1 reused), dns, connect, tls, first byte: microseconds
//	error, remote IP: strings
//	body        flags byte (1 truncated), string
//
// # Bytes of a row
//
//	version     byte, 1
//	flags       byte: 1 the body is inside the row, 2 replayed, 4 it has an ordering key
//	updated     zigzag milliseconds since the Unix epoch
//	base, due   if replayed: attempts before the replay; zigzag milliseconds since the Unix epoch
//	order       if it has an ordering key: its number, see package state
//	record      with its length
//	attempts    count, then all of them as one string
//	body        the rest, if inside
package delivery
