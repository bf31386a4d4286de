package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// What the server takes in one batch, unless it is configured otherwise.
const (
	MaxBatchSends = 10_000
	MaxBatchBytes = 16 << 20
)

// answerShare is how many bytes of an answer come from one of a batch: it says
// again what it does not know or take, escaped twice. No more than five are known.
const answerShare = 8

// A BatchResult is what became of one send of a batch.
type BatchResult struct {
	Receipt Receipt

	// Err is nil when the send was accepted, else an *Error. Where a send
	// was repeated and the repetition got no answer, it is that error.
	Err error

	raw json.RawMessage
}

// MarshalJSON is the result as the server gave it.
func (r BatchResult) MarshalJSON() ([]byte, error) {
	if r.raw == nil {
		return []byte("null"), nil
	}
	return r.raw, nil
}

// UnmarshalJSON reads a result: a receipt, or an error.
func (r *BatchResult) UnmarshalJSON(b []byte) error {
	// The status is a word in a receipt and a number in an error.
	var kind struct{ Error string }
	if err := json.Unmarshal(b, &kind); err != nil {
		return err
	}
	*r = BatchResult{raw: bytes.Clone(b)}
	if kind.Error == "" {
		return json.Unmarshal(b, &r.Receipt)
	}
	var refusal struct {
		Error, Detail string
		Status        int
		RetryAfter    int64 `json:"retry_after"`
	}
	if err := json.Unmarshal(b, &refusal); err != nil {
		return err
	}
	r.Err = &Error{
		Status: refusal.Status, Message: refusal.Error, Detail: refusal.Detail,
		RetryAfter: retrySeconds(refusal.RetryAfter), Body: r.raw,
	}
	return nil
}

// SendBatch asks for many deliveries in one request: up to 10,000, of 16 MiB in
// all. The results are in the order of the sends. A send that is refused does
// not fail the others; all that are accepted are durable. With an error there
// are no results: no send was accepted, or it is not known which.
//
// With Options.Retries, a batch whose sends all have idempotency keys is
// repeated as a single send would be; so are those of its sends that have a key
// and were refused for now. Both count: there are never more than Retries requests
// after the first.
func (c *Client) SendBatch(ctx context.Context, sends []Send) ([]BatchResult, error) {
	lines := make([]batchLine, len(sends))
	for i, s := range sends {
		var err error
		if lines[i].json, lines[i].keyed, err = c.encoded(s); err != nil {
			return nil, fmt.Errorf("client: encode send %d of the batch: %w", i, err)
		}
	}
	results := make([]BatchResult, len(lines))
	if err := c.sendLines(ctx, lines, func(i int, r BatchResult) { results[i] = r }); err != nil {
		return nil, err
	}
	return results, nil
}

// SendLines is SendBatch for sends that are JSON already, as POST /v1/send
// takes it, one in a line: every byte of a body arrives as it is. Lines without
// anything in them have no result. Nothing is repeated, because nobody looks
// for idempotency keys in them.
func (c *Client) SendLines(ctx context.Context, lines []byte) ([]BatchResult, error) {
	return c.postBatch(ctx, lines, false, new(int))
}

// A batchLine is one send, ready to go out.
type batchLine struct {
	json  []byte // ends with a newline
	keyed bool   // it may be repeated
}

// sendLines sends a batch, and again what of it may be repeated. It calls settle
// once for each send, as soon as its result is final; with an error for none.
func (c *Client) sendLines(ctx context.Context, lines []batchLine, settle func(i int, r BatchResult)) error {
	if len(lines) == 0 {
		return nil
	}
	spent := 0 // of Options.Retries: by whole requests, and by sends in them
	results, err := c.postLines(ctx, lines, &spent)
	if err != nil {
		return err
	}
	open := make([]int, len(lines)) // lines whose result may not be final
	for i := range open {
		open[i] = i
	}
	for {
		var again []int
		var pause time.Duration
		for k, i := range open {
			d, ok := c.mayRepeat(lines[i], results[k], spent)
			if !ok {
				settle(i, results[k])
				continue
			}
			results[len(again)] = results[k]
			again, pause = append(again, i), max(pause, d)
		}
		if len(again) == 0 {
			return nil
		}
		open = again
		if sleep(ctx, pause) {
			spent++
			results = c.postAgain(ctx, lines, open, &spent)
			continue
		}
		for k, i := range open {
			settle(i, results[k])
		}
		return nil
	}
}

// mayRepeat reports whether a send of a batch that was refused for now may be
// repeated, and when.
func (c *Client) mayRepeat(line batchLine, r BatchResult, n int) (time.Duration, bool) {
	if _, answered := errors.AsType[*Error](r.Err); !answered || !line.keyed || n >= c.options.Retries {
		return 0, false
	}
	return c.retryWait(r.Err, n)
}

// postAgain sends some of the lines, and has a result for each whatever comes.
func (c *Client) postAgain(ctx context.Context, lines []batchLine, which []int, spent *int) []BatchResult {
	some := make([]batchLine, len(which))
	for k, i := range which {
		some[k] = lines[i]
	}
	results, err := c.postLines(ctx, some, spent)
	if err == nil {
		return results
	}
	results = make([]BatchResult, len(which))
	for k := range results {
		results[k].Err = err
	}
	return results
}

func (c *Client) postLines(ctx context.Context, lines []batchLine, spent *int) ([]BatchResult, error) {
	var body bytes.Buffer
	repeatable := true
	for _, line := range lines {
		body.Write(line.json)
		repeatable = repeatable && line.keyed
	}
	results, err := c.postBatch(ctx, body.Bytes(), repeatable, spent)
	if err == nil && len(results) != len(lines) {
		return nil, fmt.Errorf("client: POST /v1/send/batch: %d results for %d sends", len(results), len(lines))
	}
	return results, err
}

func (c *Client) postBatch(ctx context.Context, lines []byte, repeatable bool, spent *int) ([]BatchResult, error) {
	var answer struct{ Results []BatchResult }
	err := c.roundTrip(ctx, call{
		method: http.MethodPost, path: "/v1/send/batch", bearer: c.key,
		body: lines, contentType: "application/x-ndjson", out: &answer, repeatable: repeatable, spent: spent,
		moreBytes: answerShare * int64(len(lines)),
	})
	return answer.Results, err
}
