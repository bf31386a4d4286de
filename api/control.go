package api

import (
	"context"
	"strconv"

	"github.com/valyala/fasthttp"

	"github.com/harepost/harepost/engine"
)

// listDeadLetters is GET /v1/dead-letters: a list of deliveries, of those that
// are dead_letter or rejected.
func (s *Server) listDeadLetters(c *call) error {
	q, err := parseListQuery(c.http.QueryArgs(), s.o.Warnings)
	if err != nil {
		return err
	}
	q.filter.Dead = true
	if status := q.filter.Status; !q.filter.Wants(status) && status != 0 {
		return invalid("status", strconv.Quote(status.String()), "dead_letter or rejected")
	}
	return s.writePage(c, q)
}

// replayDelivery is POST /v1/deliveries/{id}/replay: 202 with the delivery.
func (s *Server) replayDelivery(c *call) error {
	return s.controlOne(c, fasthttp.StatusAccepted, s.engine.Replay)
}

// cancelDelivery is POST /v1/deliveries/{id}/cancel: 200 with the delivery.
func (s *Server) cancelDelivery(c *call) error {
	return s.controlOne(c, fasthttp.StatusOK, s.engine.Cancel)
}

// deliveryControl is what can be done to one delivery.
type deliveryControl func(context.Context, engine.AccountID, engine.DeliveryID) (engine.Delivery, error)

// controlOne answers with what do made of the delivery. A body is not needed.
func (s *Server) controlOne(c *call, status int, do deliveryControl) error {
	id, err := engine.ParseDeliveryID(c.param)
	if err != nil {
		return errNotFound
	}
	w, err := s.noMember(c)
	if err != nil {
		return err
	}
	d, err := do(s.ctx, c.account, id)
	if err != nil {
		return err
	}
	writeJSON(c.http, status, append(w.appendTo(appendDelivery(make([]byte, 0, 1024), &d, false)), '\n'))
	return nil
}

// cancelDeliveries is POST /v1/deliveries/cancel.
func (s *Server) cancelDeliveries(c *call) error {
	k := newBulk(engine.JobCancel)
	if err := k.body(s, c); err != nil {
		return err
	}
	return s.begin(c, k)
}

// replayDeadLetters is POST /v1/dead-letters/replay.
func (s *Server) replayDeadLetters(c *call) error {
	k := newBulk(engine.JobReplay)
	if err := k.body(s, c); err != nil {
		return err
	}
	return s.begin(c, k)
}

// purgeDeadLetters is DELETE /v1/dead-letters.
func (s *Server) purgeDeadLetters(c *call) error {
	k := newBulk(engine.JobPurge)
	if err := k.query(c); err != nil {
		return err
	}
	return s.begin(c, k)
}

// begin counts for a dry run: 200. Else it begins a job: 202.
func (s *Server) begin(c *call, k *bulk) error {
	if k.dryRun {
		c.reads = true
		n, err := s.engine.CountMatching(s.ctx, c.account, k.kind, k.filter)
		if err != nil {
			return err
		}
		b := append([]byte(nil), `{"dry_run":true,"matched":`...)
		b = strconv.AppendInt(b, n, 10)
		writeJSON(c.http, fasthttp.StatusOK, append(b, '}', '\n'))
		return nil
	}
	j, err := s.engine.StartJob(s.ctx, c.account, k.kind, k.filter, k.rate)
	if err != nil {
		return err
	}
	writeJSON(c.http, fasthttp.StatusAccepted, append(appendJob(nil, &j), '\n'))
	return nil
}
