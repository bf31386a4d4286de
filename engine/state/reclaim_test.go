package state

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/job"
)

// What was cancelled and then dropped gives its room back, and what is pending
// beside it stays.
func TestReclaimGivesRoomBack(t *testing.T) {
	e := newEnded(t, Options{MemTableBytes: 8 << 20, YoungBytes: 1}) // all are in the disk queue
	noise := rand.NewChaCha8([32]byte{1})
	e.body = func(b []byte) { noise.Read(b) }
	var cancelled, kept []delivery.ID
	for n := range 2000 { // more than the base level takes, or Pebble would do it by the way
		id := e.add(delivery.Queued, false, 40<<10)
		if n%250 == 0 {
			kept = append(kept, id)
		} else {
			cancelled = append(cancelled, id)
		}
	}
	for ids := range slices.Chunk(cancelled, 64) {
		c := command.Control{Kind: job.Cancel, Account: 1, At: epoch.UnixMilli(), IDs: ids}
		e.apply(command.AppendControl(nil, &c))
	}
	e.apply(command.AppendTrim(nil, &command.Trim{Last: 1<<64 - 1, Accepted: epoch.UnixMilli() + dayMillis}))
	if err := e.state.Reclaim(context.Background()); err != nil {
		t.Fatal(err)
	}
	held := e.state.DiskBytes() // Pebble removes files some moments after it has let go of them
	for give := time.Now().Add(30 * time.Second); held > 2<<20 && time.Now().Before(give); held = e.state.DiskBytes() {
		<-time.After(2 * time.Millisecond)
	}
	if held > 2<<20 {
		t.Errorf("%d bytes are held for 400 KB that are pending", held)
	}
	for _, id := range kept {
		if !e.has(id) {
			t.Errorf("%s is gone", id)
		}
	}
}

// A range is halved until the halves are next to each other.
func TestBetween(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		keys := [2][]byte{make([]byte, 1+rng.IntN(30)), make([]byte, 1+rng.IntN(30))}
		for _, k := range keys {
			for i := range k {
				k[i] = byte(rng.IntN(3) * 127)
			}
		}
		lower, upper := keys[0], keys[1]
		switch bytes.Compare(lower, upper) {
		case 0:
			continue
		case 1:
			lower, upper = upper, lower
		}
		if m := between(lower, upper); m != nil && (bytes.Compare(m, lower) <= 0 || bytes.Compare(m, upper) >= 0) {
			t.Fatalf("between %x and %x: %x", lower, upper, m)
		}
	}
	if m := between([]byte{1, 0}, []byte{1, 200}); len(m) == 0 {
		t.Error("nothing between two keys that are far apart")
	}
}
