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
//   - Nothing at or past diskNext starts meanwhile but first attempts that are in
//     memory, so what must be remembered is bounded by these and by what was busy
//     when the page was handed out.
//
// A page is as large as the lane is hot: it doubles where the next is wanted within
// half a second, up to Options.PageItems, and halves after five seconds without.
// None is read for a lane that is held.
//
// # Turns
//
// A lane is ready if an item of it is in memory and due, and nothing below holds
// it. Accounts take turns, and within an account its lanes, by start-time fair
// queueing in worker time: who has used the least is next. A turn is charged by
// the usual latency of the lane, and the difference when the attempt ends. Among
// any two that are always ready worker time so differs by what an attempt of
// each costs, and not by how many they are or how much waits.
//
// Lanes are in three bands, each with turns of its own and a part of
// Options.Slots that it may hold: swift ones all, unknown ones half, those that
// are slow or fail a quarter; the last two together three quarters, so that
// whatever hangs, swift lanes find room.
//
// In a lane, first attempts have four turns of seven, retries two, replays one.
// A first attempt that is in memory does not wait until what is before it on
// disk has been read.
//
// # What holds a lane
//
// Each lane finds out what its destination copes with, from what Done tells:
//
//   - Its limit of attempts in flight begins at Options.InitialConcurrency,
//     grows by one with each success while it is used up (above a threshold with
//     each round), and is cut to 0.7 by a timeout, 503 or 429.
//   - Where attempts are refused, starts are paced: at 0.8 of what has lately
//     succeeded, growing slowly from there. Where a slower pace has no larger
//     part taken, it is given up for a while.
//   - A Retry-After holds the lane, for an hour at most.
//   - The breaker opens after Options.TripAfter failures in a row or when half of
//     twice as many fail, for 5 s, then 10, up to ten minutes. Nothing is started
//     and nothing read from disk but one probe at its end. Failures in a row of one
//     delivery count once.
//   - After a breaker, a pause, a suspension or a long hold starts begin at 50 a
//     second and double every half second.
//
// SetLimits bounds the limit and the pace from outside, or pauses the lane; it is
// kept whether or not the lane has traffic. Suspend holds all lanes of an account:
// they keep what they hold, and their attempts in flight end as usual. WaitingFor
// says what an item waits for, Lane and Lanes show all of this, and NextEvent
// tells of breakers.
//
// A lane with nothing in it is remembered for a minute, or ten after a breaker,
// as are Options.IdleLanes of them at most.
//
// # Moments
//
// A lane whose first item is due later has one entry in a timing wheel of 10
// ms ticks, whatever its backlog; so has one that is held off after a page
// that failed or an item that was returned. The caller calls Wake when
// NextWake says so. Nothing starts before it is due by the now that Next was
// given; by the wheel it may be 10 ms late. After a clock that goes back by more than a
// second all lanes are looked at again: who waits for the clock waits on, nobody
// else does. A clock that leaps forward costs what becomes due.
//
// # Calls in order
//
//	s := New(Options{})
//	s.Restore(...)                           // at start, for each lane with a queue on disk
//	s.Add(...), s.StoredBelow(...)           // as the log is applied, and written to disk
//	for d, ok := s.Next(now); ok; ...        // while there are workers
//	s.Done(..., Ended{...}, now)             // as attempts end: how, and how long they took
//	s.Recorded(...); s.Add(...)              // as that is applied, and retried
//	for p, ok := s.NextPage(); ok; ...       // while there are readers: s.Paged(...)
//	s.Wake(now); at, ok := s.NextWake()      // then sleep until at
//
// Suspend, Resume and Forget walk over all lanes, and Lanes over as many as it is
// told. Every other call is O(log n) at worst, n being the items of the lane, the
// lanes of the account or the accounts, but for the work that time or the
// watermark brings. That is done in bounded steps; only the lanes of one slot of a
// higher level of the wheel cascade all at once, and all lanes when the clock goes
// back, at some tens of nanoseconds each. Nothing is allocated per item once
// memory has grown to its peak; it is kept for the next.
//
// [Backoff] computes when a failed delivery is due again.
package scheduler
