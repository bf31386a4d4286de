package raftstore

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/harepost/harepost/engine"
	"github.com/harepost/harepost/engine/command"
)

// aFuture is raft's answer, given by the test.
type aFuture chan error

func (f aFuture) Error() error { return <-f }

// fakeRaft takes entries and lets the test say what becomes of them.
type fakeRaft struct {
	mu      sync.Mutex
	entries [][]byte
	futures []aFuture
	lost    []any
	refused []any
}

// inFlight is how many entries the tests' batchers have on their way.
const inFlight = 3

func newTestBatcher(entryBytes int, queueBytes int64) (*batcher, *fakeRaft) {
	r := new(fakeRaft)
	b := newBatcher(7, entryBytes, inFlight, queueBytes)
	b.apply = func(data []byte) raft.Future {
		r.mu.Lock()
		defer r.mu.Unlock()
		f := make(aFuture, 1)
		r.entries, r.futures = append(r.entries, data), append(r.futures, f)
		return f
	}
	b.lost = func(cookies []any) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.lost = append(r.lost, cookies...)
	}
	b.refused = func(cookies []any) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.refused = append(r.refused, cookies...)
	}
	b.start()
	return b, r
}

// commands are those of an entry of a term.
func commands(t *testing.T, entry []byte, term uint64) (cmds []string) {
	t.Helper()
	if err := command.Each(entry, term, func(cmd []byte) error {
		cmds = append(cmds, string(cmd))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return cmds
}

// cmd is a command of a kind, as far as the batcher looks.
func cmd(k command.Kind, text string) []byte { return append([]byte{1, byte(k)}, text...) }

func proposals(k command.Kind, texts ...string) (batch []engine.Proposal) {
	for _, text := range texts {
		batch = append(batch, engine.Proposal{Cmd: cmd(k, text), Cookie: text})
	}
	return batch
}

// apply has raft apply its entry i, as the state machine would.
func (r *fakeRaft) apply(t *testing.T, b *batcher, i int, commands int) []any {
	t.Helper()
	r.mu.Lock()
	entry, future := r.entries[i], r.futures[i]
	r.mu.Unlock()
	head, _, err := command.ParseBatch(entry)
	if err != nil {
		t.Fatal(err)
	}
	cookies, _, err := b.claimApplied(head, commands)
	if err != nil {
		t.Fatal(err)
	}
	future <- nil
	return cookies
}

// given is how many entries raft has got.
func (r *fakeRaft) given() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.entries)
}

// What comes while entries are on their way is one entry; a command that needs one to
// itself has it, and order is kept.
func TestWhatComesMeanwhileIsOneEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, r := newTestBatcher(1<<20, 1<<20)
		b.begin(3)
		for range inFlight {
			if err := b.append(3, proposals(command.KindAccept, "first")); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if len(r.entries) != inFlight {
			t.Fatalf("%d entries, want %d", len(r.entries), inFlight)
		}
		for _, batch := range [][]engine.Proposal{
			proposals(command.KindAccept, "a", "b"),
			proposals(command.KindControl, "alone"),
			proposals(command.KindAttempt, "c"),
			proposals(command.KindAccept, "d"),
		} {
			if err := b.append(3, batch); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if len(r.entries) != inFlight {
			t.Fatal("more entries are on their way than may be")
		}
		for i := 0; i < len(r.entries); i++ {
			n := len(commands(t, r.entries[i], 3))
			if got := r.apply(t, b, i, n); len(got) != n {
				t.Errorf("entry %d of %d commands gave back %v", i, n, got)
			}
			synctest.Wait()
		}
		var got [][]string
		for _, e := range r.entries[inFlight:] {
			got = append(got, commands(t, e, 3))
		}
		want := [][]string{
			{string(cmd(command.KindAccept, "a")), string(cmd(command.KindAccept, "b"))},
			{string(cmd(command.KindControl, "alone"))},
			{string(cmd(command.KindAttempt, "c")), string(cmd(command.KindAccept, "d"))},
		}
		if !slices.EqualFunc(got, want, slices.Equal) {
			t.Errorf("entries %q, want %q", got, want)
		}
		b.close(time.Second)
		b.wait()
		if len(r.lost) > 0 || b.bytes != 0 {
			t.Errorf("lost %v, %d bytes left", r.lost, b.bytes)
		}
	})
}

// An entry of another term than it was proposed in has no effect, whatever raft made
// of it.
func TestABatchIsVoidInAnotherTerm(t *testing.T) {
	data := command.AppendBatchHead(nil, command.Batch{Term: 3, Proposer: 1, Number: 1})
	data = command.AppendToBatch(data, cmd(command.KindAccept, "x"))
	if n := len(commands(t, data, 3)); n != 1 {
		t.Errorf("%d commands in its own term", n)
	}
	if n := len(commands(t, data, 4)); n != 0 {
		t.Errorf("%d commands in another term", n)
	}
	for cut := range data {
		var n int
		err := command.Each(data[:cut], 3, func([]byte) error { n++; return nil })
		if cut > 1 && err == nil && n > 0 {
			t.Errorf("cut at %d of %d it has %d commands", cut, len(data), n)
		}
	}
}

// At the end of a reign what is queued is refused at once, what is with raft when raft
// says so, each once; commands of an earlier reign are refused, waiting ones too.
func TestTheEndOfAReign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, r := newTestBatcher(1<<20, 4096)
		if err := b.append(0, proposals(command.KindAccept, "x")); !errors.Is(err, engine.ErrNotLeader) {
			t.Errorf("before any reign: %v", err)
		}
		b.begin(1)
		for range inFlight {
			if err := b.append(1, proposals(command.KindAccept, "flying")); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if err := b.append(1, proposals(command.KindAccept, "queued")); err != nil {
			t.Fatal(err)
		}
		waiting := make(chan error)
		go func() {
			waiting <- b.appendLater(1, engine.Proposal{Cmd: make([]byte, 4000)})
		}()
		synctest.Wait()
		if err := b.append(1, proposals(command.KindAccept, "x")); !errors.Is(err, engine.ErrOverloaded) {
			t.Errorf("while others wait for room: %v", err)
		}
		b.end()
		if err := <-waiting; !errors.Is(err, engine.ErrNotLeader) {
			t.Errorf("who waited for room: %v", err)
		}
		if !slices.Equal(r.refused, []any{"queued"}) || len(r.lost) > 0 {
			t.Errorf("refused %v, lost %v", r.refused, r.lost)
		}
		b.begin(2)
		if err := b.append(1, proposals(command.KindAccept, "late")); !errors.Is(err, engine.ErrNotLeader) {
			t.Errorf("of an earlier reign: %v", err)
		}
		r.apply(t, b, 0, 1)               // raft may apply what was thought lost
		r.futures[1] <- raft.ErrNotLeader // it is not in raft's log
		for _, f := range r.futures[2:] {
			f <- raft.ErrLeadershipLost
		}
		synctest.Wait()
		if len(r.lost) != inFlight-2 || len(r.refused) != 2 {
			t.Errorf("lost %v, refused %v", r.lost, r.refused)
		}
		if b.bytes != 0 || len(b.flights) != 0 {
			t.Errorf("%d bytes and %d entries left", b.bytes, len(b.flights))
		}
		// That somebody waited then is of no weight in the next reign.
		if err := b.appendLater(2, proposals(command.KindAttempt, "record")[0]); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if r.given() != inFlight {
			t.Error("what nobody waits for went to raft at once")
		}
		time.Sleep(holdBack) // the bubble's clock
		synctest.Wait()
		if n := r.given(); n != inFlight+1 {
			t.Fatalf("what nobody waits for has not gone to raft: %d entries", n)
		}
		r.apply(t, b, inFlight, 1)
		b.close(time.Second)
		b.wait()
	})
}

// A command that nobody waits for goes with those that have no room yet, also where all
// that takes the room is with raft.
func TestWhatNobodyWaitsForMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, r := newTestBatcher(1<<20, 1024)
		b.begin(1)
		large := func() engine.Proposal {
			return engine.Proposal{Cmd: append(cmd(command.KindAttempt, ""), make([]byte, 800)...)}
		}
		const times = 200 // who of the two is first, the waiter or the batcher, is up to chance
		for i := range times {
			added := make(chan error)
			go func() { added <- b.appendLater(1, large()) }()
			synctest.Wait()
			if i > 0 { // it waits for the one before, which is with raft
				r.apply(t, b, i-1, 1)
			}
			if err := <-added; err != nil {
				t.Fatal(err)
			}
			time.Sleep(holdBack) // the bubble's clock
			synctest.Wait()
			if n := r.given(); n != i+1 {
				t.Fatalf("%d entries after %d commands", n, i+1)
			}
		}
		r.apply(t, b, times-1, 1)
		b.close(time.Second)
		b.wait()
	})
}

// Of what is given up nobody hears twice.
func TestWhatIsWithRaftIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, r := newTestBatcher(1<<20, 4096)
		b.begin(1)
		for range inFlight {
			if err := b.append(1, proposals(command.KindAccept, "flying")); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		b.end()
		b.abandon()
		if len(r.lost) != inFlight || len(r.refused) != 0 || b.bytes != 0 {
			t.Errorf("lost %v, refused %v, %d bytes left", r.lost, r.refused, b.bytes)
		}
		if cookies := r.apply(t, b, 0, 1); cookies != nil {
			t.Errorf("%v hears of it again", cookies)
		}
		r.futures[1] <- raft.ErrNotLeader
		r.futures[2] <- raft.ErrLeadershipLost
		synctest.Wait()
		if len(r.lost) != inFlight || len(r.refused) != 0 {
			t.Errorf("lost %v, refused %v", r.lost, r.refused)
		}
		b.close(time.Second)
		b.wait()
	})
}

// What nobody waits for is held back for a while, or goes with what somebody does.
func TestWhatNobodyWaitsForGoesAlong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, r := newTestBatcher(1<<20, 1<<20)
		b.begin(1)
		if err := b.appendLater(1, proposals(command.KindAttempt, "late")[0]); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if len(r.entries) != 0 {
			t.Error("it went at once")
		}
		if err := b.append(1, proposals(command.KindAccept, "a")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := len(commands(t, r.entries[0], 1)); n != 2 {
			t.Errorf("%d commands in the entry", n)
		}
		if err := b.appendLater(1, proposals(command.KindAttempt, "late")[0]); err != nil {
			t.Fatal(err)
		}
		time.Sleep(holdBack) // the bubble's clock
		synctest.Wait()
		if len(r.entries) != 2 {
			t.Errorf("%d entries after it has waited", len(r.entries))
		}
		r.apply(t, b, 0, 2)
		r.apply(t, b, 1, 1)
		b.close(time.Second)
		b.wait()
	})
}

// Close gives raft what is queued, and does not wait for raft for ever.
func TestCloseOfABatcherIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, r := newTestBatcher(1<<20, 1<<20)
		b.begin(1)
		for range inFlight + 1 {
			if err := b.append(1, proposals(command.KindAccept, "x")); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		b.close(time.Second)
		if err := b.append(1, proposals(command.KindAccept, "x")); !errors.Is(err, engine.ErrClosed) {
			t.Errorf("after close: %v", err)
		}
		for _, f := range r.futures {
			f <- raft.ErrRaftShutdown
		}
		b.wait()
		if len(r.lost) != inFlight || len(r.refused) != 1 {
			t.Errorf("%d lost of %d, %d refused", len(r.lost), inFlight, len(r.refused))
		}
	})
}

// While a batcher is held it takes commands and gives raft none, and it is held when
// raft has told of all that it had before.
func TestABatcherIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, r := newTestBatcher(1<<20, 1<<20)
		b.begin(1)
		queue := func(text string) {
			t.Helper()
			if err := b.append(1, proposals(command.KindAccept, text)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		queue("a")
		if b.hold(time.Second) {
			t.Error("it is held with an entry on its way")
		}
		queue("b") // for it was let go
		held := make(chan bool)
		go func() { held <- b.hold(time.Second) }()
		synctest.Wait()
		queue("c")
		r.apply(t, b, 0, 1)
		r.apply(t, b, 1, 1)
		if !<-held || len(r.entries) != 2 {
			t.Errorf("it is not held, or has given raft %d entries", len(r.entries))
		}
		b.release()
		synctest.Wait()
		if len(r.entries) != 3 {
			t.Errorf("%d entries after it was let go", len(r.entries))
		}
		go func() { held <- b.hold(time.Second) }()
		synctest.Wait()
		b.end()
		if <-held {
			t.Error("it is held for a reign that is over")
		}
		r.futures[2] <- raft.ErrLeadershipLost
		b.close(time.Second)
		b.wait()
	})
}

// A pipeline whose reader has gone takes what raft sends until raft notices.
func TestAPipelineWithoutAReaderDoesNotBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := &answering{done: make(chan raft.AppendFuture, 2)}
		p := &pipeline{
			AppendPipeline: inner, contacts: &contacts{now: time.Now, peers: make(map[raft.ServerID]contact)},
			out: make(chan raft.AppendFuture, mostAnswers), closed: make(chan struct{}),
		}
		p.running.Go(p.pass)
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			for range 100 {
				_, _ = p.AppendEntries(&raft.AppendEntriesRequest{}, &raft.AppendEntriesResponse{})
			}
		}()
		<-sent // or the bubble is deadlocked
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
}

// answering is a pipeline that answers, and blocks when nobody takes its answers.
type answering struct{ done chan raft.AppendFuture }

func (a *answering) AppendEntries(r *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	f := &simFuture{start: time.Now(), request: r, response: resp, done: make(chan struct{})}
	close(f.done)
	a.done <- f
	return f, nil
}

func (a *answering) Consumer() <-chan raft.AppendFuture { return a.done }
func (a *answering) Close() error                       { return nil }
