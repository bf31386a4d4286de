package state

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/job"
)

// ended is deliveries of account 1 that ended as a test wants them to.
type ended struct {
	t     testing.TB
	state *State
	index uint64
	ids   []delivery.ID // in order
	body  func([]byte)  // fills a body; nil: zeros
}

func newEnded(t testing.TB, o Options) *ended {
	e := &ended{t: t, state: openState(t, vfs.NewMem(), o)}
	a := account.Account{ID: 1, CreatedAt: epoch, Secrets: []account.Secret{{Text: "whsec_x", CreatedAt: epoch}}}
	k := account.Key{Account: 1, ID: 1}
	e.apply(command.AppendCreateAccount(nil, &a, &k))
	return e
}

func (e *ended) apply(cmd ...[]byte) []Entry {
	e.t.Helper()
	var entries []Entry
	for _, c := range cmd {
		e.index++
		entries = append(entries, Entry{Index: e.index, Command: c})
	}
	if err := e.state.Apply(entries, nil); err != nil {
		e.t.Fatal(err)
	}
	return entries
}

// add makes a delivery that ends at once or, if it is late, a day after. Its
// body is kept beside the row if it is larger than the state keeps in there.
func (e *ended) add(st delivery.Status, late bool, bodyBytes int) delivery.ID {
	id := delivery.MakeID(delivery.Sequence(epoch)+uint64(len(e.ids)), 7)
	body := make([]byte, bodyBytes)
	if e.body != nil {
		e.body(body)
	}
	rec := delivery.Record{
		ID: id, NotBefore: id.UnixMilli(), Account: 1, Method: "POST", BodyBytes: bodyBytes, BodyCRC: delivery.BodyCRC(body),
		Target: delivery.Target{URL: "https://a.example/hook", Scheme: "https", Host: "a.example", Port: 443, URI: "/hook"},
		Policy: delivery.Policy{MaxAttempts: 1, Timeout: 10 * time.Second},
	}
	at := delivery.Attempt{Number: 1, Outcome: delivery.OutcomeFailed, HTTPStatus: 500, StartedAt: epoch, CreatedAt: epoch}
	c := command.Attempt{Account: 1, ID: id, Number: 1, Status: st, UpdatedAt: id.UnixMilli()}
	if late {
		c.UpdatedAt += dayMillis
	}
	e.apply(command.AppendAccept(nil, &command.Accept{Record: delivery.AppendRecord(nil, &rec), Body: body}))
	if st.Final() {
		e.apply(command.AppendAttempt(nil, &c, &at))
	}
	e.ids = append(e.ids, id)
	return id
}

// purge applies a command and returns how many deliveries it removed.
func (e *ended) purge(ids ...delivery.ID) int {
	e.t.Helper()
	c := command.Control{Kind: job.Purge, Account: 1, At: epoch.UnixMilli(), IDs: ids}
	return e.apply(command.AppendControl(nil, &c))[0].Effect.Changed
}

// has reports whether a delivery is there, with its body.
func (e *ended) has(id delivery.ID) bool {
	e.t.Helper()
	f, err := e.state.Find(1, id)
	if err == ErrNotFound {
		return false
	}
	if err == nil {
		_, err = e.state.Body(&f)
	}
	if err != nil {
		e.t.Errorf("%s is there, and not whole: %v", id, err)
	}
	return true
}

// Whatever lies where, a purge removes the dead letters that it names, and
// nothing else: not those between them, nor deliveries of another status, nor a
// body of theirs.
func TestPurgeRemovesWhatItNamesAndNothingElse(t *testing.T) {
	seeded(t, 20, func(t *testing.T, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 11))
		e := newEnded(t, Options{})
		there := map[delivery.ID]bool{}
		dead := map[delivery.ID]bool{}
		statuses := []delivery.Status{
			delivery.DeadLetter, delivery.DeadLetter, delivery.Rejected, delivery.Rejected, delivery.Delivered, delivery.Queued,
		}
		for range 300 {
			st := statuses[rng.IntN(len(statuses))]
			id := e.add(st, rng.IntN(5) == 0, []int{10, 2000}[rng.IntN(2)])
			there[id], dead[id] = true, st.Dead()
		}
		for range 6 {
			// A stretch, all of it or with gaps; some that have vanished already,
			// some twice, from the newest to the oldest.
			from := rng.IntN(len(e.ids))
			ids := slices.Clone(e.ids[from:min(len(e.ids), from+1+rng.IntN(150))])
			if rng.IntN(2) == 0 {
				ids = slices.DeleteFunc(ids, func(delivery.ID) bool { return rng.IntN(12) == 0 })
			}
			slices.Reverse(ids)
			want := 0
			for _, id := range ids {
				if there[id] && dead[id] {
					want++
					delete(there, id)
				}
			}
			if len(ids) > 0 && rng.IntN(3) == 0 {
				ids = append(ids, ids[rng.IntN(len(ids))])
			}
			if got := e.purge(ids...); got != want {
				t.Fatalf("%d purged, want %d", got, want)
			}
			for _, id := range e.ids {
				if got := e.has(id); got != there[id] {
					t.Fatalf("%s is there: %t, want %t", id, got, there[id])
				}
			}
		}
		left := 0 // bodies of what is gone
		for _, space := range []byte{spaceBody, spaceLateBody} {
			if err := e.state.scan([]byte{space}, []byte{space + 1}, func(key, _ []byte) error {
				var id delivery.ID
				copy(id[:], key[len(key)-len(id):])
				if !there[id] {
					left++
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		if left > 0 {
			t.Errorf("%d bodies are left of what was purged", left)
		}
	})
}

// Neighbours are removed by range: a tombstone for each status and one for the
// bodies, however many they are. One that stays makes it two ranges.
func TestPurgeOfNeighboursWritesNextToNothing(t *testing.T) {
	e := newEnded(t, Options{})
	for i := range 400 {
		e.add([...]delivery.Status{delivery.DeadLetter, delivery.Rejected}[i%2], false, 2000)
	}
	check := func(ids []delivery.ID, want uint32) {
		t.Helper()
		b := applying{Batch: e.state.db.NewBatch()}
		defer b.Close()
		n, err := e.state.purge(&b, &command.Control{Kind: job.Purge, Account: 1, IDs: ids})
		if err != nil || n != len(ids) {
			t.Fatalf("%d of %d purged, %v", n, len(ids), err)
		}
		if b.Count() != want {
			t.Errorf("%d records are written for %d dead letters, want %d", b.Count(), n, want)
		}
	}
	check(e.ids, 3)
	check(append(slices.Clone(e.ids[:200]), e.ids[201:]...), 6)
	check(e.ids[:4], 8) // too few for a range: a row and a body each
}

// BenchmarkPurge removes 100,000 dead letters in steps, as a job does.
func BenchmarkPurge(b *testing.B) {
	const n = 100_000
	for b.Loop() {
		b.StopTimer()
		e := newEnded(b, Options{MemTableBytes: 16 << 20, CacheBytes: 64 << 20})
		for range n {
			e.add(delivery.DeadLetter, false, 300)
		}
		if err := e.state.Flush(); err != nil {
			b.Fatal(err)
		}
		before := flushed(e.state.Metrics())
		b.StartTimer()
		for to := n; to > 0; to -= command.MostControlled {
			if got := e.purge(e.ids[to-command.MostControlled : to]...); got != command.MostControlled {
				b.Fatalf("%d purged", got)
			}
		}
		if err := e.state.Flush(); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(flushed(e.state.Metrics())-before), "flushed-bytes")
	}
}

// flushed is what memtables have written. Compactions are left out: how many
// run meanwhile is chance.
func flushed(m *pebble.Metrics) (n uint64) {
	for _, l := range m.Levels {
		n += l.TableBytesFlushed
	}
	return n
}
