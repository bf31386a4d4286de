package state

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/engine/delivery"
)

// A traffic makes entries as the engine hands them to Apply: accepts that carry
// their young delivery, and the attempts that come after.
type traffic struct {
	state *State
	index uint64
	made  uint64
	noise []byte
	keyed bool // the accepts have idempotency keys, see hashOf
}

// hashOf is what the nth delivery was accepted under.
func hashOf(n uint64) (hash [16]byte) {
	binary.BigEndian.PutUint64(hash[:], n*0x9e3779b97f4a7c15) // as scattered as a hash is
	return hash
}

// newTraffic begins with an account, in a state whose memtables are as large as
// in production.
func newTraffic(t testing.TB) *traffic {
	f := &traffic{state: openState(t, vfs.NewMem(), Options{MemTableBytes: 64 << 20, CacheBytes: 64 << 20}), noise: make([]byte, 1<<20)}
	rand.NewChaCha8([32]byte{1}).Read(f.noise)
	a := account.Account{ID: 1, CreatedAt: epoch, Secrets: []account.Secret{{Text: "whsec_x", CreatedAt: epoch}}}
	f.apply(t, []Entry{{Command: command.AppendCreateAccount(nil, &a, &account.Key{Account: 1, ID: 1})}})
	return f
}

// apply gives the entries their places in the log and applies them as one frame.
func (f *traffic) apply(t testing.TB, entries []Entry) {
	for i := range entries {
		f.index++
		entries[i].Index = f.index
	}
	if err := f.state.Apply(entries, nil); err != nil {
		t.Fatal(err)
	}
	for i := range entries {
		if entries[i].Ignored {
			t.Fatalf("entry %d of %d changed nothing", i, len(entries))
		}
	}
}

// accepts are n sends of 300 bytes, of which compression saves half, as of JSON.
// Those that are stored go to the disk queue at once.
func (f *traffic) accepts(t testing.TB, n int, stored bool) []Entry {
	entries := make([]Entry, n)
	rec := delivery.Record{
		Account: 1, Method: "POST", BodyBytes: 300,
		Target:  delivery.Target{URL: "https://a.example/hook", Scheme: "https", Host: "a.example", Port: 443, URI: "/hook"},
		Headers: []delivery.Header{{Name: "Content-Type", Value: "application/json"}},
		Policy:  delivery.Policy{MaxAttempts: 5, Timeout: 10 * time.Second},
	}
	for i := range entries {
		rec.ID = delivery.MakeID(delivery.Sequence(epoch)+f.made, 7)
		rec.NotBefore = rec.ID.UnixMilli()
		body := make([]byte, 300)
		copy(body, f.noise[f.made*149%(1<<20-150):][:150])
		rec.BodyCRC = delivery.BodyCRC(body)
		cmd := command.AppendAccept(nil, &command.Accept{
			Stored: stored, Destination: rec.Destination(), Idempotent: f.keyed, Hash: hashOf(f.made),
			Record: delivery.AppendRecord(nil, &rec), Body: body,
		})
		f.made++
		_, r, err := command.Parse(cmd)
		if err != nil {
			t.Fatal(err)
		}
		a, err := command.ReadAccept(&r)
		if err != nil {
			t.Fatal(err)
		}
		entries[i] = Entry{Command: cmd, Young: NewYoung(rec.ID, 1, rec.NotBefore, a)}
	}
	return entries
}

// attempts are the records of an attempt of each delivery that was accepted.
func attempts(accepts []Entry, number int, status delivery.Status) []Entry {
	at := delivery.Attempt{
		Number: number, Outcome: delivery.OutcomeDelivered, HTTPStatus: 200, Latency: time.Millisecond,
		StartedAt: epoch, CreatedAt: epoch, RemoteIP: "127.0.0.1",
	}
	c := command.Attempt{Account: 1, Number: number, Status: status, UpdatedAt: epoch.UnixMilli()}
	if status == delivery.Retrying {
		at.Outcome, at.HTTPStatus, at.Error = delivery.OutcomeFailed, 503, "http_status: 503 Service Unavailable"
		at.NextAttemptAt = epoch.Add(time.Minute)
		c.NextDue = at.NextAttemptAt.UnixMilli()
	}
	entries := make([]Entry, len(accepts))
	for i := range accepts {
		c.ID = accepts[i].Young.ID
		entries[i] = Entry{Command: command.AppendAttempt(nil, &c, &at)}
	}
	return entries
}

// BenchmarkApply is what the state costs, per frame; ns/delivery is what to
// compare. How the entries are made is not counted.
func BenchmarkApply(b *testing.B) {
	for _, n := range []int{1, 100, 1000} {
		// A delivery that ends with its first attempt: a frame with its accept, one
		// with its attempt.
		b.Run(fmt.Sprintf("finished-at-once/frame=%d", n), func(b *testing.B) {
			benchApply(b, n, func(f *traffic) [][]Entry {
				accepts := f.accepts(b, n, false)
				return [][]Entry{accepts, attempts(accepts, 1, delivery.Delivered)}
			})
		})
	}
	// A delivery whose first attempt is far off.
	b.Run("stays-pending/frame=100", func(b *testing.B) {
		benchApply(b, 100, func(f *traffic) [][]Entry { return [][]Entry{f.accepts(b, 100, true)} })
	})
	// A delivery whose first attempt fails.
	b.Run("fails-first/frame=100", func(b *testing.B) {
		benchApply(b, 100, func(f *traffic) [][]Entry {
			accepts := f.accepts(b, 100, false)
			return [][]Entry{accepts, attempts(accepts, 1, delivery.Retrying)}
		})
	})
	// The second attempt of a delivery in the disk queue, which fails as well.
	b.Run("retry/frame=100", func(b *testing.B) {
		benchApply(b, 100, func(f *traffic) [][]Entry {
			accepts := f.accepts(b, 100, false)
			f.apply(b, accepts)
			f.apply(b, attempts(accepts, 1, delivery.Retrying))
			return [][]Entry{attempts(accepts, 2, delivery.Retrying)}
		})
	})
	// A frame as under load: accepts, between them the attempts of what the frame
	// before accepted.
	b.Run("mixed/frame=1000", func(b *testing.B) {
		var before []Entry
		benchApply(b, 500, func(f *traffic) [][]Entry {
			accepts := f.accepts(b, 500, false)
			frame := mixed(accepts, attempts(before, 1, delivery.Delivered))
			before = accepts
			return [][]Entry{frame}
		})
	})
}

func mixed(accepts, attempts []Entry) (frame []Entry) {
	for i := range accepts {
		frame = append(frame, accepts[i])
		if i < len(attempts) {
			frame = append(frame, attempts[i])
		}
	}
	return frame
}

// benchApply applies what make makes of n deliveries.
func benchApply(b *testing.B, n int, make func(*traffic) [][]Entry) {
	f := newTraffic(b)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		frames := make(f)
		b.StartTimer()
		for _, frame := range frames {
			f.apply(b, frame)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/delivery")
}

// BenchmarkFindPending reads what an attempt is made of: of a delivery in memory,
// and of one in the disk queue.
func BenchmarkFindPending(b *testing.B) {
	for name, stored := range map[string]bool{"young": false, "stored": true} {
		b.Run(name, func(b *testing.B) {
			f := newTraffic(b)
			accepts := f.accepts(b, 10_000, stored)
			f.apply(b, accepts)
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				id := accepts[n*7919%len(accepts)].Young.ID
				if _, body, err := f.state.FindPending(1, id, 1); err != nil || len(body) != 300 {
					b.Fatal(len(body), err)
				}
				n++
			}
		})
	}
}

// BenchmarkIdempotent looks for a key beside 200,000 others, which most sends do
// not find, and finds one.
func BenchmarkIdempotent(b *testing.B) {
	f := newTraffic(b)
	f.keyed = true
	const n = 200_000
	for range n / 1000 {
		accepts := f.accepts(b, 1000, false)
		f.apply(b, accepts)
		f.apply(b, attempts(accepts, 1, delivery.Delivered))
	}
	if err := f.state.Flush(); err != nil {
		b.Fatal(err)
	}
	for name, first := range map[string]uint64{"miss": n, "hit": 0} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := uint64(0); b.Loop(); i++ {
				_, found, err := f.state.Idempotent(1, hashOf(first+i*7919%n), epoch.Add(time.Second), 24*time.Hour)
				if err != nil || found != (first == 0) {
					b.Fatal(found, err)
				}
			}
		})
	}
}

// What applying costs in allocations: a dozen for two frames, and for a delivery
// that ends at once none. The bounds leave room for a map that grows.
func TestApplyAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool drop what it is given")
	}
	const runs, n = 50, 100
	for name, c := range map[string]struct {
		status delivery.Status
		most   float64 // for two frames of 100
	}{
		"finished at once": {delivery.Delivered, 20},
		"fails first":      {delivery.Retrying, 120}, // the row, which the rest of the batch may ask for
	} {
		f := newTraffic(t)
		var frames [][]Entry
		for range 2 * runs {
			accepts := f.accepts(t, n, false)
			frames = append(frames, accepts, attempts(accepts, 1, c.status))
		}
		next := func() {
			f.apply(t, frames[0])
			f.apply(t, frames[1])
			frames = frames[2:]
		}
		for range runs - 1 { // maps and buffers grow
			next()
		}
		if got := testing.AllocsPerRun(runs, next); got > c.most {
			t.Errorf("%s: %.0f allocations for %d deliveries, want at most %.0f", name, got, n, c.most)
		}
	}
}
