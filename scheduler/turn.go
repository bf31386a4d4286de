package scheduler

// A band keeps lanes apart that hold slots for very different times. Each has
// turns of its own and a bound on the slots that it may hold, so that however
// many lanes are slow or dead, the swift ones find room.
type band uint8

const (
	bandSwift   band = iota // attempts end soon; may hold every slot
	bandUnknown             // none has ended yet; half of the slots
	bandSlow                // they take long, or fail; a quarter of the slots
	bands
)

// mostLag bounds, in virtual microseconds, how far a lane or an account may be
// ahead of the others' turns, and so how long one that was slow pays for it.
const mostLag = 60_000_000

// turns are the turns of one band, by start-time fair queueing (Goyal, Vin and
// Cheng, "Start-time Fair Queuing", 1996), over accounts and then over the lanes
// of each. Every account has a start tag in virtual time; the smallest is next,
// and its tag then moves on by what the attempt costs in worker time. Virtual
// time is the tag that was served last; who comes back after a while begins
// there, and not with what it did not use. So among any two that always wait,
// worker time differs by what one attempt of each costs.
//
// What an attempt will cost is not known when it starts: the lane's usual
// latency is charged, and the difference when it ends.
type turns struct {
	accounts keyHeap // with a ready lane, by share.tag
	places   places
	now      int64 // virtual
	ready    int   // lanes
	flights  int32
	most     int32 // flights
}

// open reports whether a lane of the band may start something. What is slow was
// unknown or swift when it was started, so that more may be slow than may be
// started as such; the last quarter of the slots is for swift ones all the same.
func (s *Scheduler) open(b band) bool {
	if s.turns[b].flights >= s.turns[b].most {
		return false
	}
	return b == bandSwift || int(s.turns[bandUnknown].flights+s.turns[bandSlow].flights) < max(1, s.opts.Slots*3/4)
}

// A share is an account's part in the turns of one band.
type share struct {
	tag   int64   // virtual time at which its next attempt starts
	now   int64   // virtual, among its lanes
	lanes keyHeap // ready ones, by lane.tag
}

// makeReady gives the lane a turn.
func (s *Scheduler) makeReady(r laneRef, l *lane) {
	if l.ready {
		return
	}
	l.ready = true
	t, sh := s.turnsOf(l)
	t.ready++
	l.tag = max(l.tag, sh.now)
	sh.lanes.set(&s.lanePlaces, uint32(r), l.tag)
	if len(sh.lanes.entries) == 1 {
		sh.tag = max(sh.tag, t.now)
		t.accounts.set(&t.places, uint32(l.account), sh.tag)
	}
}

// unready takes the lane's turn away, and its account's if it has no other.
func (s *Scheduler) unready(r laneRef, l *lane) {
	if !l.ready {
		return
	}
	l.ready = false
	t, sh := s.turnsOf(l)
	t.ready--
	sh.lanes.remove(&s.lanePlaces, uint32(r))
	if len(sh.lanes.entries) == 0 {
		t.accounts.remove(&t.places, uint32(l.account))
	}
}

func (s *Scheduler) turnsOf(l *lane) (*turns, *share) {
	return &s.turns[l.band], &s.accounts.at(l.account).shares[l.band]
}

// nextTurn returns the lane whose turn is next, of the bands in turn that have
// one and room for it.
func (s *Scheduler) nextTurn() (laneRef, bool) {
	if s.flights >= s.opts.Slots {
		return 0, false
	}
	for range bands {
		s.bandTurn = (s.bandTurn + 1) % bands
		if !s.open(s.bandTurn) {
			continue
		}
		if a, ok := s.turns[s.bandTurn].accounts.first(); ok {
			r, _ := s.accounts.at(accountRef(a.ref)).shares[s.bandTurn].lanes.first()
			return laneRef(r.ref), true
		}
	}
	return 0, false
}

// serve moves virtual time on to the turn of a lane that has it now.
func (s *Scheduler) serve(l *lane) {
	t, sh := s.turnsOf(l)
	t.now = max(t.now, sh.tag)
	sh.now = max(sh.now, l.tag)
}

// charge moves the next turns of a lane and of its account away by a cost in
// microseconds, or nearer if it is negative.
func (s *Scheduler) charge(r laneRef, l *lane, cost int64) {
	t, sh := s.turnsOf(l)
	l.tag = min(l.tag+cost, sh.now+mostLag)
	sh.tag = min(sh.tag+cost, t.now+mostLag)
	if l.ready {
		sh.lanes.set(&s.lanePlaces, uint32(r), l.tag)
	}
	if len(sh.lanes.entries) > 0 {
		t.accounts.set(&t.places, uint32(l.account), sh.tag)
	}
}

// reband moves the lane to the band that it now belongs to.
func (s *Scheduler) reband(r laneRef, l *lane) {
	b := l.belongs()
	if b == l.band {
		return
	}
	s.unready(r, l)
	s.turns[l.band].flights -= l.flights
	s.turns[b].flights += l.flights
	l.band, l.tag = b, 0 // begins at the new band's present
}

// belongs is the band that the lane's attempts have shown it to belong to.
func (l *lane) belongs() band {
	switch {
	case l.slow || l.streak >= slowStreak || l.breaker != Closed:
		return bandSlow
	case l.latency == 0:
		return bandUnknown
	}
	return bandSwift
}

// takeable is how many lanes Next could take an item from now.
func (s *Scheduler) takeable() int {
	if s.flights >= s.opts.Slots {
		return 0
	}
	n := 0
	for b := range s.turns {
		if s.open(band(b)) {
			n += s.turns[b].ready
		}
	}
	return n
}
