package state

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/engine/delivery"
)

// loaded is how many bytes of blocks Pebble's iterators have loaded, from disk or
// cache; not those of flushes and compactions.
func (s *State) loaded() (n uint64) {
	for _, c := range s.Metrics().CategoryStats {
		if c.Category == 0 {
			n += c.CategoryStats.BlockBytes
		}
	}
	return n
}

// fillEnded applies n deliveries of account 1 that end at once, of which one in
// rare is rejected.
func fillEnded(t *testing.T, s *State, n, rare int) {
	a := account.Account{ID: 1, CreatedAt: epoch, Secrets: []account.Secret{{Text: "whsec_x", CreatedAt: epoch}}}
	k := account.Key{Account: 1, ID: 1}
	entries := []Entry{{Command: command.AppendCreateAccount(nil, &a, &k)}}
	rec := delivery.Record{
		Account: 1, Method: "POST", BodyBytes: 400,
		Target: delivery.Target{URL: "https://a.example/hook", Scheme: "https", Host: "a.example", Port: 443, URI: "/hook"},
		Policy: delivery.Policy{MaxAttempts: 5, Timeout: 10 * time.Second},
	}
	body := make([]byte, 400) // beside it nothing of a row stays in a compressed block
	noise := rand.NewChaCha8([32]byte{})
	apply := func() {
		for i := range entries {
			entries[i].Index = s.Applied() + 1 + uint64(i)
		}
		if err := s.Apply(entries, nil); err != nil {
			t.Fatal(err)
		}
		entries = entries[:0]
	}
	apply()
	for i := range n {
		rec.ID = delivery.MakeID(delivery.Sequence(epoch)+uint64(i), 7)
		rec.NotBefore = rec.ID.UnixMilli()
		_, _ = noise.Read(body)
		rec.BodyCRC = delivery.BodyCRC(body)
		at := delivery.Attempt{Number: 1, Outcome: delivery.OutcomeDelivered, HTTPStatus: 200, StartedAt: epoch, CreatedAt: epoch}
		c := command.Attempt{Account: 1, ID: rec.ID, Number: 1, Status: delivery.Delivered, UpdatedAt: epoch.UnixMilli()}
		if i%rare == 0 {
			at.Outcome, c.Status = delivery.OutcomeRejected, delivery.Rejected
		}
		entries = append(entries,
			Entry{Command: command.AppendAccept(nil, &command.Accept{Record: delivery.AppendRecord(nil, &rec), Body: body})},
			Entry{Command: command.AppendAttempt(nil, &c, &at)})
		if len(entries) >= 500 {
			apply()
		}
	}
	apply()
}

// A page costs what it returns: for a page of 25, of all or of one status, from
// the newest on or from an older one on, Pebble loads a few blocks, of 100,000
// deliveries as of 1,000.
func TestAPageCostsWhatItReturns(t *testing.T) {
	pages := []struct {
		name   string
		filter delivery.Filter
		most   uint64 // bytes: a few blocks of 32 KiB for each status, and for each of up to four sublevels
	}{
		{"all", delivery.Filter{}, 768 << 10},
		{"delivered", delivery.Filter{Status: delivery.Delivered}, 256 << 10},
		{"rejected, which few are", delivery.Filter{Status: delivery.Rejected}, 256 << 10},
		{"pending, which none is", delivery.Filter{Pending: true}, 256 << 10},
	}
	const few, many = 1000, 100_000
	for _, n := range []int{few, many} {
		s := openState(t, vfs.NewMem(), Options{MemTableBytes: 4 << 20, CacheBytes: 64 << 20})
		fillEnded(t, s, n, 30)
		if err := s.Flush(); err != nil { // rows in memory are not counted
			t.Fatal(err)
		}
		s.waitQuiet(t)
		older := delivery.MakeID(delivery.Sequence(epoch)+uint64(n*9/10), 7)
		for _, p := range pages {
			for where, after := range map[string]delivery.ID{"the newest": {}, "older ones": older} {
				before := s.loaded()
				page, err := s.List(1, &p.filter, after, 25)
				if err != nil || !p.filter.Pending && len(page.Deliveries) != 25 {
					t.Fatalf("%s, %s: %d deliveries, %v", p.name, where, len(page.Deliveries), err)
				}
				if cost := s.loaded() - before; cost == 0 && !p.filter.Pending || cost > p.most {
					t.Errorf("a page of %s, %s, of %d deliveries loads %d bytes of blocks, want up to %d: it costs more than it returns",
						p.name, where, n, cost, p.most)
				}
			}
		}
	}
}
