package engine

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/harepost/harepost/engine/seal"
	"github.com/harepost/harepost/engine/state"
)

// rawReceiver is a target on loopback that answers 200 to every read and
// allocates nothing while it does: what is counted or profiled beside it is the
// engine's. A small request is one write, and so one read. It is counted before it
// is answered, so that what is recorded is also counted.
func rawReceiver(t testing.TB) (target Target, received *atomic.Int64) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	received = new(atomic.Int64)
	reply := []byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close()
				for buf := make([]byte, 16<<10); ; {
					if _, err := c.Read(buf); err != nil {
						return
					}
					received.Add(1)
					if _, err := c.Write(reply); err != nil {
						return
					}
				}
			})
		}
	})
	// The engine and its transport, which are closed before, end the connections.
	t.Cleanup(func() { ln.Close(); running.Wait() })
	return targetOf(t, "http://"+ln.Addr().String()+"/v1/orders"), received
}

// benchBody is 300 bytes of JSON.
func benchBody() string {
	const head = `{"id":"ord_123","event":"order.paid","amount":4200,"currency":"EUR","note":"`
	return head + strings.Repeat("n", 300-len(head)-2) + `"}`
}

// benchOptions are as in production where that matters to the hot path: a log
// and memtables large enough that neither ends while a benchmark runs.
func benchOptions(t testing.TB) Options {
	o := testOptions(t, vfs.NewMem())
	o.LogSegmentBytes = 64 << 20
	o.State = state.Options{CacheBytes: 64 << 20, MemTableBytes: 64 << 20}
	return o
}

func benchKeyring(t testing.TB) *seal.Keyring {
	line, err := seal.NewKeyLine(rand.Reader, "k1")
	if err != nil {
		t.Fatal(err)
	}
	k, err := seal.ParseKeyring([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// BenchmarkDelivery is the whole way of a delivery but the API and the disk: send,
// log, apply, attempt, record; with as many senders as wait for receipts. The
// receiver's share is in the time and not in the allocations.
func BenchmarkDelivery(b *testing.B) {
	for name, c := range map[string]struct{ sign, keyed, sealed, ordered bool }{
		"plain":  {},
		"signed": {sign: true},
		"keyed":  {keyed: true}, // each with an idempotency key of its own
		"sealed": {sealed: true},
		// Each sender with an ordering key of its own: up to 64 are under way at once.
		"ordered": {ordered: true},
	} {
		b.Run(name, func(b *testing.B) {
			target, _ := rawReceiver(b)
			o := benchOptions(b)
			if c.sealed {
				o.Keyring = benchKeyring(b)
			}
			e := openEngine(b, o)
			a := newAccount(b, e)
			s := sendTo(target, benchBody())
			s.Sign = c.sign
			if c.ordered {
				s.OrderingKey = "customer"
			}
			s.Headers = []Header{{Name: "Content-Type", Value: "application/json"}}
			var keys []string
			if c.keyed {
				for n := range 2000 + b.N {
					keys = append(keys, fmt.Sprintf("ord_%d-paid", n))
				}
			}
			sendMany(b, e, a, s, keys, 2000, 64)
			b.ReportAllocs()
			b.ResetTimer()
			sendMany(b, e, a, s, keys[min(2000, len(keys)):], b.N, 64)
		})
	}
}

// sendMany sends s n times, under one key after the other if there are any, from
// a number of senders at once, and waits until everything is delivered.
func sendMany(t testing.TB, e *Engine, a AccountID, s *Send, keys []string, n, senders int) {
	var sent atomic.Int64
	var wg sync.WaitGroup
	for sender := range senders {
		own := *s
		if s.OrderingKey != "" {
			own.OrderingKey = fmt.Sprint(s.OrderingKey, "_", sender)
		}
		wg.Go(func() {
			for i := int(sent.Add(1)); i <= n; i = int(sent.Add(1)) {
				if len(keys) > 0 {
					own.IdempotencyKey = keys[i-1]
				}
				if _, err := e.Send(context.Background(), a, &own); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	awaitCondition(t, "everything is delivered", func() bool { return e.state().Pending() == 0 })
}

// What a delivery allocates from Send to the record of its attempt, in all of the
// engine's rooms together. On a disk that syncs at once almost every command has a
// frame of its own, and three or four of these are that frame's; beside a real one
// they are shared.
func TestDeliveryAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool drop what it is given")
	}
	const n = 1000
	for name, c := range map[string]struct {
		sign bool
		most float64
	}{
		"plain":  {false, 19},
		"signed": {true, 21},
	} {
		target, received := rawReceiver(t)
		e := openEngine(t, benchOptions(t))
		a := newAccount(t, e)
		s := sendTo(target, benchBody())
		s.Sign = c.sign
		s.Headers = []Header{{Name: "Content-Type", Value: "application/json"}}
		sendMany(t, e, a, s, nil, 2*n, 256) // connections, workers, pools and maps
		before := received.Load()
		got := testing.AllocsPerRun(5, func() { sendMany(t, e, a, s, nil, n, 256) }) / n
		if more := received.Load() - before; more != 6*n { // and once to warm up
			t.Errorf("%s: %d requests were received, not %d", name, more, 6*n)
		}
		if got > c.most {
			t.Errorf("%s: %.1f allocations a delivery, want at most %.0f", name, got, c.most)
		}
	}
}
