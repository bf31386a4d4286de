package engine

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/harepost/harepost/scheduler"
)

// EventOptions say which trouble the operator is told of, and where. The zero value
// of a field means its default.
type EventOptions struct {
	// Target is what events are sent to, as deliveries of OperatorAccount. Its host
	// needs no verified domain; the address guard holds for it as for any. Default
	// nil: events are in the log only.
	Target *Target

	// Secret signs them, see CheckSigningSecret; it replaces the one that did, at
	// once. Default: the one that did, or a new one.
	Secret string

	// FailingAfter is after how long without a success a destination is told of, once
	// for each, in ascending order. Default 1 h, 6 h and 24 h; not nil and empty: never.
	FailingAfter []time.Duration

	// Lag is the age of a due delivery above which it is told of: one that waits
	// though nothing speaks against attempting it. Default 5 min; negative: never.
	Lag time.Duration

	// DeadLetters is how many deliveries of all accounts may become dead letters or
	// be rejected within an hour without a word. Default 100; negative: any number.
	DeadLetters int
}

func (o *EventOptions) withDefaults() {
	if o.FailingAfter == nil {
		o.FailingAfter = []time.Duration{time.Hour, 6 * time.Hour, 24 * time.Hour}
	}
	setDefault(&o.Lag, 5*time.Minute)
	setDefault(&o.DeadLetters, 100)
}

// events tells the operator of trouble: in the log, and as signed webhooks through
// the engine itself. A goroutine looks every second, and nothing waits for it.
//
// What it knows is in memory: what was told before a restart may be told again, when
// it still holds. What was accepted as a delivery survives like any.
//
// Events about the way of the events themselves are in the log only.
type events struct {
	engine   *Engine
	looking  sync.Mutex // what is below is look's
	breakers breakersTold
	failing  failingTold
	lag      overLimit
	rate     deadRate
	deadOver overLimit
	walked   time.Time
	budget   eventBudget
	queue    []event // that are not accepted yet
	dropped  int     // that were not told, since it was said last
}

const (
	eventsEvery = time.Second
	// eventsWalk is how often the lanes are looked at, all of them.
	eventsWalk = 15 * time.Second
	// mostEventsPerMinute bounds what is told; of the rest the number is.
	mostEventsPerMinute = 60
	// mostQueuedEvents bounds those that wait to be accepted.
	mostQueuedEvents = 256
	// mostToldLanes bounds the lanes of which is remembered what was told.
	mostToldLanes = 4096
)

// eventPolicy is for a receiver that is away for a night.
var eventPolicy = Policy{
	MaxAttempts: 20, BaseDelay: time.Second, MaxDelay: time.Hour, Timeout: 10 * time.Second, RespectRetryAfter: true,
}

// An event is what the operator is told, as it is sent.
type event struct {
	Type             string     `json:"type"`
	At               time.Time  `json:"at"`
	AccountID        string     `json:"account_id,omitempty"`
	Destination      string     `json:"destination,omitempty"` // as in https://host:port
	FailingSince     *time.Time `json:"failing_since,omitempty"`
	FailingSeconds   int64      `json:"failing_seconds,omitempty"`
	Failures         *int       `json:"failures_last_minute,omitempty"`
	Successes        *int       `json:"successes_last_minute,omitempty"`
	ProbeAt          *time.Time `json:"probe_at,omitempty"`
	LagSeconds       *int64     `json:"lag_seconds,omitempty"`
	WaitingFor       string     `json:"waiting_for,omitempty"`
	DeadLetters      *int       `json:"dead_letters_last_hour,omitempty"`
	ThresholdSeconds int64      `json:"threshold_seconds,omitempty"`
	Threshold        int        `json:"threshold,omitempty"`
	Count            int        `json:"count,omitempty"`

	own bool // about the way of the events
}

// The types of events.
const (
	eventBreakerOpened      = "destination.breaker_opened"
	eventBreakerClosed      = "destination.breaker_closed"
	eventFailing            = "destination.failing"
	eventRecovered          = "destination.recovered"
	eventLag                = "deliveries.lagging"
	eventLagCleared         = "deliveries.lag_cleared"
	eventDeadLetters        = "dead_letters.many"
	eventDeadLettersCleared = "dead_letters.cleared"
	eventDropped            = "events.dropped"
)

func (e *Engine) watchEvents() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ticker := time.NewTicker(eventsEvery)
	defer ticker.Stop()
	stopped := make(chan struct{})
	defer func() { <-stopped }()
	go func() { // ends with the engine, as this does
		defer close(stopped)
		select {
		case <-e.stop:
		case <-e.failed:
		}
		cancel()
	}()
	for {
		select {
		case <-ticker.C:
			if e.leads() {
				e.chore(func() { e.events.look(ctx, e.opts.Now()) })
			}
		case <-ctx.Done():
			return
		}
	}
}

// look finds what there is to tell, and has it accepted.
func (v *events) look(ctx context.Context, now time.Time) {
	v.looking.Lock()
	defer v.looking.Unlock()
	v.takeBreakers(now)
	if since := now.Sub(v.walked); since >= eventsWalk || since < 0 { // or the clock was set back
		v.walked = now
		v.walk(now)
	}
	v.countDead(now)
	v.tellDropped(now)
	v.send(ctx)
}

// tellDropped tells how many events were not told, when there is room for it.
func (v *events) tellDropped(now time.Time) {
	if v.dropped > 0 && len(v.queue) < mostQueuedEvents && v.budget.take(now) {
		v.add(event{Type: eventDropped, At: now, Count: v.dropped})
		v.dropped = 0
	}
}

// tell tells an event, if not too many were told.
func (v *events) tell(ev event) {
	if v.budget.take(ev.At) {
		v.add(ev)
	} else {
		v.dropped++
	}
}

func (v *events) add(ev event) {
	ev.At = ev.At.UTC().Truncate(time.Millisecond)
	body, err := json.Marshal(&ev)
	if err != nil {
		panic("engine: an event that is no JSON: " + err.Error()) // numbers and text only
	}
	v.engine.opts.Logger.Warn("operator event", "type", ev.Type, "event", json.RawMessage(body))
	switch {
	case v.engine.opts.Events.Target == nil, ev.own:
	case len(v.queue) >= mostQueuedEvents:
		v.dropped++
	default:
		v.queue = append(v.queue, ev)
	}
}

// send has what is queued accepted, in order. What there is no room for now is
// tried again.
func (v *events) send(ctx context.Context) {
	for len(v.queue) > 0 {
		_, err := v.engine.Send(ctx, OperatorAccount, v.delivery(&v.queue[0]))
		if errors.Is(err, ErrOverloaded) || errors.Is(err, ErrStorageFull) || errors.Is(err, ErrUnknown) || errors.Is(err, ErrNotLeader) || errors.Is(err, ErrClosed) {
			return
		}
		if err != nil {
			v.engine.opts.Logger.Error("an operator event cannot be sent", "type", v.queue[0].Type, "error", err)
		}
		v.queue = v.queue[1:]
	}
	v.queue = nil
}

func (v *events) delivery(ev *event) *Send {
	body, err := json.Marshal(ev)
	if err != nil {
		panic("engine: an event that is no JSON: " + err.Error())
	}
	return &Send{
		Target:  *v.engine.opts.Events.Target,
		Method:  "POST",
		Headers: []Header{{Name: "Content-Type", Value: "application/json"}},
		Body:    body,
		Policy:  eventPolicy,
		Sign:    true,
		Labels:  []string{ev.Type},
	}
}

// takeBreakers tells which breakers have opened and closed.
func (v *events) takeBreakers(now time.Time) {
	for range mostQueuedEvents {
		ev, view, ok := v.engine.dispatcher().nextEvent()
		switch {
		case !ok:
			return
		case ev.Kind == scheduler.BreakerOpened && v.breakers.opened(ev.Lane, now):
			v.tell(v.about(eventBreakerOpened, view, timeOf(ev.At)))
		case ev.Kind == scheduler.BreakerClosed && v.breakers.closed(ev.Lane):
			v.tell(v.about(eventBreakerClosed, view, timeOf(ev.At)))
		}
	}
}

// walk looks at all lanes.
func (v *events) walk(now time.Time) {
	worst := scheduler.LaneView{OldestDue: schedulerTime(now)}
	v.failing.begin()
	v.engine.dispatcher().eachView(0, func(l *scheduler.LaneView) {
		v.lookAt(*l, now)
		if lags(l) && l.OldestDue < worst.OldestDue {
			worst = *l
		}
	})
	v.failing.end()
	v.breakers.prune(now)
	age := now.Sub(timeOf(worst.OldestDue))
	limit := v.engine.opts.Events.Lag
	switch v.lag.look(age.Seconds(), limit.Seconds()) {
	case overNow:
		v.tell(v.lagging(eventLag, worst, age, now))
	case underNow:
		v.tell(v.lagging(eventLagCleared, worst, age, now))
	}
}

// lookAt tells what is new of a lane.
func (v *events) lookAt(l scheduler.LaneView, now time.Time) {
	// Their events may have been too many, or from before they might be told again.
	switch {
	case l.Breaker != scheduler.Closed && v.breakers.opened(l.Key, now):
		v.tell(v.about(eventBreakerOpened, l, now))
	case l.Breaker == scheduler.Closed && v.breakers.closed(l.Key):
		v.tell(v.about(eventBreakerClosed, l, now))
	}
	if l.FailingSince == 0 {
		if v.failing.well(l.Key) {
			v.tell(v.about(eventRecovered, l, now))
		}
		return
	}
	since := now.Sub(timeOf(l.FailingSince))
	if after := v.failing.ill(l.Key, since, v.engine.opts.Events.FailingAfter); after > 0 {
		ev := v.about(eventFailing, l, now)
		ev.ThresholdSeconds = int64(after.Seconds())
		v.tell(ev)
	}
}

// lags reports whether a lane waits though nothing speaks against an attempt: no
// breaker, pause or Retry-After, and no rate that somebody has set.
func lags(l *scheduler.LaneView) bool {
	if !l.Waits || AccountID(l.Key.Account) == OperatorAccount {
		return false
	}
	switch l.Reason {
	case scheduler.Turn, scheduler.Concurrency:
		return true
	case scheduler.Rate:
		return l.Limits.Rate == 0
	}
	return false
}

func (v *events) lagging(kind string, l scheduler.LaneView, age time.Duration, now time.Time) event {
	ev := event{Type: kind, At: now}
	if l.Key != (scheduler.LaneKey{}) {
		ev = event{Type: kind, At: now, AccountID: AccountID(l.Key.Account).String(), Destination: v.engine.nameOf(stateLane(l.Key)).String(), WaitingFor: l.Reason.String()}
	}
	seconds := int64(age.Seconds())
	ev.LagSeconds, ev.ThresholdSeconds = &seconds, int64(v.engine.opts.Events.Lag.Seconds())
	return ev
}

// about is an event about a lane.
func (v *events) about(kind string, l scheduler.LaneView, at time.Time) event {
	ev := event{
		Type: kind, At: at,
		AccountID:   AccountID(l.Key.Account).String(),
		Destination: v.engine.nameOf(stateLane(l.Key)).String(),
		Failures:    &l.Failures, Successes: &l.Successes,
		own: AccountID(l.Key.Account) == OperatorAccount,
	}
	if l.FailingSince != 0 {
		since := timeOf(l.FailingSince)
		ev.FailingSince, ev.FailingSeconds = &since, int64(at.Sub(since).Seconds())
	}
	if l.Breaker == scheduler.Open {
		probe := timeOf(l.ProbeAt)
		ev.ProbeAt = &probe
	}
	return ev
}

// countDead tells when many deliveries have become dead letters within an hour.
func (v *events) countDead(now time.Time) {
	n := v.rate.count(v.engine.metrics.dead.Load(), now)
	limit := v.engine.opts.Events.DeadLetters
	kind := ""
	switch v.deadOver.look(float64(n), float64(limit)) {
	case overNow:
		kind = eventDeadLetters
	case underNow:
		kind = eventDeadLettersCleared
	default:
		return
	}
	v.tell(event{Type: kind, At: now, DeadLetters: &n, Threshold: limit})
}

func timeOf(t scheduler.Time) time.Time { return time.UnixMilli(int64(t)).UTC() }
