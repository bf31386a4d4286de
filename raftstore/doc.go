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
//
//	s, err := OpenStore(dir, StoreOptions{WAL: ..., Failed: ...})
//	err = s.Replay(applied+1, apply)   // a single node's log, or whatever is to be looked at before raft
//	s.Start()
//	s.Hold(flushed + 1)                // now and as the state is flushed: what a crash would need
//	err = s.Align(snapshot.Index, snapshot.Term)
//	r, err := raft.NewRaft(config, fsm, s, s, snapshots, transport)
//	s.Installed(index, term)           // whenever a snapshot was received, before it is restored
//	err = s.Close()                    // after raft's shutdown, or, when the store has failed, to let it end
//
// raft.Config.TrailingLogs must not be 0, see DeleteRange. A Store owns the two goroutines of its log.
package raftstore
