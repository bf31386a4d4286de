package scheduler

import "testing"

func TestASuspendedAccountStartsNothingUntilItIsResumed(t *testing.T) {
	st := begin(t, Options{})
	st.add(1, clock, 0)
	st.add(2, clock+5, 7)
	st.starts(1)
	st.s.Suspend(home.Account)
	st.sound()
	st.recorded(1) // what was in flight ends as usual
	st.add(3, clock, 8)
	st.add(1, clock+1000, 0) // and its retry waits too
	st.wakesAt(clock + 60_000)
	st.startsNothing()
	if at, ok := st.s.NextWake(); ok {
		t.Errorf("something is to happen at %d", at)
	}
	if due, ok := st.s.OldestDue(st.now); ok {
		t.Errorf("an attempt that is held back counts as late: since %d", due)
	}
	st.s.Resume(home.Account, st.now)
	st.sound()
	st.starts(3, 2) // not all at once: the lane begins slowly
	st.startsNothing()
	st.wakesAt(st.now + 100)
	st.starts(1)
	for n := range 3 {
		st.recorded(n + 1)
	}
	st.over()
}

// An account that is suspended before it has anything, as at a start.
func TestASuspendedAccountIsRememberedWithoutLanes(t *testing.T) {
	st := begin(t, Options{})
	st.s.Suspend(home.Account)
	st.add(1, clock, 0)
	st.startsNothing()
	other := LaneKey{Account: home.Account + 1, Destination: home.Destination}
	st.s.Add(other, due(2, clock), 0, st.now)
	st.starts(2)
	st.s.Recorded(other, num(2))
	st.s.Recorded(home, num(1)) // cancelled meanwhile
	st.add(3, clock, 0)
	st.startsNothing()
	st.s.Resume(home.Account, st.now)
	st.starts(3)
	st.recorded(3)
	st.over()
}

// A queue on disk is not read while the account is suspended, and a page that
// was on its way is kept.
func TestASuspendedAccountsQueueIsNotRead(t *testing.T) {
	st := backlog(t)
	st.page()
	st.s.Suspend(home.Account)
	st.paged(true, due(100, clock), due(101, clock))
	st.startsNothing()
	st.noPage()
	st.wakesAt(clock + 1000)
	st.noPage()
	st.s.Resume(home.Account, st.now)
	st.starts(100, 101)
	st.page()
	st.paged(false)
	st.recorded(100)
	st.recorded(101)
	st.wakesAt(st.now + 100)
	st.over()
}

// An account whose queues are gone leaves nothing behind but what is under way.
func TestAForgottenAccountLeavesNothing(t *testing.T) {
	st := backlog(t)
	st.page()
	st.paged(true, due(100, clock), due(101, clock+1000))
	st.starts(100)
	st.add(1, clock+60_000, 5)
	st.s.Suspend(home.Account)
	st.sound()
	st.s.Forget(home.Account, st.now)
	st.sound()
	if got := st.s.Stats(); got.Items != 0 || got.Busy != 1 {
		t.Errorf("it has %+v", got)
	}
	st.recorded(100)
	st.over()
}

// A page that is on its way is still answered.
func TestAForgottenAccountsPageTellsItTheRest(t *testing.T) {
	st := backlog(t)
	st.page()
	st.s.Suspend(home.Account)
	st.s.Forget(home.Account, st.now)
	st.sound()
	st.paged(false, due(100, clock))
	st.starts(100)
	st.recorded(100)
	st.over()
}

func TestAForgottenAccountsLimitsAreForgotten(t *testing.T) {
	st := begin(t, Options{})
	other := LaneKey{Account: home.Account + 1}
	st.s.SetLimits(home, LaneLimits{Paused: true}, st.now)
	st.s.SetLimits(other, LaneLimits{Rate: 1}, st.now)
	st.s.Forget(home.Account, st.now)
	if len(st.s.limits) != 1 || st.s.limits[other].Rate != 1 {
		t.Errorf("limits are %v", st.s.limits)
	}
}
