package scheduler

import (
	"cmp"
	"encoding/binary"
	"math"
)

// Time is a moment in milliseconds since the Unix epoch.
type Time int64

// A LaneKey names a lane: one account's traffic to one destination. The
// destination is the caller's hash of scheme, host and port.
type LaneKey struct{ Account, Destination uint64 }

// ID identifies a delivery. An ID is in one lane only.
type ID [16]byte

func (a ID) compare(b ID) int {
	if c := cmp.Compare(binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(b[:8])); c != 0 {
		return c
	}
	return cmp.Compare(binary.BigEndian.Uint64(a[8:]), binary.BigEndian.Uint64(b[8:]))
}

// An Item is one attempt to make.
type Item struct {
	ID      ID
	Due     Time   // not to be started before
	Attempt uint32 // number of the attempt to make, from 1
	Class   Class
}

// A Class says what kind of attempt an item is. Where several wait in a lane,
// first attempts get four of seven starts, retries two and replays one.
type Class uint8

// The classes.
const (
	Fresh  Class = iota // a first attempt
	Retry               // after one that failed
	Replay              // of a delivery that had ended
	classes
)

// Position returns the item's place in its lane's queue.
func (it Item) Position() Position {
	return Position{Due: it.Due, ID: it.ID, Attempt: it.Attempt}
}

// A Position is a place in a lane's queue, in memory and on disk. Positions
// are ordered by Due, then ID, then Attempt.
type Position struct {
	Due     Time
	ID      ID
	Attempt uint32
}

// Compare returns -1, 0 or +1 as p comes before, is, or comes after q.
func (p Position) Compare(q Position) int {
	if c := cmp.Compare(p.Due, q.Due); c != 0 {
		return c
	}
	if c := p.ID.compare(q.ID); c != 0 {
		return c
	}
	return cmp.Compare(p.Attempt, q.Attempt)
}

// successor returns the smallest position after p.
func (p Position) successor() Position {
	if p.Attempt < math.MaxUint32 {
		p.Attempt++
		return p
	}
	p.Attempt = 0
	for i := len(p.ID) - 1; i >= 0; i-- {
		p.ID[i]++
		if p.ID[i] != 0 {
			return p
		}
	}
	p.Due++
	return p
}

// A Dispatch is an attempt to start now.
type Dispatch struct {
	Lane LaneKey
	Item Item
}

// A PageRequest asks for the first Limit entries of the lane's queue on disk
// at or past From.
type PageRequest struct {
	Lane  LaneKey
	From  Position
	Limit int
}

// Stats counts what the scheduler holds.
type Stats struct {
	Accounts    int // accounts with a lane
	Lanes       int // lanes with anything in memory, on disk or busy
	IdleLanes   int // lanes with nothing, that are remembered for a while
	ReadyLanes  int // lanes from which Next may take an item
	DueLanes    int // lanes with something due and not started, ready or not
	Items       int // items in memory that wait, young ones included
	YoungItems  int // items in memory that are not known to be on disk
	Busy        int // items taken by Next whose result is not recorded
	InFlight    int // of those, the ones whose attempt has not ended
	PagesWanted int // lanes whose page request is not handed out
	PagesOut    int // page requests handed out and not answered
}

// Options are the bounds of a scheduler. Zero fields take their defaults.
type Options struct {
	// Slots is how many attempts may be in flight in all. Default 4096.
	Slots int

	// LaneConcurrency is how many attempts of one lane may be in flight, if
	// nothing else was set for it: the most that it adapts to. Default 64.
	LaneConcurrency int

	// InitialConcurrency is how many attempts a lane begins with. Default 2.
	InitialConcurrency int

	// TripAfter is how many failures in a row open a lane's breaker. Default 10;
	// negative: breakers stay closed.
	TripAfter int

	// HeadItems bounds the items of one lane that are held in memory
	// though they are on disk. Default 4096, at least 8.
	HeadItems int

	// PageItems is the most that one page request asks for; a page is never
	// more than half of a head, and is as large as the lane is hot. Default 2048.
	PageItems int

	// MemoryItems bounds the items of all lanes together that are held in
	// memory though they are on disk. As it fills, heads shrink, but never
	// below two pages: 8 items, of a hot lane more. An item costs about 130
	// bytes. Default 262,144.
	MemoryItems int

	// IdleLanes is how many lanes are remembered that have nothing in them.
	// Default 65,536.
	IdleLanes int
}

// minHeadItems is what a lane may always hold: less would make a page too
// small to be worth its read.
const minHeadItems = 8

func (o Options) withDefaults() Options {
	set := func(v *int, def, least int) {
		if *v == 0 {
			*v = def
		}
		*v = max(*v, least)
	}
	set(&o.Slots, 4096, 1)
	set(&o.LaneConcurrency, 64, 1)
	set(&o.InitialConcurrency, 2, 1)
	set(&o.TripAfter, defaultTrip, math.MinInt)
	set(&o.HeadItems, 4096, minHeadItems)
	set(&o.PageItems, 2048, 1)
	set(&o.IdleLanes, 1<<16, 1)
	set(&o.MemoryItems, 1<<18, 2*minHeadItems)
	return o
}
