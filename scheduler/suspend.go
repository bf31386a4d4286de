package scheduler

import "maps"

// Suspend starts nothing of the account any more until Resume, also of what is
// added meanwhile. What is in flight goes on. It walks over all lanes, as do
// Resume and Forget: some nanoseconds for each.
func (s *Scheduler) Suspend(account uint64) {
	s.suspended[account] = struct{}{}
	s.setSuspended(account, true)
}

// Resume lets the account's attempts go on. Its lanes begin slowly: what has
// become due meanwhile is not to hit its destinations all at once.
func (s *Scheduler) Resume(account uint64, now Time) {
	s.now = now
	delete(s.suspended, account)
	s.setSuspended(account, false)
}

// Forget lets go of all that waits of an account whose queues are gone from
// the disk for good, and of what was set for its lanes. What is busy is Recorded
// as usual. A lane with a page on its way or wanted keeps its place on disk, and
// learns from the page.
func (s *Scheduler) Forget(account uint64, now Time) {
	s.now = now
	maps.DeleteFunc(s.limits, func(k LaneKey, _ LaneLimits) bool { return k.Account == account })
	ref, ok := s.byAccount[account]
	for r := laneRef(1); ok && r <= s.lanes.last; r++ {
		l := s.lanes.at(r)
		if l.account != ref {
			continue
		}
		for c := range l.waiting {
			for l.waiting[c] != 0 {
				s.drop(l.waiting[c])
			}
		}
		if l.page == pageNone {
			l.onDisk, l.diskNext = false, Position{}
		}
		s.refresh(r, l)
	}
	s.Resume(account, now)
}

func (s *Scheduler) setSuspended(account uint64, suspended bool) {
	ref, ok := s.byAccount[account]
	if !ok || s.accounts.at(ref).suspended == suspended {
		return
	}
	s.accounts.at(ref).suspended = suspended
	for r := laneRef(1); r <= s.lanes.last; r++ {
		// A freed lane has no account; the account's last lane may go with refresh.
		if l := s.lanes.at(r); l.account == ref {
			if !suspended {
				l.ramp(s.now)
			}
			s.refresh(r, l)
		}
	}
}
