// Package scheduler decides which attempt of which delivery starts next, and
// when. It is pure: it has no clock, no goroutine, no lock and no I/O. Time is
// an argument (Done, Recorded and StoredBelow go by that of the latest call
// that had one), and the caller serialises all calls, for instance with one
// mutex.
//
// # Lanes
//
// A lane is one account's traffic to one destination. Its queue is ordered by
// [Position]: due time, then delivery, then attempt. The queue is the
// caller's, on disk; the scheduler keeps the head of it, so that memory
// follows the number of lanes and not the backlog.
//
//	        diskNext
//	           |
//	...........|.......................................  queue of one lane
//	in memory  |  on disk; in memory only what is young
//	  or busy  |
//
// An item is young from Add until StoredBelow passes the log entry that
// brought it: until then the disk queue may lack it, so it is in memory
// whatever its position. The items before diskNext are in memory or busy,
// all of them. Those at or past diskNext, young or not, are not started until
// a page has filled the gap before them. From this follow the rules:
//
//   - A stored item at or past diskNext is let go of; it is found again.
//   - Of a head of more than Options.HeadItems stored items the last are let
//     go of, and diskNext becomes the first of these.
//   - Once there are some in memory, a stored item that is due much later is
//     let go of at once, and diskNext becomes it if it comes first.
//   - An item becomes stored when the watermark passes it, and is then let go
//     of in the same way, a bounded number of items per call.
//   - When few stored items are left and diskNext is due, the lane asks for a
//     page, see below.
//
// In memory are then at most HeadItems (of late, see Options.MemoryItems)
// stored items per lane, the young items, and the busy ones. The youth of
// items is the caller's to bound, by not letting the disk fall too far behind
// its log.
//
// # The life of an item
//
//	Add ──► waits ──Next──► in flight ──Done──► unrecorded ──Recorded──► gone
//	          ▲                 │                                          │
//	          └──────Return─────┘                 Add of the retry ◄───────┘
//
// Done frees the lane's slot at once; the item stays busy, and its disk entry
// is not started again, until Recorded says that the result is applied. A
// cancelled delivery is Recorded without an attempt. Calls that do not fit,
// such as Done of what is not in flight, are ignored: ignoring them loses
// nothing.
//
// # Pages
//
// NextPage hands out a request; the caller reads its disk queue without the
// lock, from a snapshot taken after NextPage, and answers Paged. Meanwhile
// the world moves on, and these keep an item from being lost or doubled:
//
//   - While a page is out, nothing is let go of and diskNext stays: an item
//     added now may be too late for the snapshot, and the answer will move
//     diskNext past it.
//   - The answer leaves out what is in memory or busy, and what was Recorded
//     while the page was out, which an older snapshot still shows.
//   - Nothing at or past diskNext starts meanwhile, so what must be
//     remembered is bounded by what was busy when the page was handed out.
//
// # Turns
//
// Next goes round the accounts that have a ready lane, and within an account
// round its ready lanes, one item per turn. A lane is ready if its first item
// is in memory and due and fewer than its limit of attempts are in flight.
// How many attempts run in all is the caller's to bound.
//
// The lanes of an account that is suspended have no turn and no moment: they
// keep what they hold, by the same rules as others, and their attempts in
// flight end as usual, but nothing is started until Resume.
//
// # Moments
//
// A lane whose first item is due later has one entry in a timing wheel of 10
// ms ticks, whatever its backlog; so has one that is held off after a page
// that failed or an item that was returned. The caller calls Wake when
// NextWake says so. Nothing starts before it is due by the now that Next was
// given; by the wheel it may be 10 ms late. A clock that goes back delays at
// most what was due within the second before, a clock that leaps forward
// costs what becomes due.
//
// # Calls in order
//
//	s := New(Options{})
//	s.Restore(...)                           // at start, for each lane with a queue on disk
//	s.Add(...), s.StoredBelow(...)           // as the log is applied, and written to disk
//	for d, ok := s.Next(now); ok; ...        // while there are workers
//	s.Done(...); s.Recorded(...); s.Add(...) // as attempts end, are applied, are retried
//	for p, ok := s.NextPage(); ok; ...       // while there are readers: s.Paged(...)
//	s.Wake(now); at, ok := s.NextWake()      // then sleep until at
//
// Suspend, Resume and Forget walk over all lanes. Every other call is O(log n) at worst, n being the items of the lane or
// the lanes, but for the work that time or the watermark brings. That is done
// in bounded steps; only the lanes of one slot of a higher level of the wheel
// cascade all at once, at some tens of nanoseconds each. Nothing is allocated
// per item once memory has grown to its peak; it is kept for the next.
//
// [Backoff] computes when a failed delivery is due again.
package scheduler
