package state

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/engine/delivery"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// runs is how often a random test runs: few in make test, many in make crash.
func runs(t testing.TB, few int) int {
	if v := os.Getenv("HAREPOST_CRASH_N"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			t.Fatalf("HAREPOST_CRASH_N: %v", err)
		}
		return max(n, few)
	}
	return few
}

// seeded runs fn with random seeds, or with the one of HAREPOST_SEED.
func seeded(t *testing.T, few int, fn func(t *testing.T, seed uint64)) {
	if v := os.Getenv("HAREPOST_SEED"); v != "" {
		seed, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			t.Fatalf("HAREPOST_SEED: %v", err)
		}
		fn(t, seed)
		return
	}
	for range runs(t, few) {
		seed := rand.Uint64()
		t.Run(fmt.Sprint("HAREPOST_SEED=", seed), func(t *testing.T) { fn(t, seed) })
	}
}

func openState(t testing.TB, fs vfs.FS, o Options) *State {
	t.Helper()
	o.FS, o.Logger = fs, quiet
	if o.CacheBytes == 0 {
		o.CacheBytes = 1 << 20
	}
	if o.MemTableBytes == 0 {
		o.MemTableBytes = 256 << 10
	}
	s, err := Open("state", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// applyAll applies entries in batches of random length, and returns what Apply has
// noted in them.
func applyAll(t testing.TB, s *State, rng *rand.Rand, entries []Entry, most int) (applied []Entry) {
	t.Helper()
	for len(entries) > 0 {
		n := min(1+rng.IntN(most), len(entries))
		batch := make([]Entry, n) // Apply notes its findings in there
		for i, e := range entries[:n] {
			batch[i] = Entry{Index: e.Index, Command: e.Command}
		}
		if err := s.Apply(batch, nil); err != nil {
			t.Fatal(err)
		}
		applied = append(applied, batch...)
		entries = entries[n:]
	}
	return applied
}

// told is what Apply says of an entry.
func told(e *Entry) string {
	var effect Effect
	if e.Effect != nil {
		effect = *e.Effect
	}
	return fmt.Sprintf("ignored %t changed %s set %+v %t %+v", e.Ignored, e.Changed, e.Set, e.Effect != nil, effect)
}

// The same log gives the same state, and says the same of each entry, however it is
// cut into batches, however long deliveries stay young, and whatever bodies are
// dropped; and the state is what the model says.
func TestApplyIsDeterministic(t *testing.T) {
	seeded(t, 6, func(t *testing.T, seed uint64) {
		h := newHistory(seed)
		h.changeAccounts, h.control, h.ordered, h.bodies = seed%2 == 0, seed%3 < 2, seed%5 < 4, seed%7 < 6
		for range 600 {
			h.step()
		}
		want := h.dump()
		var first []Entry
		for name, c := range map[string]struct {
			most int
			opts Options
		}{
			"one by one":       {1, Options{}},
			"all at once":      {len(h.log), Options{}},
			"never young":      {7, Options{YoungDeliveries: 1, YoungBytes: 1}},
			"soon old":         {40, Options{YoungDeliveries: 20}},
			"old by log bytes": {3, Options{YoungLogBytes: 3000}},
		} {
			s := openState(t, vfs.NewMem(), c.opts)
			applied := applyAll(t, s, rand.New(rand.NewPCG(seed, 2)), h.log, c.most)
			if first == nil {
				first = applied
			}
			for i := range applied {
				if got, want := told(&applied[i]), told(&first[i]); got != want {
					t.Fatalf("%s: entry %d:\n got %s\nwant %s", name, i+1, got, want)
				}
			}
			if d := diff(dumpState(t, s), want); d != "" {
				t.Fatalf("%s: %s", name, d)
			}
			if r, err := s.Verify(); err != nil || len(r.Findings) > 0 {
				t.Fatalf("%s: verify: %v, %v", name, r.Findings, err)
			}
			if got := s.Pending(); got != int64(len(h.live)) {
				t.Fatalf("%s: %d pending, want %d", name, got, len(h.live))
			}
		}
	})
}

// A crash leaves an exact prefix of the log in the state, and replaying the
// log from Low brings everything back, young deliveries and dropped ranges
// included; also when the replay is cut off by another crash.
func TestReplayAfterCrash(t *testing.T) {
	seeded(t, 20, func(t *testing.T, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 3))
		h := newHistory(seed)
		h.changeAccounts, h.control, h.ordered = true, true, true
		for range 400 {
			h.step()
			if rng.IntN(50) == 0 {
				h.retain()
			}
		}
		fs := vfs.NewCrashableMem()
		for crashes := 0; ; crashes++ {
			s := openState(t, fs, Options{YoungDeliveries: 1 + rng.IntN(200), MemTableBytes: 64 << 10})
			low, applied := s.Low(), s.Applied()
			for _, e := range h.log[min(low, applied+1)-1 : applied] {
				if err := s.Rebuild(e); err != nil {
					t.Fatal(err)
				}
			}
			if d := diff(dumpState(t, s), reference(t, h.log[:applied])); d != "" {
				t.Fatalf("crash %d left %d applied, low %d: %s", crashes, applied, low, d)
			}
			if r, err := s.Verify(); err != nil || len(r.Findings) > 0 {
				t.Fatalf("crash %d left %d applied: verify: %v, %v", crashes, applied, r.Findings, err)
			}
			if crashes == 3 {
				applyAll(t, s, rng, h.log[applied:], 50)
				if d := diff(dumpState(t, s), reference(t, h.log)); d != "" {
					t.Fatalf("after %d crashes, from %d, low %d: %s", crashes, applied, low, d)
				}
				return
			}
			upTo := int(applied) + rng.IntN(len(h.log)-int(applied)+1)
			applyAll(t, s, rng, h.log[applied:upTo], 50)
			if rng.IntN(2) == 0 {
				if err := s.Flush(); err != nil {
					t.Fatal(err)
				}
				applyAll(t, s, rng, h.log[upTo:min(upTo+20, len(h.log))], 5)
			}
			fs = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// reference is the dump of a state that has applied a log entry by entry, and
// never crashed.
func reference(t *testing.T, log []Entry) string {
	s := openState(t, vfs.NewMem(), Options{})
	applyAll(t, s, rand.New(rand.NewPCG(0, 0)), log, 1)
	return dumpState(t, s)
}

// What Durable reports is what a crash would leave: the log may be cut there.
func TestDurableIsWhatACrashLeaves(t *testing.T) {
	fs := vfs.NewCrashableMem()
	reports := make(chan [2]uint64, 100)
	s := openState(t, fs, Options{Durable: func(applied, low uint64) { reports <- [2]uint64{applied, low} }})
	h := newHistory(1)
	for range 100 {
		h.step()
	}
	rng := rand.New(rand.NewPCG(1, 1))
	applyAll(t, s, rng, h.log[:60], 10)
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	low := s.Low()
	applyAll(t, s, rng, h.log[60:], 10)
	if got, want := <-reports, [2]uint64{60, low}; got != want {
		t.Fatalf("durable: applied and low %v, want %v", got, want)
	}
	crashed := openState(t, fs.CrashClone(vfs.CrashCloneCfg{}), Options{})
	if crashed.Applied() != 60 || crashed.Low() != low {
		t.Fatalf("after the crash: applied %d, low %d, want 60, %d", crashed.Applied(), crashed.Low(), low)
	}
}

func TestVerifyFindsWhatDoesNotFit(t *testing.T) {
	h := newHistory(41)
	for range 300 {
		h.step()
	}
	var queued, retrying *modelDelivery
	for _, m := range h.live {
		if m.status == delivery.Retrying {
			retrying = m
		} else if m.rec.NotBefore == m.rec.ID.UnixMilli() && m.apart {
			queued = m
		}
	}
	at := place{account: account.ID(retrying.rec.Account), status: delivery.Retrying, id: retrying.rec.ID}
	other := h.accounts[0]
	if other == at.account {
		other = h.accounts[1]
	}
	lane := Lane{at.account, retrying.rec.Destination()}
	next := appendQueue(nil, lane, Position{retrying.due, at.id, uint32(len(retrying.attempts)) + 1})
	withBody := place{account: account.ID(queued.rec.Account), status: delivery.Queued, id: queued.rec.ID}
	for name, damage := range map[string]func(b *pebble.Batch) error{
		"a queued attempt is gone": func(b *pebble.Batch) error { return b.Delete(next, nil) },
		"a pending row is gone":    func(b *pebble.Batch) error { return b.Delete(at.appendRow(nil), nil) },
		"a row is not a row":       func(b *pebble.Batch) error { return b.Set(at.appendRow(nil), []byte("x"), nil) },
		"a pending body is gone":   func(b *pebble.Batch) error { return b.Delete(withBody.appendBody(nil), nil) },
		"a body is another one":    func(b *pebble.Batch) error { return b.Set(withBody.appendBody(nil), []byte("x"), nil) },
		"a row under another's key": func(b *pebble.Batch) error {
			at := at
			at.account = other
			return b.Set(at.appendRow(nil), []byte{1}, nil)
		},
		"a row of no account":     func(b *pebble.Batch) error { at := at; at.account++; return b.Set(at.appendRow(nil), []byte{1}, nil) },
		"a key of no account":     func(b *pebble.Batch) error { return b.Set(appendAPIKey(nil, 99, 1), []byte{1}, nil) },
		"a lane is counted wrong": func(b *pebble.Batch) error { return b.Set(appendBacklog(nil, lane), []byte{99, 1, 0}, nil) },
		"a lane is not counted":   func(b *pebble.Batch) error { return b.Delete(appendBacklog(nil, lane), nil) },
		"a lane with nothing in it is counted": func(b *pebble.Batch) error {
			return b.Set(appendBacklog(nil, Lane{at.account, 1}), []byte{1, 1, 0}, nil)
		},
		"a job of no account":    func(b *pebble.Batch) error { return b.Set(appendJob(nil, 99, 1), []byte{1}, nil) },
		"a domain of no account": func(b *pebble.Batch) error { return b.Set(appendDomain(nil, 99, "x.example"), []byte{1}, nil) },
	} {
		s := openState(t, vfs.NewMem(), Options{YoungDeliveries: 1, YoungBytes: 1})
		applyAll(t, s, h.rng, h.log, 30)
		b := s.db.NewBatch()
		if err := errors.Join(damage(b), b.Commit(pebble.NoSync)); err != nil {
			t.Fatal(err)
		}
		if r, err := s.Verify(); err != nil || len(r.Findings) == 0 {
			t.Errorf("%s: nothing found, %v", name, err)
		}
	}
}

// A delivery that ends with its first attempt costs one key, whatever it
// would have cost to index it.
func TestFinishedAtOnceIsWrittenOnce(t *testing.T) {
	h := newHistory(5)
	before := len(h.log)
	h.accept()
	m := h.live[0]
	m.body = m.body[:min(len(m.body), 64)]
	for m.status != delivery.Delivered {
		h = newHistory(h.rng.Uint64())
		h.accept()
		if m = h.live[0]; len(m.body) <= 64 && m.rec.NotBefore == m.rec.ID.UnixMilli() {
			h.attempt(m)
		}
	}
	s := openState(t, vfs.NewMem(), Options{})
	applyAll(t, s, h.rng, h.log[:before], 10)
	keys := func() (n int) {
		for _, space := range []byte{spaceRow, spaceLateRow, spaceBody, spaceLateBody, spaceQueue, spaceBacklog} {
			if err := s.scan([]byte{space}, []byte{space + 1}, func(_, _ []byte) error { n++; return nil }); err != nil {
				t.Fatal(err)
			}
		}
		return n
	}
	applyAll(t, s, h.rng, h.log[before:before+1], 1)
	if n := keys(); n != 0 {
		t.Errorf("an accepted delivery has %d keys, want none before its first attempt", n)
	}
	if s.Young() != 1 {
		t.Errorf("%d young, want 1", s.Young())
	}
	applyAll(t, s, h.rng, h.log[before+1:], 1)
	if n := keys(); n != 1 {
		t.Errorf("a delivered delivery has %d keys, want 1", n)
	}
}

func TestRetention(t *testing.T) {
	h := newHistory(11)
	for range 1500 {
		h.step()
	}
	s := openState(t, vfs.NewMem(), Options{YoungDeliveries: 50})
	applyAll(t, s, h.rng, h.log, 30)

	// Nothing is old yet.
	bounds := command.Retain{Last: 1<<64 - 1, Finished: epoch.UnixMilli(), Dead: epoch.UnixMilli(), Idempotency: epoch.UnixMilli()}
	if needed, _, err := s.NeedsRetain(bounds); needed || err != nil {
		t.Fatalf("retention is needed: %t, %v, though nothing is old", needed, err)
	}
	// Half of the time is over for the finished, none for the dead.
	bounds.Finished = (epoch.UnixMilli() + h.now) / 2
	if needed, _, err := s.NeedsRetain(bounds); !needed || err != nil {
		t.Fatalf("retention is needed: %t, %v, want true", needed, err)
	}
	retain := func(c command.Retain) {
		h.add(command.AppendRetain(nil, &c))
		applyAll(t, s, h.rng, h.log[len(h.log)-1:], 1)
	}
	retain(bounds)
	count := func(st delivery.Status) (kept, old int) {
		for _, m := range h.model {
			if m.status != st {
				continue
			}
			a := account.ID(m.rec.Account)
			found, err := s.Find(a, m.rec.ID)
			if errors.Is(err, ErrNotFound) {
				if m.updated >= bounds.Finished {
					t.Errorf("%s ended at %d, after the bound %d, and is gone", m.rec.ID, m.updated, bounds.Finished)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Body(&found); err != nil {
				t.Errorf("%s is kept and its body is not: %v", m.rec.ID, err)
			}
			kept++
			// On time: dropped an hour late at most. Late: within its day.
			if m.updated < bounds.Finished-25*time.Hour.Milliseconds() {
				old++
			}
		}
		return kept, old
	}
	if kept, old := count(delivery.Delivered); old != 0 || kept == 0 {
		t.Errorf("delivered: %d kept, of which %d are too old", kept, old)
	}
	for _, st := range []delivery.Status{delivery.Queued, delivery.Retrying, delivery.Rejected, delivery.DeadLetter} {
		all := 0
		for _, m := range h.model {
			if m.status == st {
				all++
			}
		}
		if kept, _ := count(st); kept != all || all == 0 {
			t.Errorf("%s: %d of %d kept, want all", st, kept, all)
		}
	}
	// At the end of all time only what is pending is left.
	end := h.now + 400*dayMillis
	bounds = command.Retain{Last: 1<<64 - 1, Finished: end, Dead: end, Idempotency: end}
	retain(bounds)
	for _, space := range []byte{spaceLateRow, spaceLateBody, spaceIdempotency} {
		if err := s.scan([]byte{space}, []byte{space + 1}, func(k, _ []byte) error {
			return fmt.Errorf("key %x is left", k)
		}); err != nil {
			t.Error(err)
		}
	}
	if got := s.Pending(); got != int64(len(h.live)) {
		t.Errorf("%d pending, want %d", got, len(h.live))
	}
	for _, m := range h.live {
		if _, err := s.Find(account.ID(m.rec.Account), m.rec.ID); err != nil {
			t.Errorf("pending %s: %v", m.rec.ID, err)
		}
	}
}

func TestListFilters(t *testing.T) {
	h := newHistory(21)
	for range 700 {
		h.step()
	}
	s := openState(t, vfs.NewMem(), Options{YoungDeliveries: 40})
	applyAll(t, s, h.rng, h.log, 30)
	mid := time.UnixMilli((epoch.UnixMilli() + h.now) / 2)
	for _, f := range []delivery.Filter{
		{},
		{Status: delivery.Queued}, {Status: delivery.Retrying}, {Status: delivery.Delivered},
		{Status: delivery.Rejected}, {Status: delivery.DeadLetter}, {Status: delivery.Canceled},
		{Host: "host-1.example"}, {TargetPrefix: "https://host-2"}, {TargetPrefix: "http://"},
		{Label: "label-1"}, {Since: mid}, {Until: mid}, {Since: mid, Until: mid.Add(time.Hour)},
		{Status: delivery.Rejected, Label: "label-0", Since: mid},
	} {
		for _, limit := range []int{1, 7, 100} {
			checkList(t, s, h, f, limit)
		}
	}
}

// checkList pages through a list and compares it with the model.
func checkList(t *testing.T, s *State, h *history, f delivery.Filter, limit int) {
	t.Helper()
	for _, a := range h.accounts {
		want := make(map[delivery.ID]bool)
		for id, m := range h.model {
			d := delivery.Delivery{
				Status: m.status, Target: m.rec.Target.URL, Host: m.rec.Target.Host,
				Labels: m.rec.Labels, CreatedAt: id.Time(),
			}
			if account.ID(m.rec.Account) == a && f.Match(&d) {
				want[id] = true
			}
		}
		last, after := lastID, delivery.ID{}
		for {
			page, err := s.List(a, &f, after, limit)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range page.Deliveries {
				if compareIDs(d.ID, last) >= 0 {
					t.Fatalf("%+v, limit %d: %s comes after %s", f, limit, d.ID, last)
				}
				if !want[d.ID] {
					t.Fatalf("%+v, limit %d: %s should not be there", f, limit, d.ID)
				}
				delete(want, d.ID)
				last = d.ID
			}
			if page.Next.IsZero() {
				break
			}
			if len(page.Deliveries) == 0 {
				t.Fatalf("%+v, limit %d: an empty page that is not the last", f, limit)
			}
			after = page.Next
		}
		if len(want) > 0 {
			t.Fatalf("%+v, limit %d: %d deliveries are missing", f, limit, len(want))
		}
	}
}

func TestIdempotent(t *testing.T) {
	s := openState(t, vfs.NewMem(), Options{})
	h := newHistory(31)
	h.accept()
	_, r, err := command.Parse(h.log[len(h.log)-1].Command)
	if err != nil {
		t.Fatal(err)
	}
	c, err := command.ReadAccept(&r)
	if err != nil {
		t.Fatal(err)
	}
	c.Idempotent, c.Hash = true, [16]byte{9}
	h.log[len(h.log)-1].Command = command.AppendAccept(nil, &c)
	applyAll(t, s, h.rng, h.log, 10)
	m := h.live[0]
	a, at := account.ID(m.rec.Account), m.rec.ID.Time()
	const window = 24 * time.Hour
	for _, c := range []struct {
		name    string
		account account.ID
		hash    [16]byte
		now     time.Time
		found   bool
	}{
		{"at once", a, [16]byte{9}, at, true},
		{"at the window's end", a, [16]byte{9}, at.Add(window - time.Millisecond), true},
		{"after the window", a, [16]byte{9}, at.Add(window), false},
		{"by a clock that was set back", a, [16]byte{9}, at.Add(-idempotencyBucket), true},
		{"another key", a, [16]byte{8}, at, false},
		{"another account", a + 1, [16]byte{9}, at, false},
	} {
		id, found, err := s.Idempotent(c.account, c.hash, c.now, window)
		if err != nil || found != c.found || found && id != m.rec.ID {
			t.Errorf("%s: %s, %t, %v; want found %t", c.name, id, found, err, c.found)
		}
	}
}

// A page that examined as many young deliveries as it may says where to go on,
// also when nothing but young ones follows.
func TestListGoesOnThroughManyYoung(t *testing.T) {
	s := openState(t, vfs.NewMem(), Options{})
	h := newHistory(32)
	h.accounts = h.accounts[:1]
	const young = mostExamined + 100
	log := slices.Clone(h.log) // the accounts
	for accounts := len(log); len(log) < young+accounts; {
		h.accept()
		e := h.log[len(h.log)-1]
		_, r, err := command.Parse(e.Command)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := command.ReadAccept(&r); err != nil {
			t.Fatal(err)
		} else if !c.Stored {
			e.Index = uint64(len(log) + 1)
			log = append(log, e)
		}
	}
	applyAll(t, s, h.rng, log, 100)
	pages := 0
	for after, more := (delivery.ID{}), true; more; pages++ {
		page, err := s.List(h.accounts[0], &delivery.Filter{Label: "none of them"}, after, 100)
		if err != nil {
			t.Fatal(err)
		}
		after, more = page.Next, !page.Next.IsZero()
	}
	if pages != 2 {
		t.Errorf("%d pages that examine %d each, for %d young", pages, mostExamined, young)
	}
}

// A pending delivery whose body is gone is damage, and is not taken for one
// that has ended.
func TestMissingBodyIsNotAnEnd(t *testing.T) {
	s := openState(t, vfs.NewMem(), Options{YoungDeliveries: 1})
	h := newHistory(33)
	for range 100 {
		h.accept()
	}
	applyAll(t, s, h.rng, h.log, 10)
	missing := 0
	for _, m := range h.live[:len(h.live)-1] {
		if !m.apart {
			continue
		}
		missing++
		p := place{account: account.ID(m.rec.Account), status: delivery.Queued, id: m.rec.ID}
		if err := s.db.Delete(p.appendBody(nil), pebble.NoSync); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.FindPending(p.account, p.id, 1); err == nil || errors.Is(err, ErrNotFound) {
			t.Errorf("%s without its body: %v", p.id, err)
		}
	}
	if missing == 0 {
		t.Error("no body is kept beside its row: nothing was tested")
	}
}

// Where one index has several accepts, those that are young after a crash are
// those that were before: none is in the disk queue as well.
func TestYoungOfOneIndexLeaveTogether(t *testing.T) {
	fs := vfs.NewMem()
	o := Options{YoungDeliveries: 55}
	s := openState(t, fs, o)
	h := newHistory(34)
	for range 100 {
		h.accept()
	}
	const perIndex = 10
	log := h.log[:len(h.log)/perIndex*perIndex]
	for i := range log {
		log[i].Index = uint64(i/perIndex + 1)
	}
	for i := 0; i < len(log); i += perIndex {
		if err := s.Apply(log[i:i+perIndex], nil); err != nil {
			t.Fatal(err)
		}
	}
	want := s.Young()
	if err := errors.Join(s.Flush(), s.Close()); err != nil {
		t.Fatal(err)
	}
	s = openState(t, fs, o)
	for _, e := range log {
		if e.Young = nil; e.Index >= s.Low() && e.Index <= s.Applied() {
			if err := s.Rebuild(e); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := s.Young(); got != want || want == 0 {
		t.Errorf("%d young after the restart, %d before", got, want)
	}
}
