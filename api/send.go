package api

import (
	"github.com/valyala/fasthttp"

	"github.com/harepost/harepost/engine"
)

// send is POST /v1/send: the hot path. The request's bytes are aliased, not
// copied, down to the engine, which keeps nothing of them.
func (s *Server) send(c *call) error {
	r := s.acquireSendRequest(c.http.PostBody())
	defer r.release()
	key := c.http.Request.Header.Peek(headerIdempotencyKey)
	if err := r.decode(key, c.received); err != nil {
		return err
	}
	receipt, err := s.engine.Send(s.ctx, c.account, &r.send)
	if err != nil {
		return err
	}
	var buf [256]byte
	writeJSONCopy(c.http, fasthttp.StatusAccepted, appendReceipt(buf[:0], r.send.IdempotencyKey, receipt, &r.warnings))
	return nil
}

// appendReceipt appends the answer to an accepted send.
func appendReceipt(b []byte, key string, receipt engine.Receipt, w *warnings) []byte {
	b = append(b, `{"queue_id":"`...)
	b = receipt.ID.Append(b)
	b = append(b, `","status":"queued","created_at":`...)
	b = appendTime(b, receipt.CreatedAt)
	if key != "" {
		b = append(b, `,"idempotency_key":`...)
		b = appendString(b, key)
	}
	if receipt.Duplicate {
		b = append(b, `,"duplicate":true`...)
	}
	b = w.appendWarnings(b)
	return append(b, '}', '\n')
}
