package raftstore

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/harepost/harepost/engine"
	"github.com/harepost/harepost/engine/command"
)

// A batcher gathers commands into raft entries: what has come while the entries
// before were on their way is one entry, as a frame of the log is one group commit.
// Each entry costs every node a sync and the leader a round trip, however large it is.
type batcher struct {
	apply      func(data []byte) raft.Future // raft.Apply
	outcome    func(raft.Future) error       // waits for it
	lost       func(cookies []any)           // engine.Machine's
	refused    func(cookies []any)           // engine.Machine's
	proposer   uint64
	entryBytes int   // about the most in one entry
	inFlight   int   // bound of flights
	queueBytes int64 // bound of bytes
	later      time.Duration

	mu      sync.Mutex
	work    sync.Cond // wakes run
	landed  sync.Cond // wakes hold
	room    sync.Cond // wakes AppendLater
	term    uint64    // of the reign; 0: this node does not lead
	closing bool
	held    bool // nothing is given to raft
	queue   []engine.Proposal
	urgent  bool // somebody waits for what is in queue
	due     bool // what nobody waits for has waited
	timer   *time.Timer
	bytes   int64 // of queue and flights
	waiting int
	flights map[uint64]*flight
	number  uint64
	running sync.WaitGroup
}

// A flight is an entry that raft was given and has not applied.
type flight struct {
	cookies []any
	bytes   int64
	began   time.Time
}

// The defaults of Config's fields of that name, as measured (bench/RESULTS.md, "Three
// nodes"). The leader's disk works on one entry while another is with the followers; more
// of them would be smaller ones.
const (
	DefaultEntryBytes      = 512 << 10
	DefaultEntriesInFlight = 2
)

const (
	// holdBack is for how long commands that nobody waits for wait for company.
	holdBack = 5 * time.Millisecond

	// proposalBytes is what a waiting command is charged beyond its bytes.
	proposalBytes = 64
)

func newBatcher(proposer uint64, entryBytes, inFlight int, queueBytes int64) *batcher {
	b := &batcher{
		proposer: proposer, entryBytes: entryBytes, inFlight: inFlight, queueBytes: queueBytes, later: holdBack,
		outcome: raft.Future.Error, flights: make(map[uint64]*flight),
	}
	b.work.L, b.room.L, b.landed.L = &b.mu, &b.mu, &b.mu
	b.timer = time.AfterFunc(time.Hour, b.isDue)
	b.timer.Stop()
	return b
}

func (b *batcher) start() { b.running.Go(b.run) }

func (b *batcher) isDue() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.due = true
	b.work.Signal()
}

// begin lets commands of a term in.
func (b *batcher) begin(term uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.term = term
}

// end lets none in any more. What is queued is refused; what is with raft raft tells of.
func (b *batcher) end() {
	b.mu.Lock()
	b.term = 0
	b.landed.Broadcast()
	cookies := b.dropLocked()
	b.mu.Unlock()
	b.refused(cookies)
}

// hold gives raft nothing until release, and returns when raft has told of all that it
// was given. It reports false, and holds nothing, if that takes longer than patience, or
// the reign ends.
func (b *batcher) hold(patience time.Duration) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held = true
	term, over := b.term, false
	timer := time.AfterFunc(patience, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		over = true
		b.landed.Broadcast()
	})
	defer timer.Stop()
	for len(b.flights) > 0 && !over && b.term == term && !b.closing {
		b.landed.Wait()
	}
	if len(b.flights) > 0 || b.term != term || b.closing {
		b.releaseLocked()
		return false
	}
	return true
}

// release ends hold.
func (b *batcher) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.releaseLocked()
}

func (b *batcher) releaseLocked() {
	b.held = false
	b.work.Signal()
}

func (b *batcher) dropLocked() []any {
	cookies := make([]any, 0, len(b.queue))
	for i := range b.queue {
		cookies = append(cookies, b.queue[i].Cookie)
		b.bytes -= sizeOf(&b.queue[i])
	}
	clear(b.queue)
	b.queue = b.queue[:0]
	b.urgent, b.due = false, false
	b.room.Broadcast()
	b.work.Broadcast()
	return cookies
}

func sizeOf(p *engine.Proposal) int64 { return int64(len(p.Cmd)) + proposalBytes }

func (b *batcher) refusedLocked(term uint64) error {
	switch {
	case b.closing:
		return engine.ErrClosed
	case term == 0 || term != b.term:
		return engine.ErrNotLeader
	}
	return nil
}

// append queues commands, all or none.
func (b *batcher) append(term uint64, batch []engine.Proposal) error {
	size := int64(0)
	for i := range batch {
		size += sizeOf(&batch[i])
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.refusedLocked(term); err != nil {
		return err
	}
	if b.bytes+size > b.queueBytes || b.waiting > 0 {
		return engine.ErrOverloaded
	}
	b.queue = append(b.queue, batch...)
	b.bytes += size
	b.urgent = true
	b.work.Signal()
	return nil
}

// appendLater queues a command that nobody waits for, as soon as there is room.
func (b *batcher) appendLater(term uint64, p engine.Proposal) error {
	size := sizeOf(&p)
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		if err := b.refusedLocked(term); err != nil {
			return err
		}
		if b.bytes+size <= b.queueBytes {
			break
		}
		b.urgent = true // there is no room before the queue is with raft
		b.work.Signal()
		b.waiting++
		b.room.Wait()
		b.waiting--
	}
	b.queue = append(b.queue, p)
	b.bytes += size
	switch {
	case b.urgent: // of somebody who waits for room
		b.work.Signal()
	case len(b.queue) == 1:
		b.timer.Reset(b.later)
	}
	return nil
}

// run gives raft what is queued.
func (b *batcher) run() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		for len(b.queue) == 0 || !b.urgent && !b.due && !b.closing || b.held && !b.closing || len(b.flights) >= b.inFlight {
			if b.closing && len(b.queue) == 0 {
				return
			}
			b.work.Wait()
		}
		n, size := b.takeLocked()
		f := &flight{cookies: make([]any, n), began: time.Now()}
		b.number++
		number := b.number
		data := make([]byte, 0, size+command.MostBatchHead)
		data = command.AppendBatchHead(data, command.Batch{Term: b.term, Proposer: b.proposer, Number: number})
		for i := range n {
			data = command.AppendToBatch(data, b.queue[i].Cmd)
			f.cookies[i] = b.queue[i].Cookie
			f.bytes += sizeOf(&b.queue[i])
		}
		rest := copy(b.queue, b.queue[n:])
		clear(b.queue[rest:])
		b.queue = b.queue[:rest]
		if rest == 0 {
			b.urgent, b.due = false, false
		}
		b.flights[number] = f
		b.mu.Unlock()
		future := b.apply(data)
		b.running.Go(func() { b.watch(number, future) })
		b.mu.Lock()
	}
}

// takeLocked is how many commands of the queue make the next entry, and how many
// bytes they take in it at most. One that needs an entry of its own has one.
func (b *batcher) takeLocked() (n, size int) {
	for i := range b.queue {
		cmd := b.queue[i].Cmd
		alone := command.Alone(cmd)
		if i > 0 && (alone || size+len(cmd) > b.entryBytes) {
			break
		}
		n, size = i+1, size+len(cmd)+lengthBytes
		if alone {
			break
		}
	}
	return n, size
}

// lengthBytes is the most that a command's length takes.
const lengthBytes = 5

// watch waits for an entry's end. That of one that was applied was claimed before.
func (b *batcher) watch(number uint64, future raft.Future) {
	err := b.outcome(future)
	if err == nil {
		return
	}
	f := b.claim(number)
	switch {
	case f == nil:
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		b.refused(f.cookies) // raft says so of what it has not put into its log
	default:
		b.lost(f.cookies)
	}
}

// claim takes the flight of an entry that was applied, or failed; nil if somebody has.
func (b *batcher) claim(number uint64) *flight {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.flights[number]
	if f == nil {
		return nil
	}
	b.landLocked(number, f)
	return f
}

func (b *batcher) landLocked(number uint64, f *flight) {
	delete(b.flights, number)
	b.bytes -= f.bytes
	b.work.Signal()
	b.room.Broadcast()
	b.landed.Broadcast()
}

// abandon gives up what is with raft: nobody knows what will become of it.
func (b *batcher) abandon() {
	var lost []any
	b.mu.Lock()
	for number, f := range b.flights {
		lost = append(lost, f.cookies...)
		b.landLocked(number, f)
	}
	b.mu.Unlock()
	b.lost(lost)
}

// claimApplied is claim of a committed batch, with as many cookies as it has commands.
func (b *batcher) claimApplied(batch command.Batch, commands int) ([]any, time.Duration, error) {
	if batch.Proposer != b.proposer {
		return nil, 0, nil
	}
	f := b.claim(batch.Number)
	if f == nil {
		return nil, 0, nil
	}
	if len(f.cookies) != commands {
		return nil, 0, fmt.Errorf("raftstore: batch %d has %d commands, %d were proposed", batch.Number, commands, len(f.cookies))
	}
	return f.cookies, time.Since(f.began), nil
}

// close gives raft what is queued and waits, until patience is up, for raft to tell of
// all it was given; then nothing is let in any more. raft must run meanwhile.
func (b *batcher) close(patience time.Duration) {
	b.mu.Lock()
	b.closing = true
	b.urgent = true
	b.work.Broadcast()
	b.room.Broadcast()
	b.landed.Broadcast()
	b.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.running.Wait()
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		b.mu.Lock()
		cookies := b.dropLocked()
		b.mu.Unlock()
		b.refused(cookies)
	}
}

// wait waits for the goroutines, which end when raft has.
func (b *batcher) wait() {
	b.running.Wait()
	b.timer.Stop()
}
