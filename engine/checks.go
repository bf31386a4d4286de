package engine

import (
	"context"
	"sync"
	"time"
)

const (
	// checkWait bounds how long accepting a request waits for DNS, however many
	// names it has. What is not known by then is accepted unchecked, as is what
	// does not resolve: the attempt looks again.
	checkWait = 5 * time.Second

	// lookupsAccepting is how many names may be looked up at once for sends that
	// are being accepted, and lookupsPerAccount how many of those for one account:
	// names that nobody answers for must not take the lookups of other accounts,
	// and never those of attempts. Transport.Options.Lookups is 256 by default.
	lookupsAccepting  = 128
	lookupsPerAccount = 16
)

// lookups hands out the right to look a name up while a send is accepted.
type lookups struct {
	all chan struct{}

	mu       sync.Mutex
	accounts map[AccountID]*lookupShare // of those that look up or wait to
}

type lookupShare struct {
	slots chan struct{}
	users int // that hold a slot or wait for one
}

func (l *lookups) init() {
	l.all = make(chan struct{}, lookupsAccepting)
	l.accounts = make(map[AccountID]*lookupShare)
}

// begin waits for a slot until ctx ends, and reports whether it got one, which
// end gives back.
func (l *lookups) begin(ctx context.Context, a AccountID) bool {
	if ctx.Err() != nil {
		return false // or a free slot might be taken all the same
	}
	s := l.share(a)
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		l.leave(a, s)
		return false
	}
	select {
	case l.all <- struct{}{}:
		return true
	case <-ctx.Done():
		<-s.slots
		l.leave(a, s)
		return false
	}
}

func (l *lookups) end(a AccountID) {
	<-l.all
	l.mu.Lock()
	s := l.accounts[a]
	l.mu.Unlock()
	<-s.slots
	l.leave(a, s)
}

func (l *lookups) share(a AccountID) *lookupShare {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.accounts[a]
	if s == nil {
		s = &lookupShare{slots: make(chan struct{}, lookupsPerAccount)}
		l.accounts[a] = s
	}
	s.users++
	return s
}

func (l *lookups) leave(a AccountID, s *lookupShare) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.users--; s.users == 0 {
		delete(l.accounts, a)
	}
}
