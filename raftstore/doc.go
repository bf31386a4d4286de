// Package raftstore is the engine's log on several nodes: hashicorp/raft over the same write-ahead log that
// a single node writes.
//
// # The store
//
// A Store is raft's log store and its stable store over one wal.Log: one directory, one format, one recovery
// and one rule for failed writes, whether the node is alone or one of three. An entry keeps its index, term,
// type and extensions; a directory that a single node wrote is a raft log of term 1.
//
// It never fails for a while. raft does not cope with a log store that returns an error and is well again
// later: a leader steps down, a follower forgets what it had cut off, replication may never resume. So every
// failed or impossible write, and every read that fails, is the end: StoreOptions.Failed is called, once, the
// process is to end, and the call that met the failure, like all that write after it, blocks until Close and
// returns an error then. Nothing is acknowledged from the moment of the failure on.
package raftstore
