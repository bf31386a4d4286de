package state

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/job"
)

// A delivery that was cancelled while it was young does not come back with a
// restart, also when retention has dropped it meanwhile and an older one is
// young all that time, as those of a suspended account are.
func TestWhatWasCancelledAndDroppedStaysSo(t *testing.T) {
	const last = 1<<64 - 1
	until := epoch.UnixMilli() + 10*dayMillis
	for name, drop := range map[string][]byte{
		"trim":   command.AppendTrim(nil, &command.Trim{Last: last, Accepted: until}),
		"retain": command.AppendRetain(nil, &command.Retain{Last: last, Finished: until}),
	} {
		t.Run(name, func(t *testing.T) {
			fs := vfs.NewMem()
			s := openState(t, fs, Options{})
			e := &ended{t: t, state: s}
			var log []Entry
			do := func(cmd []byte) {
				log = append(log, Entry{Index: uint64(len(log) + 1), Command: cmd})
				e.apply(cmd)
			}
			a := account.Account{ID: 1, CreatedAt: epoch, Secrets: []account.Secret{{Text: "whsec_x", CreatedAt: epoch}}}
			do(command.AppendCreateAccount(nil, &a, &account.Key{Account: 1, ID: 1}))
			var ids []delivery.ID
			for n := range uint64(3) {
				id := delivery.MakeID(delivery.Sequence(epoch)+n, 7)
				rec := delivery.Record{
					ID: id, NotBefore: id.UnixMilli(), Account: 1, Method: "POST", BodyCRC: delivery.BodyCRC(nil),
					Target: delivery.Target{URL: "https://a.example/hook", Scheme: "https", Host: "a.example", Port: 443, URI: "/hook"},
					Policy: delivery.Policy{MaxAttempts: 1},
				}
				do(command.AppendAccept(nil, &command.Accept{Record: delivery.AppendRecord(nil, &rec)}))
				ids = append(ids, id)
			}
			do(command.AppendControl(nil, &command.Control{Kind: job.Cancel, Account: 1, At: epoch.UnixMilli() + 1000, IDs: ids[1:2]}))
			do(drop)
			check := func(s *State) {
				t.Helper()
				if _, err := s.Find(1, ids[1]); !errors.Is(err, ErrNotFound) {
					t.Errorf("cancelled and dropped: %v", err)
				}
				for _, id := range []delivery.ID{ids[0], ids[2]} {
					if f, err := s.Find(1, id); err != nil || f.Status != delivery.Queued {
						t.Errorf("%s is %s, %v", id, f.Status, err)
					}
				}
				if s.Pending() != 2 {
					t.Errorf("%d pending", s.Pending())
				}
			}
			check(s)
			if err := errors.Join(s.Flush(), s.Close()); err != nil {
				t.Fatal(err)
			}
			s = openState(t, fs, Options{})
			for _, entry := range log {
				if entry.Index >= s.Low() && entry.Index <= s.Applied() {
					if err := s.Rebuild(entry); err != nil {
						t.Fatal(err)
					}
				}
			}
			check(s)
			if s.Young() != 1 {
				t.Errorf("%d young: what came after the cancelled one may stay so", s.Young())
			}
		})
	}
}

// Where the end of the log is lost, and nobody has it, what was young by it is lost too.
// All else is there as it was, once, and is counted right.
func TestGiveUp(t *testing.T) {
	seeded(t, 10, func(t *testing.T, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 5))
		h := newHistory(seed)
		h.changeAccounts, h.ordered = seed%2 == 0, true
		for range 300 {
			h.step()
		}
		fs := vfs.NewMem()
		s := openState(t, fs, Options{})
		applyAll(t, s, rng, h.log, 20)
		if err := errors.Join(s.Flush(), s.Close()); err != nil {
			t.Fatal(err)
		}
		s = openState(t, fs, Options{})
		applied := s.Applied()
		lost := s.Low() + rng.Uint64N(applied+2-s.Low()) // and what follows
		known := make(map[delivery.ID]bool)
		for _, e := range h.log[:lost-1] {
			if e.Index >= s.Low() {
				if err := s.Rebuild(e); err != nil {
					t.Fatal(err)
				}
			}
			if kind, r, _ := command.Parse(e.Command); kind == command.KindAccept {
				c, err := command.ReadAccept(&r)
				if err != nil {
					t.Fatal(err)
				}
				y, err := decodeYoung(c)
				if err != nil {
					t.Fatal(err)
				}
				known[y.ID] = true
			}
		}
		if err := errors.Join(s.GiveUp(), s.Settle()); err != nil {
			t.Fatal(err)
		}
		if s.Applied() != applied || s.Low() != applied+1 || s.Young() != 0 {
			t.Errorf("at %d the log is needed from %d, and %d are young", s.Applied(), s.Low(), s.Young())
		}
		pending := int64(0)
		for id, m := range h.model {
			a := account.ID(m.rec.Account)
			if !s.dir.Has(a) {
				continue
			}
			f, err := s.Find(a, id)
			if errors.Is(err, ErrNotFound) && !known[id] && m.status == delivery.Queued && m.number == 0 {
				continue
			}
			if err != nil || f.Status != m.status {
				t.Fatalf("%s is %s, want %s; %v", id, f.Status, m.status, err)
			}
			if !m.status.Final() {
				pending++
			}
		}
		r, err := s.Verify()
		if err != nil || len(r.Findings) > 0 {
			t.Fatalf("verify: %v, %v", r.Findings, err)
		}
		if stored := r.Deliveries[delivery.Queued] + r.Deliveries[delivery.Retrying]; stored != pending || s.Pending() != stored+r.leavingPending {
			t.Errorf("%d are pending, %d stored, the count is %d with %d of deleted accounts", pending, stored, s.Pending(), r.leavingPending)
		}
	})
}
