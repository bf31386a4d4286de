package raftstore

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/harepost/harepost/engine"
	outbound "github.com/harepost/harepost/transport"
)

// The kinds of receivers, each with a port of its own.
const (
	steady  = iota // answers 200
	flaky          // fails now and then, and takes its time
	away           // answers nothing for minutes, then all is well
	refuses        // answers 404
	dead           // answers 503, always
	hangs          // never answers
	receiverKinds
)

// endsAs is how a delivery to a receiver of a kind ends.
var endsAs = [receiverKinds]engine.Status{
	steady: engine.StatusDelivered, flaky: engine.StatusDelivered, away: engine.StatusDelivered,
	refuses: engine.StatusRejected, dead: engine.StatusDeadLetter, hangs: engine.StatusDeadLetter,
}

const firstPort = 8000

// receivers are what deliveries go to. They keep on record what they got.
type receivers struct {
	w    *world
	down atomic.Bool // those that are away at times

	mu  sync.Mutex
	got map[string]*reception
}

// reception is what was received of one send.
type reception struct {
	times int             // requests that arrived
	good  int             // those that were answered with 200
	reign map[string]bool // reigns in which it was answered with 200
}

// arrived notes a request, and whether it was answered well.
func (r *receivers) arrived(body []byte, reign string, good bool) {
	mark, _, _ := strings.Cut(string(body), ".")
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.got[mark]
	if got == nil {
		got = &reception{reign: make(map[string]bool)}
		r.got[mark] = got
	}
	got.times++
	if !good {
		return
	}
	got.good++
	if got.reign[reign] && !r.w.ledger.wasReplayed(mark) {
		r.w.fail("%s was delivered twice by %s: it knew of the first", mark, reign)
	}
	got.reign[reign] = true
}

// simEgress is one life's way to the receivers: engine.Egress.
type simEgress struct{ life *life }

func (simEgress) CheckKnown(string, uint16) (bool, error)             { return true, nil }
func (simEgress) CheckHost(context.Context, string, uint16) error     { return nil }
func (simEgress) LookupTXT(context.Context, string) ([]string, error) { return nil, nil }

func (e simEgress) Do(r *outbound.Request, res *outbound.Result) {
	l, w := e.life, e.life.w
	reign := l.reignName()
	*res = outbound.Result{Started: time.Now(), RemoteIP: netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	defer func() { res.Latency = time.Since(res.Started) }()
	mark, _, _ := strings.Cut(string(r.Body), ".")
	l.begins(r.DeliveryID, mark)
	if due := w.ledger.due(mark); r.Attempt == 1 && time.Since(time.Unix(0, l.node.set.Load())) > time.Second && l.now().Before(due.Add(-20*time.Millisecond)) {
		w.fail("%s is attempted by %s at %s by its clock, and not to be before %s", mark, reign, l.now(), due)
	}
	w.attempts.Add(1)
	l.whileHeld()
	if l.dead.Load() {
		res.Code, res.Detail = outbound.CodeConnectionReset, "the machine has no power"
		return
	}
	switch kind := int(r.Port) - firstPort; {
	case kind == hangs, kind == away && w.receivers.down.Load():
		e.fail(r, res, reign, 0, r.Timeout)
	case kind == refuses:
		e.fail(r, res, reign, 404, 5*time.Millisecond)
		res.Outcome = outbound.Rejected
	case kind == dead, kind == flaky && w.chance.happens(.2):
		e.fail(r, res, reign, 503, 20*time.Millisecond)
	case kind == flaky:
		e.succeed(r, res, reign, w.chance.between(0, 2*time.Second))
	default:
		e.succeed(r, res, reign, w.chance.between(time.Millisecond, 30*time.Millisecond))
	}
}

// fail answers with a status, or, if that is 0, not at all.
func (e simEgress) fail(r *outbound.Request, res *outbound.Result, reign string, status int, after time.Duration) {
	e.life.sleep(after)
	e.life.w.receivers.arrived(r.Body, reign, false)
	res.Outcome, res.Status = outbound.Failed, status
	res.Code, res.Detail = outbound.CodeHTTPStatus, "no good"
	if status == 0 {
		res.Code, res.Detail = outbound.CodeTimeout, "no answer"
	}
}

// succeed takes half of its time before the request arrives, and half before its answer
// does, in either of which the node may end.
func (e simEgress) succeed(r *outbound.Request, res *outbound.Result, reign string, after time.Duration) {
	if !e.life.sleep(after / 2) {
		return
	}
	e.life.w.receivers.arrived(r.Body, reign, true)
	e.life.sleep(after / 2)
	e.life.whileHeld()
	res.Outcome, res.Status = outbound.Delivered, 200
}
