package scheduler

import (
	"encoding/binary"
	"testing"
	"unsafe"
)

// clock is a moment to start stories at.
const clock Time = 1_700_000_000_000

var home = LaneKey{Account: 1, Destination: 1}

func num(n int) (id ID) {
	binary.BigEndian.PutUint64(id[8:], uint64(n))
	return id
}

func due(n int, at Time) Item { return Item{ID: num(n), Due: at, Attempt: 1} }

// story is a scheduler with words for what happens to it. It walks the
// scheduler's structures after every word.
type story struct {
	*testing.T
	s   *Scheduler
	now Time
}

func begin(t *testing.T, o Options) *story {
	if o.InitialConcurrency == 0 {
		o.InitialConcurrency = 1000 // these stories are not about what a lane finds out
	}
	st := &story{t, New(o), clock}
	st.wakesAt(clock)
	return st
}

func (st *story) sound() {
	st.Helper()
	if err := invariants(st.s); err != nil {
		st.Fatal(err)
	}
}

func (st *story) add(n int, at Time, logIndex uint64) {
	st.Helper()
	st.s.Add(home, due(n, at), logIndex, st.now)
	st.sound()
}

func (st *story) starts(want ...int) {
	st.Helper()
	for _, n := range want {
		d, ok := st.s.Next(st.now)
		if !ok || d.Item.ID != num(n) {
			st.Fatalf("started %v (%t), want %d", d, ok, n)
		}
		st.sound()
	}
}

func (st *story) startsNothing() {
	st.Helper()
	if d, ok := st.s.Next(st.now); ok {
		st.Fatalf("started %v", d)
	}
	st.sound()
}

func (st *story) recorded(n int) {
	st.Helper()
	st.s.Done(home, num(n), Ended{}, st.now)
	st.s.Recorded(home, num(n))
	st.sound()
}

func (st *story) page() PageRequest {
	st.Helper()
	p, ok := st.s.NextPage()
	if !ok {
		st.Fatal("no page is wanted")
	}
	st.sound()
	return p
}

func (st *story) noPage() {
	st.Helper()
	if p, ok := st.s.NextPage(); ok {
		st.Fatalf("page wanted: %+v", p)
	}
}

func (st *story) paged(more bool, items ...Item) {
	st.Helper()
	st.s.Paged(home, items, more, st.now)
	st.sound()
}

func (st *story) wakesAt(now Time) {
	st.Helper()
	st.now = now
	st.s.Wake(now)
	st.sound()
}

func (st *story) over() {
	st.Helper()
	if err := emptiness(st.s); err != nil {
		st.Fatal(err)
	}
}

// backlog is a lane that knows of a queue on disk, due since the start.
func backlog(t *testing.T) *story {
	st := begin(t, Options{LaneConcurrency: 100, HeadItems: 16, PageItems: 4})
	st.s.Restore(home, Position{Due: clock, ID: num(100)}, st.now)
	st.sound()
	return st
}

func TestAnItemIsStartedOnceAndThenGone(t *testing.T) {
	st := begin(t, Options{})
	st.add(1, clock+100, 1)
	st.wakesAt(clock + 99)
	st.startsNothing()
	st.wakesAt(clock + 100)
	st.starts(1)
	st.startsNothing()
	st.recorded(1)
	st.over()
}

func TestNothingIsReadForALaneUntilItIsDue(t *testing.T) {
	st := begin(t, Options{})
	st.s.Restore(home, Position{Due: clock + 500, ID: num(1)}, st.now)
	st.noPage()
	if at, ok := st.s.NextWake(); !ok || at > clock+500 {
		t.Fatalf("wakes at %d (%t)", at, ok)
	}
	st.wakesAt(clock + 500)
	if p := st.page(); p.From.ID != num(1) || p.Lane != home || p.Limit != firstPage {
		t.Fatalf("asked for %+v", p)
	}
	st.noPage() // handed out once
	st.paged(false, due(1, clock+500))
	st.starts(1)
	st.recorded(1)
	st.over()
}

func TestAnItemAddedAfterTheSnapshotIsNotLost(t *testing.T) {
	st := backlog(t)
	st.page()
	// The snapshot is read here. This item is on disk too late for it:
	st.add(101, clock, 0)
	st.paged(false, due(100, clock))
	st.starts(100, 101)
	st.recorded(100)
	st.recorded(101)
	st.over()
}

func TestAnItemAddedAfterTheSnapshotAndBeforeTheEndOfThePageIsNotLost(t *testing.T) {
	st := backlog(t)
	st.page()
	st.add(101, clock, 0)
	st.paged(true, due(100, clock), due(102, clock)) // the next page begins after 102
	st.starts(100, 101, 102)
}

func TestAnItemOnDiskBeforeTheSnapshotIsFoundInIt(t *testing.T) {
	st := backlog(t)
	st.add(101, clock, 0)
	if n := st.s.Stats().Items; n != 0 {
		t.Fatalf("%d items kept past the head", n)
	}
	st.page()
	st.paged(false, due(100, clock), due(101, clock))
	st.starts(100, 101)
}

func TestAYoungItemPastTheHeadIsKeptUntilItIsStored(t *testing.T) {
	st := backlog(t)
	st.s.Add(home, Item{ID: num(101), Due: clock, Attempt: 2, Class: Retry}, 7, st.now)
	st.sound()
	st.startsNothing() // there is an earlier one on disk
	st.s.StoredBelow(7)
	if n := st.s.Stats().Items; n != 1 {
		t.Fatal("let go of before it was on disk")
	}
	st.s.StoredBelow(8)
	if n := st.s.Stats().Items; n != 0 {
		t.Fatal("kept though it is on disk")
	}
	st.sound()
}

func TestAnItemThatIsStoredWhileAPageIsOutIsKept(t *testing.T) {
	st := backlog(t)
	st.add(101, clock, 7)
	st.page() // the snapshot lacks 101
	st.s.StoredBelow(8)
	st.sound()
	st.paged(false, due(100, clock))
	st.starts(100, 101)
}

func TestAYoungItemInThePageIsTakenOnce(t *testing.T) {
	st := backlog(t)
	st.add(101, clock, 7)
	st.page() // the snapshot has 101, the watermark is late
	st.paged(false, due(100, clock), due(101, clock))
	st.starts(100, 101)
	st.startsNothing()
}

// overtaken is a lane in which 200 is busy and, with earlier items come after
// it, lies past the head.
func overtaken(t *testing.T, logIndex uint64) *story {
	st := begin(t, Options{LaneConcurrency: 100, HeadItems: 16, PageItems: 4})
	st.add(200, clock, logIndex)
	st.starts(200)
	for n := range 17 {
		st.add(1+n, clock-1000, 0)
	}
	if l := st.s.lanes.at(st.s.byKey[home]); !l.onDisk || l.diskNext.ID != num(9) {
		t.Fatalf("the head ends at %+v", l.diskNext)
	}
	return st
}

// drainHead starts and records what is in memory of an overtaken lane.
func (st *story) drainHead() {
	st.Helper()
	for n := 1; n <= 8; n++ {
		st.starts(n)
		st.recorded(n)
	}
}

func rest() []Item {
	var items []Item
	for n := 9; n <= 17; n++ {
		items = append(items, due(n, clock-1000))
	}
	return items
}

func TestABusyItemInThePageIsNotStartedTwice(t *testing.T) {
	st := overtaken(t, 0)
	st.drainHead()
	st.page()
	st.paged(false, append(rest(), due(200, clock))...)
	st.starts(9, 10, 11, 12, 13, 14, 15, 16, 17)
	st.startsNothing()
}

func TestAnItemRecordedAfterTheSnapshotIsNotStartedAgain(t *testing.T) {
	st := overtaken(t, 0)
	st.drainHead()
	st.page() // the snapshot has 200
	st.recorded(200)
	st.paged(false, append(rest(), due(200, clock))...)
	st.starts(9, 10, 11, 12, 13, 14, 15, 16, 17)
	st.startsNothing()
}

func TestARetryAddedAfterTheSnapshotIsStartedOnce(t *testing.T) {
	st := overtaken(t, 0)
	st.drainHead()
	st.page() // the snapshot has attempt 1 of 200
	st.recorded(200)
	retry := Item{ID: num(200), Due: clock + 5, Attempt: 2}
	st.s.Add(home, retry, 0, st.now)
	st.paged(false, append(rest(), due(200, clock))...)
	st.starts(9, 10, 11, 12, 13, 14, 15, 16, 17)
	st.startsNothing()
	st.wakesAt(clock + 10)
	if d, ok := st.s.Next(st.now); !ok || d.Item != retry {
		t.Fatalf("started %v (%t), want the retry", d, ok)
	}
	st.startsNothing()
}

func TestADeliveryCancelledOnDiskIsNotTakenFromAnOldSnapshot(t *testing.T) {
	st := backlog(t)
	st.page() // the snapshot has 100 and 101
	st.s.Recorded(home, num(101))
	st.paged(false, due(100, clock), due(101, clock))
	st.starts(100)
	st.recorded(100)
	st.over()
}

func TestACancelledItemIsNotStarted(t *testing.T) {
	st := begin(t, Options{})
	st.add(1, clock, 0)
	st.add(2, clock, 5)
	st.s.Recorded(home, num(1))
	st.sound()
	st.starts(2)
	st.s.Recorded(home, num(2)) // in flight: the slot is free as well
	st.over()
}

func TestAReturnedYoungItemPastTheHeadIsKept(t *testing.T) {
	st := overtaken(t, 7)
	st.s.Return(home, num(200), st.now, st.now)
	st.sound()
	st.drainHead()
	st.page() // the snapshot lacks 200: its entry of the log is not applied
	st.paged(false, rest()...)
	st.starts(9, 10, 11, 12, 13, 14, 15, 16, 17, 200)
}

func TestAReturnedItemOnDiskPastTheHeadIsFoundThere(t *testing.T) {
	st := overtaken(t, 0)
	st.s.Return(home, num(200), st.now, st.now)
	st.sound()
	if busy := st.s.Stats().Busy; busy != 0 {
		t.Fatalf("%d busy", busy)
	}
	st.drainHead()
	st.page()
	st.paged(false, append(rest(), due(200, clock))...)
	st.starts(9, 10, 11, 12, 13, 14, 15, 16, 17, 200)
}

func TestAReturnedItemHoldsItsLaneOff(t *testing.T) {
	st := begin(t, Options{})
	st.add(1, clock, 0)
	st.add(2, clock, 0)
	st.starts(1)
	st.s.Return(home, num(1), clock+500, st.now)
	st.startsNothing()
	if at, ok := st.s.NextWake(); !ok || at <= clock || at > clock+500 {
		t.Fatalf("wakes at %d (%t), want by %d", at, ok, clock+500)
	}
	st.wakesAt(clock + 500)
	st.now = clock + 499
	st.startsNothing()
	st.wakesAt(clock + 510)
	st.starts(1, 2)
}

func TestALaneIsHeldOffThoughItRanEmpty(t *testing.T) {
	st := begin(t, Options{})
	st.add(1, clock, 0)
	st.starts(1)
	st.s.Return(home, num(1), clock+500, st.now)
	st.s.Recorded(home, num(1)) // cancelled
	st.add(2, clock, 0)
	st.startsNothing()
	st.wakesAt(clock + 500)
	st.starts(2)
	st.recorded(2)
	st.over()
}

func TestALaneHeldOffForTwoReasonsGoesOnAfterEach(t *testing.T) {
	st := backlog(t)
	st.add(1, clock, 0)
	st.starts(1)
	st.page()
	st.s.PageFailed(home, st.now)
	st.s.Return(home, num(1), clock+50, st.now)
	st.sound()
	at, _ := st.s.NextWake()
	if at > clock+50 {
		t.Fatalf("wakes %d ms from now, 50 wanted", at-clock)
	}
	st.wakesAt(clock + 50)
	st.starts(1)
	st.noPage()
	st.wakesAt(clock + pageRetryMs + tickMs)
	st.page()
}

func TestAPageThatFailedIsAskedForAgainAfterAWhile(t *testing.T) {
	st := backlog(t)
	st.page()
	st.add(101, clock, 0)
	st.s.PageFailed(home, st.now)
	st.sound()
	if n := st.s.Stats().Items; n != 0 {
		t.Fatal("an item on disk is kept past the head though no page is out")
	}
	st.noPage()
	st.wakesAt(clock + pageRetryMs - 1)
	st.noPage()
	st.wakesAt(clock + pageRetryMs + tickMs)
	st.page()
	st.paged(false, due(100, clock), due(101, clock))
	st.starts(100, 101)
}

func TestAPageWithoutItemsThatPromisesMoreDoesNotSpin(t *testing.T) {
	st := backlog(t)
	st.page()
	st.paged(true)
	st.noPage()
	st.wakesAt(clock + pageRetryMs + tickMs)
	st.page()
	st.paged(false)
	st.over()
}

func TestWhatAPageHoldsBeforeItsBeginningIsLeftOut(t *testing.T) {
	st := backlog(t)
	st.page()
	st.paged(false, due(99, clock), due(100, clock)) // 99 is not part of the answer
	st.starts(100)
	st.startsNothing()
}

func TestAPageIsAskedForBeforeTheHeadRunsOut(t *testing.T) {
	st := backlog(t)
	st.page()
	st.paged(true, due(100, clock), due(101, clock), due(102, clock), due(103, clock))
	st.starts(100, 101)
	st.noPage()
	st.starts(102)
	if p := st.page(); p.From.Compare(due(103, clock).Position()) <= 0 {
		t.Fatalf("page from %+v, which was in the last", p.From)
	}
	st.starts(103) // while the page is read
	st.startsNothing()
}

func TestAFloodIsLetGoOfInBoundedSteps(t *testing.T) {
	const flood = 20_000
	st := begin(t, Options{})
	for n := range flood {
		st.s.Add(home, due(n, clock), uint64(1+n), st.now)
	}
	if got := st.s.Stats(); got.Items != flood || got.YoungItems != flood {
		t.Fatalf("%+v: young items are not all in memory", got)
	}
	st.s.StoredBelow(flood + 1)
	if got := st.s.Stats().YoungItems; got < flood-settleItems {
		t.Fatalf("one call went through %d items", flood-got)
	}
	for calls := 0; ; calls++ {
		at, ok := st.s.NextWake()
		if !ok || at > st.now {
			break
		}
		if calls > flood/settleItems+1 {
			t.Fatalf("not done after %d calls: %+v", calls, st.s.Stats())
		}
		st.s.Wake(st.now)
	}
	st.sound()
	if got := st.s.Stats().Items; got > 256 || got < 128 {
		t.Fatalf("%d items in memory, bound 256", got)
	}
	st.starts(0, 1, 2, 3) // the head, in order
}

func TestAddAloneKeepsUpWithTheWatermark(t *testing.T) {
	st := begin(t, Options{})
	for n := range 50_000 {
		st.s.Add(home, due(n, clock), uint64(1+n), st.now)
		if n%5000 == 0 {
			st.s.StoredBelow(uint64(n)) // bounded; the rest is left to Add
		}
	}
	if got := st.s.Stats().YoungItems; got > 5001 {
		t.Fatalf("%d young items, the watermark is at most 5,000 behind", got)
	}
}

func TestManyLanesShareTheMemory(t *testing.T) {
	st := begin(t, Options{MemoryItems: 4000})
	const lanes = 100
	for n := range 200 * lanes {
		k := LaneKey{Account: uint64(n % lanes)}
		st.s.Add(k, due(n, clock+5), 0, st.now)
	}
	st.sound()
	if got := st.s.Stats(); got.Items > 4000 || got.Items < lanes*minHeadItems/2 || got.Lanes != lanes {
		t.Fatalf("%+v: want at most 4000 items, and every lane to have some", got)
	}
	st.wakesAt(clock + 10)
	seen := map[LaneKey]bool{}
	for range lanes {
		d, ok := st.s.Next(st.now)
		if !ok || seen[d.Lane] {
			t.Fatalf("started %v (%t): want each lane once", d, ok)
		}
		seen[d.Lane] = true
	}
}

func TestHeadsFilledInGoodTimesShrinkInBad(t *testing.T) {
	st := begin(t, Options{MemoryItems: 1000})
	for n := range 500 {
		st.s.Add(LaneKey{Account: uint64(n % 2)}, due(n, clock+5), 0, st.now)
	}
	if got := st.s.Stats().Items; got != 500 {
		t.Fatalf("%d items in memory, there is room for 500", got)
	}
	for n := range 58 * minHeadItems {
		st.s.Add(LaneKey{Account: uint64(2 + n%58)}, due(1000+n, clock+5), 0, st.now)
	}
	st.sound()
	if got := st.s.Stats().Items; got > 1000 {
		t.Fatalf("%d items in memory, bound 1000", got)
	}
}

func TestALaneKeepsToItsLimitUntilAnAttemptEnds(t *testing.T) {
	st := begin(t, Options{LaneConcurrency: 2})
	for n := 1; n <= 4; n++ {
		st.add(n, clock, 0)
	}
	st.starts(1, 2)
	st.startsNothing()
	st.s.Done(home, num(1), Ended{}, st.now) // not recorded, but its slot is free
	st.starts(3)
	st.startsNothing()
	if got := st.s.Stats(); got.Busy != 3 || got.InFlight != 2 {
		t.Fatalf("%+v, want 3 busy, 2 in flight", got)
	}
	st.s.Done(home, num(1), Ended{}, st.now) // again: nothing
	st.s.Recorded(home, num(1))
	st.startsNothing()
}

func TestAClockSetBackStartsNothingEarly(t *testing.T) {
	st := begin(t, Options{})
	st.add(1, clock, 0)
	st.add(2, clock+1000, 0)
	st.now = clock - 3_600_000
	st.startsNothing()
	st.wakesAt(st.now)
	st.add(3, st.now+100, 0) // a retry by the clock as it is
	st.startsNothing()
	st.wakesAt(st.now + 100)
	st.starts(3)
	st.startsNothing()
	st.wakesAt(clock + 1000)
	st.starts(1, 2)
}

func TestADeliveryInAYearIsStartedInAYear(t *testing.T) {
	const year = 365 * 24 * 3600 * 1000
	st := begin(t, Options{})
	st.add(1, clock+year, 0)
	wakes := 0
	for at, ok := st.s.NextWake(); ok; at, ok = st.s.NextWake() {
		st.startsNothing()
		st.wakesAt(at)
		wakes++
	}
	if st.now < clock+year || st.now >= clock+year+tickMs || wakes > 5 {
		t.Fatalf("woken %d times, the last %d ms after its time", wakes, st.now-clock-year)
	}
	st.starts(1)
}

func TestOldestDueFollowsTheLanes(t *testing.T) {
	st := begin(t, Options{LaneConcurrency: 1})
	other := LaneKey{Account: 2}
	oldest := func(want Time, wantOK bool) {
		t.Helper()
		if got, ok := st.s.OldestDue(st.now); got != want && ok || ok != wantOK {
			t.Fatalf("oldest is %d (%t), want %d (%t)", got, ok, want, wantOK)
		}
	}
	oldest(0, false)
	st.add(1, clock-30, 0)
	st.add(2, clock-20, 0)
	st.s.Add(other, due(3, clock-25), 0, st.now)
	oldest(clock-30, true)
	st.starts(1)
	oldest(clock-25, true)
	st.starts(3)
	oldest(clock-20, true) // its lane is full, it is late all the same
	st.recorded(1)
	st.starts(2)
	oldest(0, false)
	st.add(4, clock+50, 0)
	oldest(0, false)
	st.wakesAt(clock + 50)
	oldest(clock+50, true)
}

func TestAddingTwiceStartsOnce(t *testing.T) {
	st := begin(t, Options{})
	st.add(1, clock, 3)
	st.add(1, clock, 3)
	st.starts(1)
	st.add(1, clock, 3) // busy now
	st.startsNothing()
	st.recorded(1)
	st.over()
}

func TestAnotherPositionReplacesTheOneThatWaits(t *testing.T) {
	st := begin(t, Options{})
	st.add(1, clock+1000, 0)
	st.add(1, clock, 0)
	st.starts(1)
	st.recorded(1)
	st.over()
}

func TestARetryBeforeItsResultIsAMistake(t *testing.T) {
	st := begin(t, Options{})
	st.add(1, clock, 0)
	st.starts(1)
	defer func() {
		if recover() == nil {
			t.Error("no panic: the Recorded to come would have lost the retry")
		}
	}()
	st.s.Add(home, Item{ID: num(1), Due: clock, Attempt: 2}, 0, st.now)
}

func TestCallsThatDoNotFitAreIgnored(t *testing.T) {
	st := begin(t, Options{})
	st.add(1, clock+1000, 0)
	before := st.s.Stats()
	elsewhere := LaneKey{Account: 9}
	st.s.Done(home, num(1), Ended{}, st.now)
	st.s.Done(home, num(2), Ended{}, st.now)
	st.s.Done(elsewhere, num(1), Ended{}, st.now)
	st.s.Recorded(home, num(2))
	st.s.Recorded(elsewhere, num(2))
	st.s.Return(home, num(1), clock, st.now)
	st.s.Return(home, num(2), clock, st.now)
	st.paged(false, due(2, clock))
	st.s.PageFailed(elsewhere, st.now)
	st.s.StoredBelow(0)
	st.sound()
	if after := st.s.Stats(); after != before {
		t.Fatalf("%+v, was %+v", after, before)
	}
}

func TestPositionsGoUp(t *testing.T) {
	check := func(p, q Position) {
		t.Helper()
		if p.Compare(q) != -1 || q.Compare(p) != 1 || p.Compare(p) != 0 {
			t.Errorf("%+v and %+v compare as %d", p, q, p.Compare(q))
		}
	}
	end := ID{15: 0xff}
	check(Position{1, num(9), 9}, Position{2, num(1), 1})
	check(Position{1, ID{0: 1}, 1}, Position{1, ID{0: 2}, 0})
	check(Position{1, num(1), 9}, Position{1, num(2), 1})
	check(Position{1, num(1), 1}, Position{1, num(1), 2})
	for i := range end {
		end[i] = 0xff
	}
	for _, p := range []Position{{1, num(1), 1}, {1, num(255), 1<<32 - 1}, {1, end, 1<<32 - 1}} {
		check(p, p.successor())
	}
	if got, want := (Position{1, num(255), 1<<32 - 1}).successor(), (Position{1, num(256), 0}); got != want {
		t.Errorf("successor is %+v, want %+v", got, want)
	}
}

func TestSizesAreWhatTheCommentsSay(t *testing.T) {
	check := func(what string, got, most uintptr) {
		t.Helper()
		if got > most {
			t.Errorf("%s takes %d bytes, want at most %d", what, got, most)
		}
	}
	check("item", unsafe.Sizeof(item{}), 64)
	check("wheel entry", unsafe.Sizeof(wheelEntry{}), 24)
	check("key entry", unsafe.Sizeof(keyEntry{}), 16)
	check("lane", unsafe.Sizeof(lane{}), 400)
}
