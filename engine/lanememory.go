package engine

import (
	"strings"
	"sync"
	"time"

	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/lane"
	"github.com/harepost/harepost/engine/state"
)

// laneGeneration is how many lanes one generation of a laneMemory has.
const laneGeneration = 65_536

// A laneMemory remembers of lanes what is written nowhere, or only while they
// have a backlog: what they are called, and how they failed last. It has the
// lanes in two generations. What is used moves into the young one; when that is
// full the other is let go of. So it remembers the 65,536 lanes that were used
// last, and at most twice as many. A restart empties it.
type laneMemory struct {
	mu         sync.Mutex
	young, old map[state.Lane]laneNote
}

// A laneNote is what is remembered of a lane.
type laneNote struct {
	name  lane.Name
	error LaneError
}

// A LaneError is how the last attempt of a lane that was not delivered ended.
type LaneError struct {
	Code       string    // of the attempt's error, such as "timeout"; empty: none failed since the start
	HTTPStatus int       // 0: no response
	At         time.Time // when it ended
}

// learn notes what a lane is called. record is that of a delivery in it, which is
// only looked at if the lane is not known.
func (m *laneMemory) learn(l state.Lane, record []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.use(l); ok {
		return
	}
	var rec delivery.Record
	w := delivery.Row{Record: record}
	if w.DecodeRecord(&rec) == nil { // else the attempt will say so
		m.put(l, laneNote{name: lane.NameOf(&rec)})
	}
}

// failed notes how an attempt failed.
func (m *laneMemory) failed(l state.Lane, rec *delivery.Record, a *Attempt) {
	m.mu.Lock()
	defer m.mu.Unlock()
	note, ok := m.use(l)
	if !ok {
		note.name = lane.NameOf(rec)
	}
	code, _, _ := strings.Cut(a.Error, ":")
	if code != note.error.Code {
		note.error.Code = strings.Clone(code)
	}
	note.error.HTTPStatus, note.error.At = a.HTTPStatus, a.CreatedAt
	m.put(l, note)
}

// of is what is remembered of a lane; false: nothing.
func (m *laneMemory) of(l state.Lane) (laneNote, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	note, ok := m.young[l]
	if !ok {
		note, ok = m.old[l]
	}
	return note, ok
}

// use is of, and moves the lane into the young generation. The lock is held.
func (m *laneMemory) use(l state.Lane) (laneNote, bool) {
	note, ok := m.young[l]
	if !ok {
		if note, ok = m.old[l]; ok {
			m.put(l, note)
		}
	}
	return note, ok
}

// put sets what is remembered of a lane. The lock is held.
func (m *laneMemory) put(l state.Lane, note laneNote) {
	if _, ok := m.young[l]; !ok && len(m.young) >= laneGeneration {
		m.old, m.young = m.young, nil
	}
	if m.young == nil {
		m.young = make(map[state.Lane]laneNote)
	}
	m.young[l] = note
}

// learnLanes notes what the lanes of accepted deliveries are called. Of several
// in a row that go into one lane the first is enough.
func (e *Engine) learnLanes(batch []state.Entry) {
	var last state.Lane
	for i := range batch {
		if y := batch[i].Young; y != nil && y.Lane() != last {
			last = y.Lane()
			e.lanes.learn(last, y.Accept.Record)
		}
	}
}

// nameOf is what a lane is called; the zero name if nobody remembers.
func (e *Engine) nameOf(l state.Lane) lane.Name {
	if b, ok := e.state().Backlog(l); ok {
		return b.Name
	}
	if set, ok := e.state().Directory().Setting(l); ok {
		return set.Name
	}
	note, _ := e.lanes.of(l)
	return note.name
}
