package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/harepost/harepost/client"
)

const (
	// batchSenders is how many batches of a filler are under way at once.
	batchSenders = 4
	// batchSends is how many sends one of them has.
	batchSends = 1000
	// fillPayload is the size of their payloads.
	fillPayload = 300
)

// A filler makes a number of sends by the batch API, as fast as it is let, and
// sends again what was refused for now.
type filler struct {
	client *client.Client
	run    uint32 // of the marks
	target string
	count  int

	next      atomic.Int64 // sequence number of the next batch's first send
	accepted  atomic.Uint64
	refused   atomic.Uint64
	marks     *sequenceSet // of what was accepted
	latencies *latencyRecorder
	half      atomic.Pointer[time.Time] // when half was accepted

	began moment
	took  time.Duration
}

func newFiller(c *client.Client, run uint32, target string, count int) *filler {
	return &filler{client: c, run: run, target: target, count: count, marks: newSequenceSet(), latencies: newLatencyRecorder()}
}

// fill returns when all sends are accepted, or one failed.
func (f *filler) fill(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f.began = now()
	errs := make(chan error, batchSenders)
	var sending sync.WaitGroup
	for range batchSenders {
		sending.Go(func() {
			if err := f.send(ctx); err != nil {
				errs <- err
				cancel()
			}
		})
	}
	sending.Wait()
	f.took = now().sub(f.began)
	close(errs)
	if err, failed := <-errs; failed { // the first, of which the others follow
		return fmt.Errorf("fill: %w", err)
	}
	return nil
}

// send takes batches until there are none.
func (f *filler) send(ctx context.Context) error {
	for {
		first := int(f.next.Add(batchSends)) - batchSends
		if first >= f.count {
			return nil
		}
		left := make([]uint32, 0, batchSends)
		for n := first; n < min(first+batchSends, f.count); n++ {
			left = append(left, uint32(n))
		}
		for len(left) > 0 {
			var err error
			if left, err = f.try(ctx, left); err != nil {
				return err
			}
		}
	}
}

// try posts one batch. What was refused for now is returned, after as long as
// that asks for.
func (f *filler) try(ctx context.Context, sends []uint32) (left []uint32, err error) {
	began := now()
	results, err := f.client.SendLines(ctx, f.lines(sends))
	if wait, refused := refusedFor(err); refused {
		f.refused.Add(uint64(len(sends)))
		return sends, pause(ctx, wait)
	}
	if err != nil {
		return nil, err
	}
	f.latencies.record(sends[0], now().sub(began))
	var longest time.Duration
	for i, r := range results {
		wait, refused := refusedFor(r.Err)
		switch {
		case refused:
			f.refused.Add(1)
			left = append(left, sends[i])
			longest = max(longest, wait)
		case r.Err != nil:
			return nil, r.Err
		default:
			f.accept(sends[i])
		}
	}
	if len(left) > 0 {
		err = pause(ctx, longest)
	}
	return left, err
}

// refusedFor is how long to wait after a refusal; false for any other error, or
// none.
func refusedFor(err error) (time.Duration, bool) {
	e, ok := errors.AsType[*client.Error](err)
	if !ok || e.Status != http.StatusServiceUnavailable && e.Status != http.StatusTooManyRequests {
		return 0, false
	}
	return max(e.RetryAfter, refusedPause), true
}

func (f *filler) accept(n uint32) {
	f.marks.add(n)
	if f.accepted.Add(1) == uint64(f.count+1)/2 {
		at := time.Now()
		f.half.Store(&at)
	}
}

func (f *filler) lines(sends []uint32) []byte {
	b := make([]byte, 0, len(sends)*(fillPayload+128))
	for _, n := range sends {
		b = fmt.Appendf(b, `{"target":%q,"body":`, f.target)
		b = appendPayload(b, fillPayload, mark{Run: f.run, Sequence: n, SentAt: now()})
		b = append(b, "}\n"...)
	}
	return b
}

// generating is how far it is.
func (f *filler) generating() Generating {
	return Generating{At: now(), Attempted: uint64(f.count), Accepted: f.accepted.Load(), Refused: f.refused.Load()}
}

// generated is what it did, once fill has returned. Latencies are those of whole
// batches.
func (f *filler) generated() Generated {
	accepted := f.accepted.Load()
	return Generated{
		Attempted: uint64(f.count), Accepted: accepted, Refused: f.refused.Load(),
		PayloadBytes:     accepted * fillPayload,
		MeasuredAccepted: accepted,
		MeasuredTime:     f.took,
		Began:            f.began,
		AnswerLatency:    f.latencies.distribution(),
		AcceptedMarks:    f.marks.export(),
	}
}

// sendUntilTaken sends the sends from first up to end as a batch, and again and
// again what of it was refused: at once where single ones were, and after what a
// 503 asks for, at least the least pause, where the whole was. appendLine appends
// a send's line.
func sendUntilTaken(ctx context.Context, c *client.Client, first, end int, least time.Duration, appendLine func(b []byte, n uint32) []byte) error {
	left := make([]uint32, 0, end-first)
	for n := first; n < end; n++ {
		left = append(left, uint32(n))
	}
	for len(left) > 0 {
		var b []byte
		for _, n := range left {
			b = appendLine(b, n)
		}
		results, err := c.SendLines(ctx, b)
		var refused *client.Error
		switch {
		case errors.As(err, &refused) && refused.Status == http.StatusServiceUnavailable:
			if err := pause(ctx, max(refused.RetryAfter, least)); err != nil {
				return err
			}
			continue
		case err != nil:
			return err
		}
		again := left[:0]
		for i, r := range results {
			if r.Err != nil {
				again = append(again, left[i])
			}
		}
		left = again
	}
	return nil
}
