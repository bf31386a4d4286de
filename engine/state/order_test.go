package state

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/job"
)

// orderStory is a state with account 1, told in terms of ordering keys.
type orderStory struct {
	*ended
	now     int64
	n       uint64
	records map[delivery.ID]delivery.Record
}

func newOrderStory(t testing.TB) *orderStory {
	return &orderStory{newEnded(t, Options{}), epoch.UnixMilli(), 0, make(map[delivery.ID]delivery.Record)}
}

// accept is the command of a delivery with an ordering key, due after a while.
func (o *orderStory) accept(key string, skip bool, host string, due time.Duration) (delivery.ID, []byte) {
	o.n++
	id := delivery.MakeID(delivery.Sequence(epoch)+o.n, 7)
	rec := delivery.Record{
		ID: id, NotBefore: id.UnixMilli() + due.Milliseconds(), Account: 1, Method: "POST", OrderingKey: key, SkipFailed: skip,
		Target: delivery.Target{URL: "https://" + host + "/hook", Scheme: "https", Host: host, Port: 443, URI: "/hook"},
		Policy: delivery.Policy{MaxAttempts: 1, Timeout: 10 * time.Second}, BodyCRC: delivery.BodyCRC(nil),
	}
	o.records[id] = rec
	return id, command.AppendAccept(nil, &command.Accept{
		Stored: true, Ordered: true, OrderHash: delivery.HashOrder(key), Destination: rec.Destination(),
		Record: delivery.AppendRecord(nil, &rec),
	})
}

func (o *orderStory) send(key string, skip bool) delivery.ID {
	o.t.Helper()
	id, cmd := o.accept(key, skip, "a.example", 0)
	o.apply(cmd)
	return id
}

// end records attempt n of a delivery a second later, and returns what has its
// turn by it.
func (o *orderStory) end(id delivery.ID, n int, st delivery.Status) []delivery.ID {
	o.t.Helper()
	o.now += 1000
	at := delivery.Attempt{Number: n, Outcome: delivery.OutcomeFailed, HTTPStatus: 500, StartedAt: epoch, CreatedAt: epoch}
	c := command.Attempt{Account: 1, ID: id, Number: n, Status: st, UpdatedAt: o.now}
	if st == delivery.Retrying {
		c.NextDue = o.now + 5
		at.NextAttemptAt = time.UnixMilli(c.NextDue)
	}
	return turns(o.apply(command.AppendAttempt(nil, &c, &at)))
}

func (o *orderStory) control(k job.Kind, ids ...delivery.ID) []delivery.ID {
	o.t.Helper()
	o.now += 1000
	return turns(o.apply(command.AppendControl(nil, &command.Control{Kind: k, Account: 1, At: o.now, IDs: ids})))
}

func turns(entries []Entry) (ids []delivery.ID) {
	for _, e := range entries {
		if e.Effect != nil {
			for _, r := range e.Effect.Requeued {
				ids = append(ids, r.ID)
			}
		}
	}
	return ids
}

// queued are the deliveries in the queues of all lanes, by due time.
func (o *orderStory) queued() (ids []delivery.ID) {
	o.t.Helper()
	var all []Position
	err := o.state.Lanes(func(l Lane, first Position) {
		page, _, err := o.state.QueuePage(l, first, 1000)
		if err != nil {
			o.t.Fatal(err)
		}
		all = append(all, page...)
	})
	if err != nil {
		o.t.Fatal(err)
	}
	slices.SortFunc(all, func(a, b Position) int { return int(a.Due - b.Due) })
	for _, p := range all {
		ids = append(ids, p.ID)
	}
	return ids
}

// want fails unless got is what is in the lanes, and the state fits together.
func (o *orderStory) want(when string, got []delivery.ID, want ...delivery.ID) {
	o.t.Helper()
	if !slices.Equal(got, want) {
		o.t.Errorf("%s: %v have their turn, want %v", when, got, want)
	}
	if r, err := o.state.Verify(); err != nil || len(r.Findings) > 0 {
		o.t.Fatalf("%s: verify: %v, %v", when, r.Findings, err)
	}
}

func TestOneOfAKeyAtATime(t *testing.T) {
	o := newOrderStory(t)
	a, b, c := o.send("k", false), o.send("k", false), o.send("k", false)
	other := o.send("other", false)
	o.want("at first", o.queued(), a, other)
	o.want("after a failure", o.end(a, 1, delivery.Retrying))
	o.want("while it is retried", o.queued(), other, a)
	o.want("after a delivery", o.end(a, 2, delivery.Delivered), b)
	o.want("after that", o.queued(), other, b)
	o.want("after another", o.end(b, 1, delivery.Delivered), c)
	o.want("after the last", o.end(c, 1, delivery.Delivered))
	if keys := o.keys(spaceOrder) + o.keys(spaceTurn) + o.keys(spaceHeld); keys != 1 {
		t.Errorf("%d keys of orders, want the one of the other key", keys)
	}
	d := o.send("k", false)
	o.want("later", o.queued(), other, d)
}

func (o *orderStory) keys(space byte) (n int) {
	o.t.Helper()
	if err := o.state.scan([]byte{space}, []byte{space + 1}, func(_, _ []byte) error { n++; return nil }); err != nil {
		o.t.Fatal(err)
	}
	return n
}

// What has its turn is due from then on: it did not keep its lane waiting before.
// One that is not to begin before a moment begins then.
func TestTurnIsDueWhenItComes(t *testing.T) {
	o := newOrderStory(t)
	a, cmdA := o.accept("k", false, "a.example", 0)
	b, cmdB := o.accept("k", false, "b.example", 0)
	c, cmdC := o.accept("k", false, "b.example", time.Hour)
	entries := o.apply(cmdA, cmdB, cmdC)
	o.want("at first", turns(entries), a)
	due := func(id delivery.ID) int64 {
		t.Helper()
		rec := o.records[id]
		l := Lane{1, rec.Destination()}
		page, _, err := o.state.QueuePage(l, Position{}, 10)
		if err != nil || len(page) != 1 || page[0].ID != id {
			t.Fatalf("queue of %s: %v, %v", id, page, err)
		}
		return page[0].Due
	}
	o.want("then", o.end(a, 1, delivery.Delivered), b)
	if got := due(b); got != o.now {
		t.Errorf("the second is due at %d, want %d, when the first was delivered", got, o.now)
	}
	o.want("then", o.end(b, 1, delivery.Delivered), c)
	if got, want := due(c), o.records[c].NotBefore; got != want {
		t.Errorf("the third is due at %d, want %d, its not_before", got, want)
	}
}

func TestDeadLetterHoldsItsKeyOrIsSkipped(t *testing.T) {
	o := newOrderStory(t)
	a, b, c, d := o.send("k", true), o.send("k", false), o.send("k", false), o.send("k", false)
	o.want("one that is skipped", o.end(a, 1, delivery.DeadLetter), b)
	o.want("one that holds", o.end(b, 1, delivery.Rejected))
	o.want("meanwhile", o.queued())
	o.want("one is replayed that was skipped: it waits", o.control(job.Replay, a))
	o.want("the one that holds is replayed", o.control(job.Replay, b), b)
	o.want("and dies again", o.end(b, 2, delivery.DeadLetter))
	o.want("and is replayed and delivered", o.control(job.Replay, b), b)
	o.want("the skipped one was accepted before those that wait", o.end(b, 3, delivery.Delivered), a)
	o.want("it dies again", o.end(a, 2, delivery.DeadLetter), c)
	o.want("one that holds", o.end(c, 1, delivery.DeadLetter))
	o.want("is purged", o.control(job.Purge, c), d)
}

func TestCancelOfOneThatWaits(t *testing.T) {
	o := newOrderStory(t)
	a, b, c := o.send("k", false), o.send("k", false), o.send("k", false)
	o.want("one that waits is cancelled", o.control(job.Cancel, b))
	o.want("nothing else has changed", o.queued(), a)
	o.want("the first is cancelled", o.control(job.Cancel, a), c)
	o.want("the cancelled ones are replayed", o.control(job.Replay, b, a))
	o.want("in the order of their acceptance", o.end(c, 1, delivery.Delivered), a)
	o.want("in the order of their acceptance", o.end(a, 1, delivery.Delivered), b)
	if got := o.state.Pending(); got != 1 {
		t.Errorf("%d pending, want 1", got)
	}
}

// One that has its turn and loses it within one command is not said to have it.
func TestTurnThatIsCancelledAtOnce(t *testing.T) {
	o := newOrderStory(t)
	a, b, c := o.send("k", false), o.send("k", false), o.send("k", false)
	o.want("the first two are cancelled", o.control(job.Cancel, a, b), c)
	o.want("then", o.queued(), c)
}

// An attempt is reported of one that waits for its turn, because it was cancelled
// and replayed during the attempt: it is passed over.
func TestReportOfOneThatWaits(t *testing.T) {
	o := newOrderStory(t)
	a, b := o.send("k", false), o.send("k", false)
	o.control(job.Cancel, a)
	o.control(job.Replay, a)
	o.want("the report", o.end(a, 1, delivery.Delivered))
	o.want("the other goes on", o.end(b, 1, delivery.Delivered), a)
}

// When retention has dropped the dead letter that holds a key, the key can be let
// go on, and not before.
func TestKeyOfALostDeadLetterGoesOn(t *testing.T) {
	o := newOrderStory(t)
	ids := make(map[string][2]delivery.ID)
	for _, key := range []string{"x", "y", "z"} {
		ids[key] = [2]delivery.ID{o.send(key, false), o.send(key, false)}
	}
	o.end(ids["x"][0], 1, delivery.DeadLetter)
	o.end(ids["z"][0], 1, delivery.Rejected)
	release := func(want int) (let []delivery.ID) {
		t.Helper()
		var after Order
		found := 0
		for {
			gone, next, err := o.state.Abandoned(after, 1)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range gone {
				found++
				c.At = o.now
				let = append(let, turns(o.apply(command.AppendReleaseOrder(nil, &c)))...)
			}
			if after = next; after == (Order{}) {
				break
			}
		}
		if found != want {
			t.Errorf("%d keys are held by nothing, want %d", found, want)
		}
		return let
	}
	o.want("as long as the dead letters are there", release(0))
	rec := o.records[ids["x"][0]]
	o.apply(command.AppendReleaseOrder(nil, &command.ReleaseOrder{Account: 1, Number: 1, Hash: delivery.HashOrder(rec.OrderingKey), At: o.now}))
	o.want("a command too early does nothing", o.queued(), ids["y"][0])
	o.apply(command.AppendTrim(nil, &command.Trim{Last: 1<<64 - 1, Accepted: epoch.UnixMilli() + 1000}))
	let := release(2)
	slices.SortFunc(let, compareIDs)
	o.want("once they are dropped", let, ids["x"][1], ids["z"][1])
	o.want("and only once", release(0))
}

// The number of a place in an order goes on after a restart.
func TestOrderNumbersGoOn(t *testing.T) {
	m := meta{applied: 5, low: 3, pending: -2, ordered: 1 << 40}
	for range 2 {
		if got, err := decodeMeta(m.append(nil)); err != nil || got != m {
			t.Errorf("%+v, %v, want %+v", got, err, m)
		}
		m.ordered = 0 // as a state of the first release has it
	}
	if b := m.append(nil); b[0] != metaVersion {
		t.Errorf("without ordering keys a state has version %d, want %d: an earlier release can read it", b[0], metaVersion)
	}
}

func TestVerifyFindsOrdersThatDoNotFit(t *testing.T) {
	k := Order{1, delivery.HashOrder("k")}
	held := Order{1, delivery.HashOrder("held")}
	for name, damage := range map[string]func(b *pebble.Batch) error{
		"an order is gone": func(b *pebble.Batch) error { return b.Delete(appendOrder(nil, spaceOrder, k), nil) },
		"a turn is gone":   func(b *pebble.Batch) error { return b.Delete(appendTurn(nil, k, 2), nil) },
		"a turn is of nobody": func(b *pebble.Batch) error {
			return b.Set(appendTurn(nil, k, 9), (&turn{id: delivery.MakeID(1, 1)}).append(nil), nil)
		},
		"a turn is not one":   func(b *pebble.Batch) error { return b.Set(appendTurn(nil, k, 2), []byte{1}, nil) },
		"an order is not one": func(b *pebble.Batch) error { return b.Set(appendOrder(nil, spaceOrder, k), []byte{1}, nil) },
		"an order of no account": func(b *pebble.Batch) error {
			return b.Set(appendOrder(nil, spaceOrder, Order{Account: 99}), (&orderHead{}).append(nil), nil)
		},
		"a held order is not listed": func(b *pebble.Batch) error { return b.Delete(appendOrder(nil, spaceHeld, held), nil) },
		"an order is listed as held": func(b *pebble.Batch) error { return b.Set(appendOrder(nil, spaceHeld, k), nil, nil) },
		"a dead letter does not hold": func(b *pebble.Batch) error {
			return b.Delete(appendOrder(nil, spaceOrder, held), nil)
		},
		"who waits cannot be found": func(b *pebble.Batch) error {
			h, _, err := readOrderHead(b, k)
			h.low = 3
			return errors.Join(err, b.Set(appendOrder(nil, spaceOrder, k), h.append(nil), nil))
		},
	} {
		o := newOrderStory(t)
		o.send("k", false)
		o.send("k", false)
		o.end(o.send("held", false), 1, delivery.DeadLetter)
		o.want("at first", o.queued(), delivery.MakeID(delivery.Sequence(epoch)+1, 7))
		b := o.state.db.NewIndexedBatch()
		if err := errors.Join(damage(b), b.Commit(pebble.NoSync)); err != nil {
			t.Fatal(err)
		}
		if r, err := o.state.Verify(); err != nil || len(r.Findings) == 0 {
			t.Errorf("%s: nothing found, %v", name, err)
		}
	}
}

// A sweep takes the orders of an account along.
func TestSweepTakesOrdersAlong(t *testing.T) {
	o := newOrderStory(t)
	first := o.send("k", false)
	o.send("k", false)
	o.end(o.send("held", false), 1, delivery.DeadLetter)
	o.apply(command.AppendDeleteAccount(nil, account.ID(1), o.now))
	o.end(first, 1, delivery.Delivered) // its attempt was under way
	for o.state.dir.IsDeleted(1) {
		o.apply(command.AppendSweepAccount(nil, 1, 1))
	}
	if n := o.keys(spaceOrder) + o.keys(spaceTurn) + o.keys(spaceHeld) + o.keys(spaceQueue); n != 0 {
		t.Errorf("%d keys are left", n)
	}
	if n := o.state.Pending(); n != 0 {
		t.Errorf("%d pending", n)
	}
}

// An account may be deleted before a key of its goes on whose dead letter was
// dropped. What the command would give a turn may be swept by then.
func TestKeyOfADeletedAccountDoesNotGoOn(t *testing.T) {
	o := newOrderStory(t)
	dead := o.send("k", false)
	o.send("k", false)
	o.end(dead, 1, delivery.DeadLetter)
	o.apply(command.AppendTrim(nil, &command.Trim{Last: 1<<64 - 1, Accepted: epoch.UnixMilli() + 1000}))
	gone, _, err := o.state.Abandoned(Order{}, 10)
	if err != nil || len(gone) != 1 {
		t.Fatalf("%d keys are held by nothing, %v; want one", len(gone), err)
	}
	o.apply(command.AppendDeleteAccount(nil, account.ID(1), o.now))
	if gone, _, err := o.state.Abandoned(Order{}, 10); err != nil || len(gone) > 0 {
		t.Errorf("keys %v of a deleted account are to go on, %v", gone, err)
	}
	o.apply(command.AppendSweepAccount(nil, 1, 1)) // its pending delivery, not yet the rest
	if got := turns(o.apply(command.AppendReleaseOrder(nil, &gone[0]))); len(got) > 0 {
		t.Errorf("%v have their turn after the deletion of their account", got)
	}
	o.apply(command.AppendSweepAccount(nil, 1, 1))
	if o.state.dir.IsDeleted(1) || o.keys(spaceQueue) > 0 {
		t.Error("the account is not swept")
	}
}
