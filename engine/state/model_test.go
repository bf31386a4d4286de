package state

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/job"
	"github.com/harepost/harepost/engine/lane"
)

// epoch is when the histories of these tests begin.
var epoch = time.Date(2026, 6, 10, 14, 0, 0, 0, time.UTC)

// history draws random logs, and knows what the state must say after each
// entry of theirs.
type history struct {
	rng      *rand.Rand
	now      int64 // Unix milliseconds
	seq      uint64
	accounts []account.ID
	live     []*modelDelivery // pending, in order of acceptance
	model    map[delivery.ID]*modelDelivery
	log      []Entry

	// For histories in which accounts are changed and deleted.
	changeAccounts bool
	rows           map[account.ID]account.Account
	keys           map[account.ID]account.Key
	settings       map[Lane]lane.Setting
	deleted        []account.ID // and not swept
	gone           []account.ID

	// For histories in which deliveries are replayed, cancelled and purged.
	control bool
	jobs    map[account.ID]job.Job // one each, running

	// For histories in which some deliveries have an ordering key.
	ordered bool
	orders  map[Order]*modelOrder
	numbers uint64

	// For histories in which short bodies are kept apart, too, and bodies are dropped.
	bodies bool
}

// A modelDelivery is what the state must know of a delivery.
type modelDelivery struct {
	rec      delivery.Record
	body     []byte
	apart    bool // the body can be dropped
	dropped  bool // it is
	status   delivery.Status
	updated  int64
	due      int64
	attempts []delivery.Attempt

	replayed  bool
	base      int
	replayDue int64

	number uint64 // in its order, 0: it has none
	waits  bool   // for its turn
	turn   int64  // when it is due in its lane, as long as its budget has not begun
}

// queuedAt is when the next attempt is due in the delivery's lane.
func (m *modelDelivery) queuedAt() int64 {
	if m.number != 0 && len(m.attempts) == m.base {
		return m.turn
	}
	return m.due
}

func newHistory(seed uint64) *history {
	h := &history{
		rng:      rand.New(rand.NewPCG(seed, 1)),
		now:      epoch.UnixMilli(),
		accounts: []account.ID{3, 7, 7 << 40},
		model:    make(map[delivery.ID]*modelDelivery),
		rows:     make(map[account.ID]account.Account),
		keys:     make(map[account.ID]account.Key),
		settings: make(map[Lane]lane.Setting),
		jobs:     make(map[account.ID]job.Job),
		orders:   make(map[Order]*modelOrder),
	}
	for _, a := range h.accounts {
		h.createAccount(a)
	}
	return h
}

func (h *history) createAccount(a account.ID) {
	acc := account.Account{
		ID: a, Name: fmt.Sprint("account ", a), CreatedAt: epoch,
		Secrets: []account.Secret{{Text: "whsec_x", CreatedAt: epoch}},
	}
	key := account.Key{Account: a, ID: account.KeyID(a), Prefix: "hp_live_abcd", CreatedAt: epoch}
	key.Hash[0], key.Hash[1] = byte(len(h.log)), byte(len(h.log)>>8)
	h.rows[a], h.keys[a] = acc, key
	h.add(command.AppendCreateAccount(nil, &acc, &key))
}

// accountStep adds an entry about an account.
func (h *history) accountStep() {
	i := h.rng.IntN(len(h.accounts))
	a := h.accounts[i]
	switch p := h.rng.IntN(10); {
	case p < 3:
		acc := h.rows[a]
		acc.RatePerMinute, acc.Suspended = h.rng.IntN(100)-1, h.rng.IntN(2) == 0
		acc.Secrets = append([]account.Secret{{Text: "whsec_y", CreatedAt: time.UnixMilli(h.now).UTC()}}, acc.Secrets[:1]...)
		h.rows[a] = acc
		h.add(command.AppendPutAccount(nil, &acc))
	case p < 4:
		key := h.keys[a]
		key.LastUsed = time.UnixMilli(h.now).UTC()
		h.keys[a] = key
		h.add(command.AppendTouchKeys(nil, []command.KeyUse{{Account: a, Key: key.ID, At: h.now}, {Account: a, Key: 99, At: h.now}}))
	case p == 4:
		h.setLane(a)
	case p < 6:
		h.add(command.AppendDeleteAccount(nil, a, h.now))
		h.deleted = append(h.deleted, a)
		h.accounts = append(slices.Clone(h.accounts[:i]), h.accounts[i+1:]...)
		h.accounts = append(h.accounts, account.ID(h.rng.Uint64N(1<<40)+8))
		h.createAccount(h.accounts[len(h.accounts)-1])
		acc := h.rows[a] // on its way meanwhile
		h.add(command.AppendPutAccount(nil, &acc))
		delete(h.rows, a)
		delete(h.keys, a)
		maps.DeleteFunc(h.settings, func(l Lane, _ lane.Setting) bool { return l.Account == a })
		h.add(command.AppendPutLane(nil, &lane.Setting{Account: a, Destination: 1, Name: lane.Name{Kind: lane.Flow, Text: "late"}, Rate: 1}))
	default:
		h.sweep()
	}
}

// setLane sets or takes away the limits of a lane.
func (h *history) setLane(a account.ID) {
	key := fmt.Sprint("flow-", h.rng.IntN(4))
	set := lane.Setting{Account: a, Destination: delivery.FlowDestination(key), Name: lane.Name{Kind: lane.Flow, Text: key}}
	at := Lane{a, set.Destination}
	if delete(h.settings, at); h.rng.IntN(3) > 0 {
		set.Rate, set.Parallelism = float64(1+h.rng.IntN(9)), h.rng.IntN(5)
		set.Paused, set.PinnedRate = h.rng.IntN(2) == 0, h.rng.IntN(2) == 0
		h.settings[at] = set
	}
	h.add(command.AppendPutLane(nil, &set))
}

// sweep adds a step of the sweep of a deleted account.
func (h *history) sweep() {
	if len(h.deleted) == 0 {
		return
	}
	i := h.rng.IntN(len(h.deleted))
	a, limit := h.deleted[i], 1+h.rng.IntN(30)
	h.add(command.AppendSweepAccount(nil, a, limit))
	var own []*modelDelivery
	for _, m := range h.live {
		if account.ID(m.rec.Account) == a {
			own = append(own, m)
		}
	}
	slices.SortFunc(own, func(x, y *modelDelivery) int {
		return cmp.Or(cmp.Compare(x.status, y.status), compareIDs(x.rec.ID, y.rec.ID))
	})
	done := len(own) < limit
	for _, m := range own[:min(limit, len(own))] {
		h.live = slices.DeleteFunc(h.live, func(l *modelDelivery) bool { return l == m })
		delete(h.model, m.rec.ID)
	}
	if !done {
		return
	}
	h.deleted = append(slices.Clone(h.deleted[:i]), h.deleted[i+1:]...)
	h.gone = append(h.gone, a)
	for id, m := range h.model {
		if account.ID(m.rec.Account) == a {
			delete(h.model, id)
		}
	}
}

// acceptLate adds a send that was on its way while its account was deleted.
func (h *history) acceptLate() {
	late := append(slices.Clone(h.deleted), h.gone...)
	if len(late) == 0 {
		return
	}
	accounts := h.accounts
	ordered := h.ordered
	h.accounts, h.ordered = late, false
	h.accept()
	h.accounts, h.ordered = accounts, ordered
	m := h.live[len(h.live)-1]
	h.live = h.live[:len(h.live)-1]
	delete(h.model, m.rec.ID)
}

func (h *history) add(cmd []byte) {
	h.log = append(h.log, Entry{Index: uint64(len(h.log)) + 1, Command: cmd})
}

// step adds one random entry.
func (h *history) step() {
	h.now += h.rng.Int64N(400)
	if h.changeAccounts && h.rng.IntN(12) == 0 {
		h.accountStep()
	}
	if h.changeAccounts && h.rng.IntN(50) == 0 {
		h.acceptLate()
	}
	if h.control && h.rng.IntN(10) == 0 {
		h.controlStep()
	}
	if h.ordered && h.rng.IntN(20) == 0 {
		h.releaseStep()
	}
	if h.bodies && h.rng.IntN(30) == 0 {
		h.dropBodies()
	}
	switch p := h.rng.IntN(100); {
	case p < 45 || len(h.live) == 0:
		h.accept()
	case p < 95:
		if m := h.whoseTurn(h.live[h.rng.IntN(len(h.live))]); m != nil {
			h.attempt(m)
		}
	case p < 97: // reported a second time, as after a change of leader
		h.repeat()
	default:
		h.now += h.rng.Int64N(2 * time.Hour.Milliseconds())
	}
}

func (h *history) accept() {
	h.seq = max(h.seq+1, delivery.Sequence(time.UnixMilli(h.now)))
	m := &modelDelivery{status: delivery.Queued}
	m.rec = delivery.Record{
		ID:      delivery.MakeID(h.seq, h.rng.Uint64()),
		Account: uint64(h.accounts[h.rng.IntN(len(h.accounts))]),
		Method:  "POST",
		Target: delivery.Target{
			Scheme: "https", Host: fmt.Sprintf("host-%d.example", h.rng.IntN(3)), Port: 443, URI: "/hook",
		},
		Policy:   delivery.Policy{MaxAttempts: 3, BaseDelay: time.Second, MaxDelay: time.Hour, Timeout: time.Second},
		Metadata: []byte(`{"n":1}`),
		Labels:   []string{fmt.Sprint("label-", h.rng.IntN(2))},
	}
	if h.rng.IntN(4) == 0 {
		m.rec.FlowKey = fmt.Sprint("flow-", h.rng.IntN(2))
	}
	m.rec.Target.URL = "https://" + m.rec.Target.Host + "/hook"
	m.rec.NotBefore = m.rec.ID.UnixMilli()
	if h.rng.IntN(10) == 0 {
		m.rec.NotBefore += h.rng.Int64N(10_000)
	}
	m.body = make([]byte, h.rng.IntN(64))
	if h.rng.IntN(8) == 0 {
		m.body = make([]byte, 1000+h.rng.IntN(3000)) // some are kept beside the row
	}
	for i := range m.body {
		m.body[i] = byte(h.rng.Uint32())
	}
	if h.ordered && h.rng.IntN(3) > 0 {
		h.numbers++
		m.number = h.numbers
		m.rec.OrderingKey, m.rec.SkipFailed = fmt.Sprint("key-", h.rng.IntN(3)), h.rng.IntN(2) == 0
	}
	m.rec.BodyBytes, m.rec.BodyCRC = len(m.body), delivery.BodyCRC(m.body)
	m.updated, m.due = m.rec.ID.UnixMilli(), m.rec.NotBefore
	c := command.Accept{
		Stored:      m.rec.NotBefore-m.rec.ID.UnixMilli() > 2000 || m.number != 0,
		Ordered:     m.number != 0,
		Apart:       h.bodies && h.rng.IntN(3) == 0,
		Destination: m.rec.Destination(),
		Record:      delivery.AppendRecord(nil, &m.rec),
		Body:        m.body,
	}
	if c.Ordered {
		c.OrderHash = delivery.HashOrder(m.rec.OrderingKey)
		h.join(m)
	}
	m.apart = c.Apart && len(m.body) > 0 || len(m.body) > inlineBodyBytes
	h.add(command.AppendAccept(nil, &c))
	h.model[m.rec.ID] = m
	h.live = append(h.live, m)
}

func (h *history) attempt(m *modelDelivery) {
	n := len(m.attempts) + 1
	record := delivery.Attempt{
		Number: n, Outcome: delivery.OutcomeFailed, HTTPStatus: 503, Error: "http_status: 503",
		StartedAt: time.UnixMilli(h.now - 5).UTC(), CreatedAt: time.UnixMilli(h.now).UTC(),
		Latency: 5 * time.Millisecond, ResponseBody: []byte("busy"),
	}
	status := delivery.Retrying
	switch p := h.rng.IntN(10); {
	case p < 6:
		record.Outcome, record.HTTPStatus, record.Error, record.ResponseBody = delivery.OutcomeDelivered, 200, "", nil
		status = delivery.Delivered
	case p == 6:
		record.Outcome, record.HTTPStatus, status = delivery.OutcomeRejected, 404, delivery.Rejected
	case n-m.base >= m.rec.Policy.MaxAttempts:
		status = delivery.DeadLetter
	}
	c := command.Attempt{
		Account: account.ID(m.rec.Account), ID: m.rec.ID, Number: n, Status: status, UpdatedAt: h.now,
	}
	if status == delivery.Retrying {
		c.NextDue = h.now + h.rng.Int64N(5000)
		record.NextAttemptAt = time.UnixMilli(c.NextDue).UTC()
	}
	h.add(command.AppendAttempt(nil, &c, &record))
	m.status, m.updated, m.due = status, h.now, c.NextDue
	m.attempts, m.replayDue = append(m.attempts, record), 0
	if status.Final() {
		h.live = slices.DeleteFunc(h.live, func(l *modelDelivery) bool { return l == m })
		if !(status.Dead() && !m.rec.SkipFailed) && !slices.Contains(h.deleted, c.Account) {
			h.left(m, h.now)
		}
	}
}

// controlStep adds a replay, a cancellation or a purge of a few deliveries of an
// account, one by one or as the step of a job; now and then the job itself.
func (h *history) controlStep() {
	a := h.accounts[h.rng.IntN(len(h.accounts))]
	var own []*modelDelivery
	for _, m := range h.model {
		if account.ID(m.rec.Account) == a {
			own = append(own, m)
		}
	}
	slices.SortFunc(own, func(x, y *modelDelivery) int { return compareIDs(x.rec.ID, y.rec.ID) })
	c := command.Control{Kind: job.Kind(1 + h.rng.IntN(3)), Account: a, At: h.now}
	j, running := h.jobs[a]
	switch p := h.rng.IntN(4); {
	case p == 0 && !running:
		j = job.Job{
			ID: job.ID(len(h.log) + 1), Account: a, Kind: c.Kind, Status: job.Running, Matched: int64(len(own)),
			CreatedAt: time.UnixMilli(h.now).UTC(), UpdatedAt: time.UnixMilli(h.now).UTC(),
		}
		h.jobs[a] = j
		h.add(command.AppendPutJob(nil, &j))
		return
	case p < 2 && running:
		c.Job, c.Kind = j.ID, j.Kind
		if c.Last = h.rng.IntN(4) == 0; c.Last {
			delete(h.jobs, a)
		}
	}
	chosen := make([]*modelDelivery, 0, len(own))
	if c.Kind == job.Purge && h.rng.IntN(2) == 0 {
		// Neighbours: they are removed by range.
		from := h.rng.IntN(len(own) + 1)
		chosen = append(chosen, own[from:min(len(own), from+command.MostControlled)]...)
	} else {
		for range min(len(own), 1+h.rng.IntN(6)) {
			chosen = append(chosen, own[h.rng.IntN(len(own))])
		}
	}
	for _, m := range chosen {
		if slices.Contains(c.IDs, m.rec.ID) {
			continue
		}
		c.IDs = append(c.IDs, m.rec.ID)
		c.After = m.rec.ID
		h.controlOne(&c, m)
	}
	h.add(command.AppendControl(nil, &c))
}

func (h *history) controlOne(c *command.Control, m *modelDelivery) {
	switch {
	case c.Kind == job.Replay && m.status.Final() && !m.dropped && (c.Job == 0 || m.status.Dead()):
		m.status, m.updated, m.due = delivery.Retrying, c.At, c.At
		m.replayed, m.base, m.replayDue = true, len(m.attempts), c.At
		h.live = append(h.live, m)
		h.join(m)
	case c.Kind == job.Cancel && !m.status.Final():
		m.status, m.updated = delivery.Canceled, c.At
		h.live = slices.DeleteFunc(h.live, func(l *modelDelivery) bool { return l == m })
		h.left(m, c.At)
	case c.Kind == job.Purge && m.status.Dead():
		h.left(m, c.At)
		delete(h.model, m.rec.ID)
	}
}

// dropBodies adds a command that drops the bodies of what ended a while ago.
func (h *history) dropBodies() {
	c := command.DropBodies{Last: 1<<64 - 1, Before: h.now - h.rng.Int64N(4*time.Hour.Milliseconds())}
	h.add(command.AppendDropBodies(nil, &c))
	for _, m := range h.model {
		p := placeOf(account.ID(m.rec.Account), m.status, m.rec.ID, m.updated)
		old := m.rec.ID.UnixMilli() < c.Before-lateAfter.Milliseconds()
		if p.late {
			old = p.day < dayOf(c.Before)
		}
		m.dropped = m.dropped || old && m.apart && classOf(m.status) == classDone
	}
}

// retain adds a retention pass that drops what is more than a day old. The
// model does not know of it.
func (h *history) retain() {
	bound := h.now - 24*time.Hour.Milliseconds()
	switch h.rng.IntN(4) {
	case 0:
		h.add(command.AppendTrim(nil, &command.Trim{Last: 1<<64 - 1, Accepted: bound}))
		return
	case 1:
		h.add(command.AppendDropBodies(nil, &command.DropBodies{Last: 1<<64 - 1, Before: bound}))
		return
	}
	h.add(command.AppendRetain(nil, &command.Retain{Last: 1<<64 - 1, Finished: bound, Dead: bound - h.rng.Int64N(1e8), Idempotency: bound}))
}

// repeat reports an attempt once more that is on record.
func (h *history) repeat() {
	for i := len(h.log) - 1; i >= 0; i-- {
		if kind, _, _ := command.Parse(h.log[i].Command); kind == command.KindAttempt {
			h.add(h.log[i].Command)
			return
		}
	}
}

// dump is the whole logical state as text, one line a delivery, in order.
func (h *history) dump() string {
	var lines []string
	for a, row := range h.rows {
		lines = append(lines, dumpAccount(row, []account.Key{h.keys[a]}))
	}
	for _, set := range h.settings {
		lines = append(lines, fmt.Sprintf("set %+v", set))
	}
	for _, a := range h.deleted {
		lines = append(lines, fmt.Sprint("deleted ", a))
	}
	for _, m := range h.model {
		if slices.Contains(h.deleted, account.ID(m.rec.Account)) {
			continue // what is left of it nobody sees
		}
		w := delivery.Row{UpdatedAt: m.updated, Record: delivery.AppendRecord(nil, &m.rec), Count: len(m.attempts),
			Replayed: m.replayed, Base: m.base, ReplayDue: m.replayDue, OrderNumber: m.number}
		for i := range m.attempts {
			w.Attempts = delivery.AppendAttempt(w.Attempts, &m.attempts[i])
		}
		d, err := delivery.View(m.status, &w)
		if err != nil {
			panic(err)
		}
		d.WaitsForOrder = m.waits
		body := m.body
		if m.dropped {
			body = nil
		}
		lines = append(lines, dumpDelivery(account.ID(m.rec.Account), &d, body))
		if !m.status.Final() && !m.waits {
			lane := Lane{account.ID(m.rec.Account), m.rec.Destination()}
			lines = append(lines, dumpQueued(lane, Position{m.queuedAt(), m.rec.ID, uint32(len(m.attempts)) + 1}))
		}
	}
	lines = append(lines, h.dumpOrders()...)
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func dumpAccount(a account.Account, keys []account.Key) string {
	return fmt.Sprintf("account %+v keys %+v", a, keys)
}

func dumpDelivery(a account.ID, d *delivery.Delivery, body []byte) string {
	d.Headers = nil
	return fmt.Sprintf("%s %+v body %d %x", a, *d, len(body), delivery.BodyCRC(body))
}

func dumpQueued(l Lane, p Position) string { return fmt.Sprintf("queue %+v %+v", l, p) }

// dumpState is the same of a state, through the doors that its readers use.
func dumpState(t testing.TB, s *State) string {
	t.Helper()
	var lines []string
	for _, a := range s.Directory().Deleted() {
		lines = append(lines, fmt.Sprint("deleted ", a))
	}
	for _, a := range s.Directory().Accounts() {
		row, _ := s.Directory().Account(a)
		lines = append(lines, dumpAccount(row, s.Directory().Keys(a)))
		for _, set := range s.Directory().Settings(a) {
			lines = append(lines, fmt.Sprintf("set %+v", set))
		}
		var after delivery.ID
		for {
			page, err := s.List(a, &delivery.Filter{}, after, 100)
			if err != nil {
				t.Fatal(err)
			}
			for i := range page.Deliveries {
				d := &page.Deliveries[i]
				found, err := s.Find(a, d.ID)
				if err != nil || found.Status != d.Status {
					t.Fatalf("%s is listed as %s and found as %s: %v", d.ID, d.Status, found.Status, err)
				}
				if d.WaitsForOrder, err = s.WaitsForOrder(a, &found, d.OrderingKey); err != nil {
					t.Fatalf("order of %s: %v", d.ID, err)
				}
				body, err := s.Body(&found)
				if err != nil && !(errors.Is(err, ErrNotFound) && classOf(d.Status) == classDone) {
					t.Fatalf("body of %s: %v", d.ID, err)
				}
				lines = append(lines, dumpDelivery(a, d, body))
			}
			if after = page.Next; after.IsZero() {
				break
			}
		}
	}
	err := s.Lanes(func(l Lane, first Position) {
		if s.Directory().IsDeleted(l.Account) {
			return
		}
		page, more, err := s.QueuePage(l, first, 1<<20)
		if err != nil || more {
			t.Fatalf("queue of %+v: more %t, %v", l, more, err)
		}
		for _, p := range page {
			lines = append(lines, dumpQueued(l, p))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	s.EachYoung(func(y *Young) { lines = append(lines, dumpQueued(y.Lane(), Position{y.Due, y.ID, 1})) })
	lines = append(lines, dumpOrders(t, s)...)
	slices.SortFunc(lines, cmp.Compare[string])
	return strings.Join(lines, "\n")
}

// diff is the first line in which two dumps differ.
func diff(got, want string) string {
	if got == want {
		return ""
	}
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		var a, b string
		if i < len(g) {
			a = g[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != b {
			return fmt.Sprintf("line %d of %d and %d:\n got %s\nwant %s", i, len(g), len(w), a, b)
		}
	}
	return "dumps differ"
}
