package api

import (
	"bytes"
	"errors"
	"mime"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/harepost/harepost/engine"
)

// batchItem is one send of a batch once it is decoded: what of it outlives the
// decoder, or why it was refused.
type batchItem struct {
	send     engine.Send
	warnings warnings
	err      error
}

// sendBatch is POST /v1/send/batch: a JSON array of sends, or one send a line.
// A body that cannot be cut into sends is refused whole; a send that cannot be
// taken is refused alone. A suspended account has none that can.
func (s *Server) sendBatch(c *call) error {
	if len(c.http.Request.Header.Peek(headerIdempotencyKey)) > 0 {
		return refused("header Idempotency-Key", "a batch has none; give each send its own idempotency_key")
	}
	// As limitBody answers before it reads a large one.
	if owner, err := s.engine.Account(s.ctx, c.account); err == nil && owner.Suspended {
		return engine.ErrSuspended
	}
	raw, err := s.splitBatch(c)
	if err != nil {
		return err
	}
	items := s.decodeBatch(raw, c.received)
	sends := make([]*engine.Send, len(items))
	results := make([]engine.SendResult, len(items))
	for i := range items {
		if results[i].Err = items[i].err; items[i].err == nil {
			sends[i] = &items[i].send
		}
	}
	var reign uint64 // what the sends are checked against is of this one
	if s.o.Cluster != nil {
		reign = s.o.Cluster.Reign()
	}
	s.engine.SendBatch(s.ctx, c.account, sends, results)
	if noneLed(items, results) {
		return engine.ErrNotLeader
	}
	s.withholdUncertain(c, reign, items, results)
	b := append(make([]byte, 0, 16+160*len(items)), `{"results":[`...)
	for i := range items {
		if i > 0 {
			b = append(b, ',')
		}
		b = s.appendBatchResult(b, c, &items[i], &results[i])
	}
	writeJSON(c.http, fasthttp.StatusAccepted, append(b, ']', '}', '\n'))
	return nil
}

// noneLed reports whether nothing of a batch was done, because another node leads.
func noneLed(items []batchItem, results []engine.SendResult) bool {
	tried := false
	for i := range results {
		if items[i].err != nil {
			continue
		}
		if !errors.Is(results[i].Err, engine.ErrNotLeader) {
			return false
		}
		tried = true
	}
	return tried
}

// withholdUncertain replaces refusals that another node, which may lead by now, might
// not have made. The sends that were taken stand.
func (s *Server) withholdUncertain(c *call, reign uint64, items []batchItem, results []engine.SendResult) {
	if s.o.Cluster == nil {
		return
	}
	certain := false
	for i := range results {
		err := results[i].Err
		if certain || items[i].err != nil || !s.isRefusal(err) {
			continue
		}
		if certain = s.vouches(c, reign, err); !certain {
			s.proxy.uncertain.Inc()
			results[i].Err = errUncertain
		}
	}
}

// splitBatch cuts the body into sends, without looking into them.
func (s *Server) splitBatch(c *call) (raw [][]byte, err error) {
	body := c.http.PostBody()
	kind, _, err := mime.ParseMediaType(string(c.http.Request.Header.ContentType()))
	if err == nil && kind == "application/x-ndjson" {
		raw, err = splitLines(body, s.o.BatchSends)
	} else {
		raw, err = splitArray(body, s.o.BatchSends)
	}
	return raw, err
}

// splitLines cuts NDJSON. Lines without anything in them do not count.
func splitLines(body []byte, most int) (raw [][]byte, err error) {
	for line := range bytes.Lines(body) {
		if line = bytes.Trim(line, " \t\r\n"); len(line) == 0 {
			continue
		}
		if len(raw) == most {
			return nil, batchTooLong(most)
		}
		raw = append(raw, line)
	}
	if len(raw) == 0 {
		return nil, &problem{status: fasthttp.StatusBadRequest, message: "request body is empty", detail: "it must have a send in each line"}
	}
	return raw, nil
}

// splitArray cuts a JSON array. All of it must be JSON.
func splitArray(body []byte, most int) (raw [][]byte, err error) {
	if len(body) == 0 {
		return nil, &problem{status: fasthttp.StatusBadRequest, message: "request body is empty", detail: "it must be an array of sends"}
	}
	var d decoder
	d.reset(body)
	const allowed = "an array of sends, or a send in each line with Content-Type application/x-ndjson"
	given, err := d.openArray("request body", allowed)
	if err == nil && !given {
		err = invalid("request body", "null", allowed)
	}
	if err != nil {
		return nil, err
	}
	for {
		more, err := d.nextElement()
		if err != nil {
			return nil, err
		}
		if !more {
			return raw, d.closeBody("array")
		}
		v, err := d.value()
		if err != nil {
			return nil, err
		}
		if len(raw) == most {
			return nil, batchTooLong(most)
		}
		raw = append(raw, v)
	}
}

func batchTooLong(most int) *problem {
	return &problem{
		status:  fasthttp.StatusRequestEntityTooLarge,
		message: "batch is too large",
		detail:  "it may have " + strconv.Itoa(most) + " sends; none was accepted",
	}
}

// decodeBatch decodes every send with the one decoder. What outlives it aliases
// the request's body, or is the item's own.
func (s *Server) decodeBatch(raw [][]byte, now time.Time) []batchItem {
	items := make([]batchItem, len(raw))
	for i := range raw {
		s.decodeItem(&items[i], i, raw[i], now)
	}
	return items
}

func (s *Server) decodeItem(item *batchItem, i int, raw []byte, now time.Time) {
	if len(raw) > s.o.RequestBytes {
		item.err = &problem{
			status:  fasthttp.StatusRequestEntityTooLarge,
			message: "send is too large",
			detail:  "it may have " + strconv.Itoa(s.o.RequestBytes) + " bytes",
		}
		return
	}
	r := s.acquireSendRequest(raw)
	defer r.release()
	r.item = i + 1
	if item.err = r.decode(nil, now); item.err == nil {
		item.send, item.warnings = r.detach()
	}
}

// detach gives away what release would clear.
func (r *sendRequest) detach() (engine.Send, warnings) {
	send, w := r.send, r.warnings
	r.send, r.warnings = engine.Send{}, warnings{}
	r.text = nil // strings of the send may be in it
	return send, w
}

// appendBatchResult appends what became of one send.
func (s *Server) appendBatchResult(b []byte, c *call, item *batchItem, result *engine.SendResult) []byte {
	if result.Err == nil {
		b = appendReceipt(b, item.send.IdempotencyKey, result.Receipt, &item.warnings)
		return b[:len(b)-1] // without the line's end
	}
	p := s.problemOf(result.Err)
	s.logProblem(c.http, result.Err, p)
	b = append(b, `{"error":`...)
	b = appendString(b, p.message)
	if p.detail != "" {
		b = append(b, `,"detail":`...)
		b = appendString(b, p.detail)
	}
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(p.status), 10)
	if p.retryAfter > 0 {
		b = append(b, `,"retry_after":`...)
		b = strconv.AppendInt(b, p.retrySeconds(), 10)
	}
	return append(b, '}')
}
