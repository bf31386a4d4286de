package engine

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"time"

	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/seal"
	"github.com/harepost/harepost/engine/state"
	"github.com/harepost/harepost/scheduler"
	"github.com/harepost/harepost/transport"
)

// attempting is what a worker reuses from attempt to attempt.
type attempting struct {
	record  delivery.Record
	request transport.Request
	result  transport.Result
	headers []transport.Header
	secrets []string

	// The text of the address that the last attempt went to.
	remote     netip.Addr
	remoteText string

	// Of a delivery that was replayed: after how many attempts its budget began
	// anew. It does not expire any more.
	replayed bool
	base     int

	ended scheduler.Ended // what the last attempt says of its destination
}

// The errors of attempts that were ended by a rule and not by the target.
const (
	errorExpired = "expired: the delivery's expires_at had passed"
	errorRemoved = "canceled: the destination's domain is no longer verified"
	errorDeleted = "canceled: the account was deleted"
)

// attempt makes one attempt at about the time now. It returns what is to be
// recorded of it, nil if no attempt was made, because the delivery has ended or
// cannot be read.
func (e *Engine) attempt(w *attempting, next scheduler.Dispatch, now time.Time) *attempted {
	w.ended = scheduler.Ended{}
	a, id := AccountID(next.Lane.Account), DeliveryID(next.Item.ID)
	found, body, err := e.findPending(a, id, next.Item.Attempt)
	if errors.Is(err, state.ErrNotFound) {
		return nil
	}
	if err == nil {
		err = found.Row.DecodeRecord(&w.record)
	}
	if err == nil && delivery.BodyCRC(body) != w.record.BodyCRC {
		err = errors.New("the body is not the one that was accepted")
	}
	var box seal.Delivery
	if err == nil {
		box, body, err = e.open(w, body)
	}
	if err != nil && !e.state().Directory().Has(a) {
		return nil // deleted this moment, and its data key with it
	}
	if err != nil {
		e.fail(fmt.Errorf("engine: read delivery %s for attempt %d: %w", id, next.Item.Attempt, err))
		return nil
	}
	w.replayed, w.base = found.Row.Replayed, found.Row.Base
	record, status := e.make(w, int(next.Item.Attempt), body, now)
	if w.record.Sealed {
		record.ResponseBody = box.Seal(seal.Response, record.ResponseBody)
	}
	c := command.Attempt{
		Account:   a,
		ID:        id,
		Number:    record.Number,
		Status:    status,
		UpdatedAt: record.CreatedAt.UnixMilli(),
	}
	done := attempteds.Get().(*attempted)
	done.lane, done.id, done.outcome, done.status = stateLane(next.Lane), id, record.Outcome, status
	done.ordered = w.record.OrderingKey != ""
	if status == StatusRetrying {
		c.NextDue = record.NextAttemptAt.UnixMilli()
		done.retry = state.Position{Due: c.NextDue, ID: id, Attempt: next.Item.Attempt + 1}
	}
	done.cmd = command.AppendAttempt(done.cmd, &c, &record)
	return done
}

// open opens what is sealed of the worker's record, of its body and of the
// secrets to sign with.
func (e *Engine) open(w *attempting, stored []byte) (box seal.Delivery, body []byte, err error) {
	rec := &w.record
	w.secrets = w.secrets[:0]
	if rec.Sign {
		owner, _ := e.state().Directory().Account(AccountID(rec.Account))
		w.secrets = owner.LiveSecrets(w.secrets, e.opts.Now())
		for i, kept := range w.secrets {
			if w.secrets[i], err = e.openSecret(owner.ID, kept); err != nil {
				return box, nil, err
			}
		}
	}
	if !rec.Sealed {
		return box, stored, nil
	}
	if box, err = e.sealer(AccountID(rec.Account), rec.ID); err != nil {
		return box, nil, err
	}
	if err = rec.OpenHeaders(box); err != nil {
		return box, nil, err
	}
	body, err = box.Open(seal.Body, stored)
	return box, body, err
}

// record queues an attempt's record for the log. It is not waited for: if it
// is lost in a crash, the attempt is made once more. When the log has failed
// or is closed, that is what will happen. The next of an ordering key waits until
// the record is applied: it is not held back for company then.
func (e *Engine) record(d *dispatcher, done *attempted) {
	done.by = d
	term := d.term
	if done.ordered && done.status.Final() && e.log.Append(term, done.cmd, done) == nil {
		return
	}
	err := e.log.AppendLater(term, done.cmd, done)
	if errors.Is(err, ErrNotLeader) {
		done.release() // who leads now makes it again
		return
	}
	if err != nil && e.ended() == nil {
		e.fail(err)
	}
}

func (e *Engine) findPending(a AccountID, id DeliveryID, attempt uint32) (state.Stored, []byte, error) {
	if err := e.reads.begin(); err != nil {
		return state.Stored{}, nil, err
	}
	defer e.reads.end()
	return e.state().FindPending(a, id, attempt)
}

// make makes attempt number of the worker's record, and says how the delivery
// stands after it.
func (e *Engine) make(w *attempting, number int, body []byte, now time.Time) (delivery.Attempt, Status) {
	rec := &w.record
	if rec.ExpiresAt != 0 && !w.replayed {
		now = e.opts.Now() // the last record may have waited for the log since
		if now.UnixMilli() >= rec.ExpiresAt {
			return endedByRule(number, now, OutcomeFailed, errorExpired), StatusDeadLetter
		}
	}
	if !e.state().Directory().Has(AccountID(rec.Account)) {
		return endedByRule(number, now, OutcomeRejected, errorDeleted), StatusRejected
	}
	if !e.covers(AccountID(rec.Account), rec.Target.Host) {
		return endedByRule(number, now, OutcomeRejected, errorRemoved), StatusRejected
	}
	e.metrics.inFlight.Add(1)
	e.deliver(w, number, body)
	e.metrics.inFlight.Add(-1)
	res := &w.result
	record := delivery.Attempt{
		Number:        number,
		Outcome:       outcomes[res.Outcome],
		HTTPStatus:    res.Status,
		Latency:       res.Latency,
		Error:         res.Error(),
		StartedAt:     res.Started,
		CreatedAt:     e.opts.Now(),
		Timing:        Timing(res.Timing),
		ResponseBody:  res.Body,
		BodyTruncated: res.BodyTruncated,
	}
	if res.RemoteIP.IsValid() {
		if res.RemoteIP != w.remote {
			w.remote, w.remoteText = res.RemoteIP, res.RemoteIP.String()
		}
		record.RemoteIP = w.remoteText
	}
	w.ended = verdict(rec, res)
	e.metrics.observeAttempt(record.Latency)
	if record.Outcome != OutcomeDelivered {
		e.lanes.failed(state.Lane{Account: AccountID(rec.Account), Destination: rec.Destination()}, rec, &record)
	}
	switch {
	case record.Outcome == OutcomeDelivered:
		return record, StatusDelivered
	case record.Outcome == OutcomeRejected:
		return record, StatusRejected
	case number-w.base >= rec.Policy.MaxAttempts:
		return record, StatusDeadLetter
	}
	record.NextAttemptAt = nextDue(rec, res, number-w.base, record.CreatedAt)
	return record, StatusRetrying
}

// verdict is what the end of an attempt says of its destination.
func verdict(rec *delivery.Record, res *transport.Result) scheduler.Ended {
	end := scheduler.Ended{Took: res.Latency, Verdict: scheduler.Faulty}
	switch {
	case res.Local, res.Code == transport.CodeAddressBlocked:
		end.Verdict = scheduler.NoVerdict
	case res.Outcome != transport.Failed:
		end.Verdict = scheduler.Healthy
	case res.Status == http.StatusTooManyRequests:
		end.Verdict = scheduler.Throttled
	case res.Status == http.StatusServiceUnavailable, res.Status == http.StatusRequestTimeout, res.Code == transport.CodeTimeout:
		end.Verdict = scheduler.Overloaded
	}
	asked := res.Status == http.StatusTooManyRequests || res.Status == http.StatusServiceUnavailable
	if asked && res.HasRetryAfter && rec.Policy.RespectRetryAfter {
		end.RetryAfter = res.RetryAfter
	}
	return end
}

var outcomes = [...]Outcome{
	transport.Delivered: OutcomeDelivered,
	transport.Failed:    OutcomeFailed,
	transport.Rejected:  OutcomeRejected,
}

func endedByRule(number int, now time.Time, o Outcome, why string) delivery.Attempt {
	return delivery.Attempt{Number: number, Outcome: o, Error: why, StartedAt: now, CreatedAt: now}
}

// deliver has the transport make the attempt.
func (e *Engine) deliver(w *attempting, number int, body []byte) {
	rec := &w.record
	w.headers = w.headers[:0]
	for _, h := range rec.Headers {
		w.headers = append(w.headers, transport.Header(h))
	}
	w.request = transport.Request{
		Scheme:         rec.Target.Scheme,
		Host:           rec.Target.Host,
		Port:           rec.Target.Port,
		URI:            rec.Target.URI,
		Method:         rec.Method,
		Headers:        w.headers,
		Body:           body,
		Timeout:        rec.Policy.Timeout,
		DeliveryID:     rec.ID.String(),
		Attempt:        number,
		IdempotencyKey: rec.IdempotencyKey,
	}
	if rec.Sign {
		w.request.Secrets = w.secrets
	}
	e.opts.Transport.Do(&w.request, &w.result)
}

// nextDue is when the next attempt is due after attempt number of the budget
// has failed.
func nextDue(rec *delivery.Record, res *transport.Result, number int, ended time.Time) time.Time {
	b := scheduler.Backoff{
		BaseDelay:         rec.Policy.BaseDelay,
		MaxDelay:          rec.Policy.MaxDelay,
		RespectRetryAfter: rec.Policy.RespectRetryAfter,
	}
	if rec.Policy.Backoff == BackoffFixed {
		b.Growth = scheduler.Fixed
	}
	if rec.Policy.Jitter == JitterNone {
		b.Jitter = scheduler.JitterNone
	}
	due := b.Next(scheduler.Time(ended.UnixMilli()), number, res.RetryAfter, res.HasRetryAfter, rand.Uint64())
	return time.UnixMilli(int64(due)).UTC()
}
