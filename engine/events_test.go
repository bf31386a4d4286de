package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/harepost/harepost/client/webhook"
	"github.com/harepost/harepost/scheduler"
)

// A mailbox is a receiver of events, which verifies their signatures.
type mailbox struct {
	t      *testing.T
	target Target

	mu     sync.Mutex
	secret string
	status int
	got    []map[string]any
}

func newMailbox(t *testing.T) *mailbox {
	m := &mailbox{t: t, status: http.StatusOK}
	m.target = receiver(t, m.serve)
	return m
}

func (m *mailbox) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		m.t.Error(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := webhook.Verify(r.Header, body, []string{m.secret}, time.Minute, time.Now()); err != nil {
		m.t.Errorf("an event is not signed with its secret: %v", err)
	}
	var ev map[string]any
	if err := json.Unmarshal(body, &ev); err != nil {
		m.t.Errorf("event %q: %v", body, err)
	}
	if m.status == http.StatusOK {
		m.got = append(m.got, ev)
	}
	w.WriteHeader(m.status)
}

func (m *mailbox) answer(status int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status = status
}

// of are the events of a type that have arrived.
func (m *mailbox) of(kind string) (events []map[string]any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, ev := range m.got {
		if ev["type"] == kind {
			events = append(events, ev)
		}
	}
	return events
}

// watched is an engine whose events go to a mailbox, on a clock that is stepped.
type watched struct {
	*Engine
	clock wallClock
	box   *mailbox
	log   lockedBuffer
}

// lockedBuffer is a log that may be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}

const operatorSecret = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="

func watch(t *testing.T, options func(*Options)) *watched {
	w := &watched{box: newMailbox(t)}
	w.box.secret = operatorSecret
	o := testOptions(t, vfs.NewMem())
	o.Now, o.BreakerFailures = w.clock.now, 3
	o.DevLoopback = false // no domain is verified for the mailbox
	o.Logger = slog.New(slog.NewJSONHandler(&w.log, nil))
	o.Events.Target, o.Events.Secret = &w.box.target, operatorSecret
	if options != nil {
		options(&o)
	}
	w.Engine = openEngine(t, o)
	return w
}

// look looks now, whenever the watch does.
func (w *watched) look() { w.events.look(context.Background(), w.clock.now()) }

// arrives waits until so many events of a type have arrived, and returns the last.
func (w *watched) arrives(kind string, n int) map[string]any {
	w.box.t.Helper()
	awaitCondition(w.box.t, fmt.Sprintf("%d events %s", n, kind), func() bool {
		w.look()
		return len(w.box.of(kind)) >= n
	})
	got := w.box.of(kind)
	if len(got) > n {
		w.box.t.Errorf("%d events %s, want %d: %v", len(got), kind, n, got)
	}
	return got[n-1]
}

// failing makes an account with deliveries to a target that fails.
func (w *watched) failing(target Target, n int) AccountID {
	t := w.box.t
	a := newAccount(t, w.Engine)
	verifyByHand(t, w.Engine, a, "your-app.com")
	for i := range n {
		s := sendTo(target, fmt.Sprint(i))
		s.Policy.MaxAttempts, s.Policy.MaxDelay = 1000, 10*time.Millisecond
		if _, err := w.Send(context.Background(), a, s); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// The operator is told when a breaker opens, how long a destination fails, and when
// it is well again: each once, signed, and with what is needed to find it.
func TestOperatorIsToldOfADestination(t *testing.T) {
	w := watch(t, func(o *Options) {
		o.DevLoopback = true
		o.Events.FailingAfter = []time.Duration{time.Hour, 3 * time.Hour}
	})
	var m moody
	m.status.Store(500)
	target := receiver(t, m.serve)
	a := w.failing(target, 5)
	ev := w.arrives(eventBreakerOpened, 1)
	if ev["account_id"] != a.String() || ev["failing_since"] == nil || ev["failures_last_minute"] == float64(0) {
		t.Errorf("event %v", ev)
	}
	for n, ahead := range []time.Duration{61 * time.Minute, 181 * time.Minute} {
		w.clock.set(ahead)
		ev := w.arrives(eventFailing, n+1)
		if s, ok := ev["failing_seconds"].(float64); !ok || s < ahead.Seconds()-60 || s > ahead.Seconds()+60 || ev["account_id"] != a.String() || ev["destination"] != fmt.Sprintf("http://%s:%d", target.Host, target.Port) {
			t.Errorf("after %s: event %v", ahead, ev)
		}
	}
	m.status.Store(200)
	w.clock.set(4 * time.Hour)
	w.arrives(eventBreakerClosed, 1)
	awaitCondition(t, "everything is delivered", func() bool { return w.state().Pending() == 0 || w.log.count(eventRecovered) > 0 })
	if n := len(w.box.of(eventBreakerOpened)); n != 1 {
		t.Errorf("told %d times that the breaker has opened", n)
	}
	page, err := w.Deliveries(context.Background(), OperatorAccount, Filter{Label: eventFailing}, DeliveryID{}, 10)
	if err != nil || len(page.Deliveries) != 2 {
		t.Errorf("%d deliveries of the operator's account have the label, want 2: %v", len(page.Deliveries), err)
	}
}

// Many dead letters within an hour are told of once, and once that they are few
// again; the operator's own do not count.
func TestOperatorIsToldOfDeadLetters(t *testing.T) {
	w := watch(t, func(o *Options) { o.DevLoopback, o.BreakerFailures, o.Events.DeadLetters = true, -1, 4 })
	var m moody
	m.status.Store(404)
	a := newAccount(t, w.Engine)
	target := receiver(t, m.serve)
	w.box.answer(404)
	w.events.looking.Lock()
	for range 5 {
		w.events.tell(event{Type: eventLag, At: w.clock.now()})
	}
	w.events.looking.Unlock()
	awaitCondition(t, "the operator's own are rejected", func() bool {
		w.look()
		n, err := w.CountMatching(context.Background(), OperatorAccount, JobPurge, Filter{})
		return err == nil && n == 5
	})
	w.box.answer(200)
	dead(t, w.Engine, a, target, 4)
	w.look()
	if n := w.log.count(eventDeadLetters); n != 0 {
		t.Errorf("told of 4 dead letters where 4 may be")
	}
	dead(t, w.Engine, a, target, 2)
	if ev := w.arrives(eventDeadLetters, 1); ev["dead_letters_last_hour"] != float64(6) || ev["threshold"] != float64(4) {
		t.Errorf("event %v", ev)
	}
	w.clock.set(61 * time.Minute)
	if ev := w.arrives(eventDeadLettersCleared, 1); ev["dead_letters_last_hour"] != float64(0) {
		t.Errorf("event %v", ev)
	}
	w.arrives(eventDeadLetters, 1)
}

// Trouble on the way of the events is in the log, and makes no further events. What
// could not be delivered meanwhile is delivered later, like any delivery.
func TestEventsAboutEventsAreOnlyLogged(t *testing.T) {
	w := watch(t, func(o *Options) { o.BreakerFailures = 1 })
	w.box.answer(500)
	w.events.looking.Lock()
	for range 3 {
		w.events.tell(event{Type: eventLag, At: w.clock.now()})
	}
	w.events.looking.Unlock()
	awaitCondition(t, "the breaker of the events' lane", func() bool {
		w.look()
		return w.log.count(eventBreakerOpened) > 0
	})
	w.box.answer(200)
	w.clock.set(time.Hour)
	w.arrives(eventLag, 3)
	if n := len(w.box.of(eventBreakerOpened)) + len(w.box.of(eventFailing)); n != 0 {
		t.Errorf("%d events about events were sent", n)
	}
}

// A storm is bounded: so many a minute, and then how many were left out.
func TestEventsAreBounded(t *testing.T) {
	w := watch(t, nil)
	w.clock.set(time.Until(time.Now().Truncate(time.Minute).Add(time.Hour))) // the begin of a minute
	w.events.looking.Lock()
	for i := range 200 {
		w.events.tell(w.events.about(eventBreakerOpened, scheduler.LaneView{Key: scheduler.LaneKey{Account: 7, Destination: uint64(i)}}, w.clock.now()))
	}
	w.events.looking.Unlock()
	w.arrives(eventBreakerOpened, mostEventsPerMinute)
	if n := len(w.box.of(eventDropped)); n != 0 {
		t.Errorf("within the minute it is told %d times that some were dropped", n)
	}
	w.clock.set(2 * time.Hour)
	if ev := w.arrives(eventDropped, 1); ev["count"] != float64(200-mostEventsPerMinute) {
		t.Errorf("event %v", ev)
	}
}

// How many were left out is not left out itself while as many events wait as may.
func TestTheCountOfDroppedEventsIsNotDropped(t *testing.T) {
	target := targetOf(t, "http://127.0.0.1:9/events")
	e := &Engine{opts: Options{Logger: slog.New(slog.DiscardHandler), Events: EventOptions{Target: &target}}}
	now := time.Now()
	v := &events{engine: e, queue: make([]event, mostQueuedEvents), dropped: 7}
	v.tellDropped(now)
	if v.dropped != 7 {
		t.Errorf("%d events are known to be dropped, want 7 until it can be told", v.dropped)
	}
	v.queue = v.queue[1:]
	v.tellDropped(now)
	if last := v.queue[len(v.queue)-1]; v.dropped != 0 || last.Type != eventDropped || last.Count != 7 {
		t.Errorf("%d events left, told was %+v", v.dropped, last)
	}
}

// The operator's account is made once, signs with what it is given, and keeps what
// it has; without a target there is none.
func TestOperatorAccount(t *testing.T) {
	ctx := context.Background()
	o := testOptions(t, vfs.NewMem())
	target := targetOf(t, "http://127.0.0.1:9/events")
	open := func(e EventOptions) (secret string) {
		t.Helper()
		o.Events = e
		engine, err := Open("data", o)
		if err != nil {
			t.Fatal(err)
		}
		defer closeEngine(t, engine)
		accounts, _, err := engine.ListAccounts(ctx, 0, 10)
		if err != nil {
			t.Fatal(err)
		}
		if len(accounts) == 0 {
			return ""
		}
		if a := accounts[0]; len(accounts) > 1 || a.ID != OperatorAccount || a.Name != operatorName {
			t.Errorf("accounts %+v", accounts)
		}
		if keys, err := engine.Keys(ctx, OperatorAccount); err != nil || len(keys) != 0 {
			t.Errorf("the operator's account has keys that nobody knows: %v, %v", keys, err)
		}
		if secret, err = engine.SigningSecret(ctx, OperatorAccount); err != nil {
			t.Fatal(err)
		}
		return secret
	}
	if secret := open(EventOptions{}); secret != "" {
		t.Error("an account that is not used")
	}
	made := open(EventOptions{Target: &target})
	if CheckSigningSecret(made) != nil {
		t.Errorf("secret %q", made)
	}
	if kept := open(EventOptions{Target: &target}); kept != made {
		t.Error("another secret after a restart")
	}
	if given := open(EventOptions{Target: &target, Secret: operatorSecret}); given != operatorSecret {
		t.Errorf("secret %q, want the one that was given", given)
	}
	if kept := open(EventOptions{}); kept != operatorSecret {
		t.Errorf("secret %q without the flag", kept)
	}
}
