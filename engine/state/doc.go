// Package state is the materialised state of the engine: what the log says,
// applied in order, in Pebble and in a bounded part of memory.
//
// [Open] it, feed it the log from [State.Low] (entries up to [State.Applied]
// with [State.Rebuild], later ones with [State.Apply]), then read. One
// goroutine applies; any number read. The state owns no goroutine beyond
// Pebble's and the one that reports what has become durable.
//
// # Final rows only
//
// Most deliveries end with their first attempt, well within a second. Writing
// such a delivery when it is accepted, indexing it by due time, and moving it
// when it ends would be five writes for one that matters. So an accepted
// delivery is at first *young*: it is in the log and in memory, and nowhere in
// Pebble. When its first attempt ends it is written once, in its final place.
// Only when the attempt fails, or the delivery stays young for too long (too
// many, too many bytes, or too much log behind it), does it go into the disk
// queue of its lane.
//
// The young are a function of the log: with every batch the state stores
// Applied, the last index it holds, and Low, the index of the oldest young
// delivery; the young at Applied are the accepts in [Low, Applied] whose first
// attempt has not been recorded in there, since they leave strictly in log
// order unless they finish. One that is cancelled takes all before it along into
// the disk queue, so that it leaves in log order too. Rebuild collects the young
// without touching Pebble. The log must therefore keep everything from Low on,
// see [Options.Durable].
//
// Where a young delivery is written does not depend on how the log was cut
// into batches, only when; two states that have applied the same log are equal
// once the young are counted as queued, which is how every read sees them.
//
// # Durability
//
// Pebble runs without its own WAL. Every batch carries Applied, and memtables
// are flushed whole and in order, so that after a crash Pebble holds exactly
// the state as of some Applied, and the log goes on from there.
//
// # Keys
//
// All numbers are big-endian; account, id and hash are 8, 16 and 16 bytes.
//
//	a account                          an account
//	k account key                      an API key
//	n account name                     a domain
//	d account status id                a delivery that is pending, or that ended within an hour of its acceptance
//	e account status day id            one that ended later, under the day (4 bytes) on which it ended
//	b account class id                 its body, where it is too long for the row, or was accepted to be apart from it
//	c account class day id             the same for a late one
//	q account destination due id n     a pending attempt: due in milliseconds, n is the attempt's number (4 bytes)
//	i bucket account hash              an idempotency key, under the 6 hours (4 bytes) in which it was first seen
//	w account                          the data key of an account, wrapped; see package seal
//	t account                          an account that is deleted and not swept yet: when, in zigzag milliseconds
//	j account job                      a bulk operation
//	l account destination              what is set for a lane; see package lane
//	u account destination              how many keys the lane has under q, if any, and what it is called
//	o account hash                     an order: the delivery of an ordering key whose turn it is, or the dead one that holds the key
//	p account hash number              one that waits for its turn in an order
//	h account hash                     an order that is held by a dead one
//	m                                  Applied, Low, the number of pending deliveries, and how many had an ordering key
//
// Class is pending, done or dead. Keys of deliveries begin with the account
// and sort by time, so that a page of a list costs what it returns, and
// retention drops a range per account and status. A delivery that ended late
// has an id far older than its end; it goes under e, so that a range of d that
// is dropped for its age never holds a delivery that ended recently, and never
// a pending one.
//
// # Order by key
//
// Deliveries with an ordering key are numbered as they are accepted, in log order,
// and are never young. Of each key only one is in the queue of its lane, the head;
// its row under o says which, and also where to look for the next one, so that
// nobody steps over the tombstones of those that had their turn. The others wait
// under p. When the head ends, the next has its turn in the same batch, and is due
// from then on; the row under o keeps when that was, because the delivery's own
// row is not written again for it. A head that ends dead stays the head, unless it
// is to be skipped: the order is held until it is replayed and delivered, or
// purged. Whatever is replayed has the place that its number gives it among those
// that wait.
//
// Retention drops ranges and does not look at what is in them. [State.Abandoned]
// finds the orders that are held by a dead letter that is gone, for a command that
// lets them go on.
//
// # Deleted accounts
//
// Deleting an account drops its rows under a, k, l and n at once, writes its
// tombstone under t, and stores its young, so that all it has is in Pebble and
// the same on every node. Nothing is accepted for it any more. Sweeps then
// count its pending deliveries and drop them, a bounded number per command, a
// range tombstone each; the last one drops whatever is left under the account,
// a range tombstone per key space, and the tombstone row with it. Idempotency
// keys are left to expire with their bucket.
//
// The keys under q and p, those under b of pending deliveries, and those under d with
// status queued, are set once before each time that they are removed, so that
// SingleDelete can drop both in the memtable. A replay does not break that: it
// goes on with the next number of attempt, which is in the key under q; it sets
// the body of class pending again only after a SingleDelete took the former one;
// and it makes a delivery retrying, never queued again.
package state
