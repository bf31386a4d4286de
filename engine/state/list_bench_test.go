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

// BenchmarkList reads the newest page of an account with 200,000 finished
// deliveries; its cost must not depend on that number.
func BenchmarkList(b *testing.B) {
	s := openState(b, vfs.NewMem(), Options{MemTableBytes: 16 << 20, CacheBytes: 64 << 20})
	fillFinished(b, s, 200_000)
	b.ReportAllocs()
	for b.Loop() {
		page, err := s.List(1, &delivery.Filter{}, delivery.ID{}, 25)
		if err != nil || len(page.Deliveries) != 25 {
			b.Fatalf("%d deliveries, %v", len(page.Deliveries), err)
		}
	}
}

// BenchmarkListOfYoung reads the newest page of an account whose newest 10,000
// deliveries wait for their first attempt.
func BenchmarkListOfYoung(b *testing.B) {
	f := newTraffic(b)
	f.apply(b, f.accepts(b, 10_000, false))
	b.ReportAllocs()
	for b.Loop() {
		page, err := f.state.List(1, &delivery.Filter{}, delivery.ID{}, 25)
		if err != nil || len(page.Deliveries) != 25 {
			b.Fatalf("%d deliveries, %v", len(page.Deliveries), err)
		}
	}
}

// BenchmarkFinishAtOnce is what the state costs a delivery that ends with its
// first attempt: an accept and an attempt, in batches as the log makes them.
func BenchmarkFinishAtOnce(b *testing.B) {
	s := openState(b, vfs.NewMem(), Options{MemTableBytes: 64 << 20, CacheBytes: 64 << 20})
	b.ReportAllocs()
	b.ResetTimer()
	fillFinished(b, s, b.N)
}

// fillFinished applies n deliveries of account 1 that end at once.
func fillFinished(b testing.TB, s *State, n int) {
	a := account.Account{ID: 1, CreatedAt: epoch, Secrets: []account.Secret{{Text: "whsec_x", CreatedAt: epoch}}}
	k := account.Key{Account: 1, ID: 1}
	index := uint64(1)
	if err := s.Apply([]Entry{{Index: index, Command: command.AppendCreateAccount(nil, &a, &k)}}, nil); err != nil {
		b.Fatal(err)
	}
	const batch = 100
	rec := delivery.Record{
		Account: 1, Method: "POST", BodyBytes: 300,
		Target: delivery.Target{URL: "https://a.example/hook", Scheme: "https", Host: "a.example", Port: 443, URI: "/hook"},
		Policy: delivery.Policy{MaxAttempts: 5, Timeout: 10 * time.Second},
	}
	// Bodies of which compression saves half, as of JSON.
	noise := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	for done := 0; done < n; done += batch {
		var accepts, attempts []Entry
		for i := range min(batch, n-done) {
			rec.ID = delivery.MakeID(delivery.Sequence(epoch)+uint64(done+i), 7)
			rec.NotBefore = rec.ID.UnixMilli()
			body := make([]byte, 300)
			copy(body, noise[(done+i)*149%(len(noise)-150):][:150])
			rec.BodyCRC = delivery.BodyCRC(body)
			cmd := command.AppendAccept(nil, &command.Accept{Record: delivery.AppendRecord(nil, &rec), Body: body})
			accepts = append(accepts, Entry{Command: cmd})
			at := delivery.Attempt{
				Number: 1, Outcome: delivery.OutcomeDelivered, HTTPStatus: 200, Latency: time.Millisecond,
				StartedAt: epoch, CreatedAt: epoch, RemoteIP: "127.0.0.1",
			}
			c := command.Attempt{Account: 1, ID: rec.ID, Number: 1, Status: delivery.Delivered, UpdatedAt: epoch.UnixMilli()}
			attempts = append(attempts, Entry{Command: command.AppendAttempt(nil, &c, &at)})
		}
		for _, entries := range [][]Entry{accepts, attempts} {
			for i := range entries {
				index++
				entries[i].Index = index
			}
			if err := s.Apply(entries, nil); err != nil {
				b.Fatal(err)
			}
		}
	}
}
