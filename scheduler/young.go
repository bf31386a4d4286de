package scheduler

// Young returns how many items of an account wait in memory and are not known to
// be on disk.
func (s *Scheduler) Young(account uint64) int {
	return int(s.accounts.at(s.byAccount[account]).young)
}

// YoungAccounts returns how many accounts have such items.
func (s *Scheduler) YoungAccounts() int { return s.youngAccounts }

// countYoung counts young items that came to a lane, or left it.
func (s *Scheduler) countYoung(l *lane, n int32) {
	l.young += n
	a := s.accounts.at(l.account)
	before := a.young
	a.young += n
	switch {
	case before == 0:
		s.youngAccounts++
	case a.young == 0:
		s.youngAccounts--
	}
}
