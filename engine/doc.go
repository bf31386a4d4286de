// Package engine is the conductor: it accepts sends, commits them to the log,
// applies what is committed to the state, has attempts made, and records how
// they ended.
//
// [Open] it on a directory and it is at work until [Engine.Close]. A
// [Engine.Send] returns when the send is durable. Everything the engine knows
// survives any crash; see package state for how it is kept and package wal for
// how the log is.
//
// # The way of a delivery
//
//	Send        checks, draws the id, encodes the command, queues it, waits
//	  log       gathers what is queued into one frame, writes, syncs
//	  applier   takes the frame's commands; the accepted deliveries are in
//	            memory now, and the waiting Sends return
//	dispatcher  takes the delivery when its lane's turn comes
//	  transport makes the attempt
//	dispatcher  queues the attempt's record for the log; nobody waits for it
//	  log, applier as above; the state writes the delivery's row; a retry goes
//	            back to the scheduler
//
// # Goroutines
//
//	the log's writer   calls committed, which hands batches to the applier
//	applier            the only one that changes the state; one
//	workers            make attempts and read pages of lanes' queues; as many as
//	                   there is work for, at most MaxInFlight
//	timekeeper         sleeps until the scheduler's next moment; one
//	keeper             every second: is there room on the disk; every minute:
//	                   retention, idle workers; one
//	watch of events    every second: what the operator is to be told, see events
//
// All of them end before Close returns. Timers look at whether sends are to be
// held back, while thousands of deliveries wait, see throttle.
//
// # What it refuses
//
// When the log's queue or the disk is full, when too many sends wait for their
// turn or one has waited for a second, a send gets [ErrOverloaded] and nothing is
// kept; deliveries go on. After a failure of the log or the state everything gets
// [ErrUnknown] and [Options.Failed] is called: the process is to end.
package engine
