package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/harepost/harepost/client"
)

// A batchServer takes batches: a send to "bad" is refused, any other gets an id
// that tells its target. Every request takes a second.
type batchServer struct {
	mu      sync.Mutex
	batches [][]string // targets
	at      []time.Duration
	bytes   []int
	begin   time.Time
	busy    int // requests under way
	most    int // of them at once
	limit   int // bytes of a request, where something in front lets less through; 0: any
}

func (s *batchServer) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	if s.limit > 0 && len(body) > s.limit {
		return &http.Response{StatusCode: 413, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("<html>"))}, nil
	}
	var targets, results []string
	for line := range strings.Lines(string(body)) {
		var send struct{ Target string }
		if err := json.Unmarshal([]byte(line), &send); err != nil {
			return nil, err
		}
		targets = append(targets, send.Target)
		if send.Target == "bad" {
			results = append(results, `{"error":"invalid target","status":400}`)
		} else {
			results = append(results, `{"queue_id":"hr_`+send.Target+`"}`)
		}
	}
	s.enter(targets, len(body))
	defer s.leave()
	select {
	case <-time.After(time.Second):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	answer := `{"results":[` + strings.Join(results, ",") + `]}`
	return &http.Response{StatusCode: 202, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(answer))}, nil
}

func (s *batchServer) enter(targets []string, bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.batches, s.bytes, s.at = append(s.batches, targets), append(s.bytes, bytes), append(s.at, time.Since(s.begin))
	s.busy++
	s.most = max(s.most, s.busy)
}

func (s *batchServer) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy--
}

// batching runs a test in a bubble with a batcher, which is closed at its end.
func batching(t *testing.T, o client.BatcherOptions, run func(*testing.T, *client.Batcher, *batchServer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &batchServer{begin: time.Now()}
		c, err := client.New("https://harepost.example", "k", client.Options{HTTPClient: &http.Client{Transport: s}})
		if err != nil {
			t.Fatal(err)
		}
		b, err := c.NewBatcher(o)
		if err != nil {
			t.Fatal(err)
		}
		run(t, b, s)
		if err := b.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// sendAll sends to each target from a goroutine of its own and returns how each
// ended, in order.
func sendAll(ctx context.Context, b *client.Batcher, targets ...string) func() []error {
	errs := make([]error, len(targets))
	var all sync.WaitGroup
	for i, target := range targets {
		all.Go(func() {
			r, err := b.Send(ctx, client.Send{Target: target})
			if err == nil && r.QueueID != "hr_"+target {
				err = fmt.Errorf("%s got the result %s", target, r.QueueID)
			}
			errs[i] = err
		})
	}
	return func() []error { all.Wait(); return errs }
}

func numbers(n int) []string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprint(i))
	}
	return list
}

func TestConcurrentSendsShareARequest(t *testing.T) {
	batching(t, client.BatcherOptions{MaxLinger: 10 * time.Millisecond}, func(t *testing.T, b *client.Batcher, s *batchServer) {
		for i, err := range sendAll(t.Context(), b, "a", "bad", "c")() {
			if (i == 1) != errors.Is(err, client.ErrInvalid) || i != 1 && err != nil {
				t.Errorf("send %d: %v", i, err)
			}
		}
		if len(s.batches) != 1 || len(s.batches[0]) != 3 || s.at[0] != 10*time.Millisecond {
			t.Errorf("batches %v at %v", s.batches, s.at)
		}
	})
}

func TestAFullBatchDoesNotLinger(t *testing.T) {
	batching(t, client.BatcherOptions{MaxSends: 2, MaxLinger: time.Hour}, func(t *testing.T, b *client.Batcher, s *batchServer) {
		for _, err := range sendAll(t.Context(), b, numbers(4)...)() {
			if err != nil {
				t.Error(err)
			}
		}
		if len(s.batches) != 2 || s.at[0] != 0 || s.at[1] != 0 {
			t.Errorf("batches %v at %v", s.batches, s.at)
		}
	})
}

func TestABatchHasItsBytes(t *testing.T) {
	const most = 100 // three sends of 23 bytes each, and no fifth
	batching(t, client.BatcherOptions{MaxBytes: most, MaxLinger: time.Millisecond}, func(t *testing.T, b *client.Batcher, s *batchServer) {
		targets := numbers(40)
		targets = append(targets, strings.Repeat("x", 2*most)) // larger than a batch: alone
		for _, err := range sendAll(t.Context(), b, targets...)() {
			if err != nil {
				t.Error(err)
			}
		}
		for i, n := range s.bytes {
			if n > most && len(s.batches[i]) > 1 {
				t.Errorf("a batch of %d sends and %d bytes", len(s.batches[i]), n)
			}
		}
		if len(s.batches) > 15 {
			t.Errorf("%d batches for 41 sends", len(s.batches))
		}
	})
}

// While all requests are busy, what comes gathers in one batch.
func TestBatchesGrowWhileRequestsAreBusy(t *testing.T) {
	batching(t, client.BatcherOptions{MaxLinger: time.Millisecond, Requests: 1}, func(t *testing.T, b *client.Batcher, s *batchServer) {
		first := sendAll(t.Context(), b, "first")
		<-time.After(100 * time.Millisecond)
		var rest []func() []error
		for i := range 10 {
			rest = append(rest, sendAll(t.Context(), b, fmt.Sprint(i)))
			<-time.After(50 * time.Millisecond)
		}
		for _, wait := range append(rest, first) {
			if err := wait()[0]; err != nil {
				t.Error(err)
			}
		}
		if len(s.batches) != 2 || len(s.batches[1]) != 10 || s.most != 1 {
			t.Errorf("batches %v, %d at once", s.batches, s.most)
		}
	})
}

func TestWaitingSendsAreBounded(t *testing.T) {
	o := client.BatcherOptions{MaxSends: 1, Requests: 1, MaxWaiting: 2}
	batching(t, o, func(t *testing.T, b *client.Batcher, s *batchServer) {
		two := sendAll(t.Context(), b, "a", "b")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if _, err := b.Send(ctx, client.Send{Target: "c"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a third: %v", err)
		}
		for _, err := range two() {
			if err != nil {
				t.Error(err)
			}
		}
		if len(s.batches) != 2 {
			t.Errorf("batches %v", s.batches)
		}
	})
}

func TestASendWhoseContextEndsEarlyIsTakenBack(t *testing.T) {
	batching(t, client.BatcherOptions{MaxLinger: time.Second}, func(t *testing.T, b *client.Batcher, s *batchServer) {
		ctx, cancel := context.WithCancel(t.Context())
		gone, stays := sendAll(ctx, b, "gone"), sendAll(t.Context(), b, "stays")
		synctest.Wait()
		cancel()
		if err := gone()[0]; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if err := stays()[0]; err != nil {
			t.Error(err)
		}
		if len(s.batches) != 1 || len(s.batches[0]) != 1 || s.batches[0][0] != "stays" {
			t.Errorf("batches %v", s.batches)
		}
	})
}

func TestCloseSendsWhatIsGathered(t *testing.T) {
	batching(t, client.BatcherOptions{MaxLinger: time.Hour, Requests: 1, MaxSends: 3}, func(t *testing.T, b *client.Batcher, s *batchServer) {
		wait := sendAll(t.Context(), b, numbers(8)...)
		synctest.Wait()
		if err := b.Close(t.Context()); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if len(s.batches) != 3 || time.Since(s.begin) != 3*time.Second {
			t.Errorf("closed after %v with %v", time.Since(s.begin), s.batches)
		}
		for _, err := range wait() {
			if err != nil {
				t.Error(err)
			}
		}
		if _, err := b.Send(t.Context(), client.Send{Target: "late"}); !errors.Is(err, client.ErrBatcherClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

func TestCloseCutsOffWhenItsContextEnds(t *testing.T) {
	batching(t, client.BatcherOptions{MaxSends: 1, Requests: 1}, func(t *testing.T, b *client.Batcher, s *batchServer) {
		wait := sendAll(t.Context(), b, "a", "b")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if err := b.Close(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(s.begin) != 300*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(s.begin))
		}
		for _, err := range wait() {
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
	})
}

// Who shares a batch with a send that is told to come back later does not wait
// for it.
func TestARepeatedSendDoesNotHoldUpItsCompany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scripted(t, client.Options{Retries: 1},
			answer{202, "", `{"results":[` + accepted + `,{"error":"rate limit exceeded","status":429,"retry_after":10}]}`},
			answer{202, "", `{"results":[{"queue_id":"hr_2","status":"queued"}]}`})
		b, err := c.NewBatcher(client.BatcherOptions{MaxSends: 2, MaxLinger: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		took := make(chan time.Duration, 2)
		for range 2 {
			go func() {
				if _, err := b.Send(t.Context(), client.Send{Target: "t", IdempotencyKey: "k"}); err != nil {
					t.Error(err)
				}
				took <- time.Since(s.begin)
			}()
		}
		if first, second := <-took, <-took; first != 0 || second < 10*time.Second || second > 11*time.Second {
			t.Errorf("answered after %v and %v", first, second)
		}
		if err := b.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestABatchWithoutAnAnswerFailsForAllItsSends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := scripted(t, client.Options{}, lost)
		b, err := c.NewBatcher(client.BatcherOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range sendAll(t.Context(), b, "a", "b")() {
			if err == nil {
				t.Error("no error")
			}
		}
		if err := b.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// What is too large together is not too large: nobody pays for the company that
// he got. Only a send that is too large alone is refused.
func TestABatchThatIsTooLargeGoesOutInHalves(t *testing.T) {
	batching(t, client.BatcherOptions{}, func(t *testing.T, b *client.Batcher, s *batchServer) {
		s.limit = 60 // a send here has some 15 bytes
		huge := strings.Repeat("x", 100)
		targets := []string{"a", "b", "c", huge, "d", "bad", "e", "f", "g"}
		for i, err := range sendAll(t.Context(), b, targets...)() {
			switch targets[i] {
			case huge:
				if !errors.Is(err, client.ErrTooLarge) {
					t.Errorf("the huge one: %v", err)
				}
			case "bad":
				if !errors.Is(err, client.ErrInvalid) {
					t.Errorf("the bad one: %v", err)
				}
			default:
				if err != nil {
					t.Errorf("%s: %v", targets[i], err)
				}
			}
		}
		sent := 0
		for _, batch := range s.batches {
			sent += len(batch)
		}
		if sent != len(targets)-1 {
			t.Errorf("requests %q", s.batches)
		}
	})
}

func TestBatcherOptionsAreChecked(t *testing.T) {
	c, _ := scripted(t, client.Options{})
	for _, o := range []client.BatcherOptions{
		{MaxSends: -1}, {MaxSends: 10_001}, {MaxBytes: -1}, {MaxBytes: 16<<20 + 1}, {MaxLinger: -1}, {Requests: -1}, {MaxWaiting: -1},
	} {
		if _, err := c.NewBatcher(o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}
