package torture

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
)

const (
	// floods is how many batches are under way at once, of floodSends each.
	floods     = 4
	floodSends = 250
)

// flood makes n sends with keys, of bodies of that size, as fast as they are accepted,
// and returns when all are acknowledged.
func (l *load) flood(ctx context.Context, n, size int) error {
	batches := make(chan int)
	errs := make([]error, floods)
	var workers sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for i := range floods {
		workers.Go(func() {
			for sends := range batches {
				if errs[i] = l.batch(ctx, sends, size); errs[i] != nil {
					cancel()
					return
				}
			}
		})
	}
	for ; n > 0 && ctx.Err() == nil; n -= floodSends {
		select {
		case batches <- min(n, floodSends):
		case <-ctx.Done():
		}
	}
	close(batches)
	workers.Wait()
	return errors.Join(append(errs, context.Cause(ctx))...)
}

// batch makes n sends in one request, and those that were not accepted again, at the
// next node.
func (l *load) batch(ctx context.Context, n, size int) error {
	open := map[int][]byte{} // what is to be accepted still, by number
	for range n {
		number, ok := l.ledger.send()
		if !ok {
			return errors.New("torture: the ledger is full")
		}
		open[number] = l.request(number, true, largeBody(number, size))
	}
	for again := false; ; again = true {
		l.askMany(open, again)
		if len(open) == 0 {
			return nil
		}
		if err := waitFor(ctx, retryAfter); err != nil {
			return err
		}
	}
}

// askMany makes one request, and deletes what was accepted.
func (l *load) askMany(open map[int][]byte, again bool) {
	var numbers []int
	var items [][]byte
	for number, item := range open {
		numbers, items = append(numbers, number), append(items, item)
	}
	began := l.ledger.asking(again)
	node := int(l.turn.Add(1)) % len(l.urls)
	resp, err := l.post(node, "/v1/send/batch", append(append([]byte{'['}, bytes.Join(items, []byte{','})...), ']'))
	if err != nil {
		return // accepted or not, the keys will tell
	}
	defer resp.Body.Close()
	var answer struct {
		Results []struct {
			QueueID string `json:"queue_id"`
		}
	}
	if resp.StatusCode != http.StatusAccepted || json.NewDecoder(resp.Body).Decode(&answer) != nil || len(answer.Results) != len(numbers) {
		return
	}
	for i, r := range answer.Results {
		if r.QueueID != "" {
			l.ledger.acknowledge(numbers[i], r.QueueID, node, began)
			delete(open, numbers[i])
		}
	}
}
