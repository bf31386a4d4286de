package command

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/job"
	"github.com/harepost/harepost/engine/lane"
)

var when = time.Date(2026, 6, 10, 14, 22, 10, 0, time.UTC)

// reencode decodes a command of any kind and encodes what it found.
func reencode(b []byte) ([]byte, error) {
	kind, r, err := Parse(b)
	if err != nil {
		return nil, err
	}
	switch kind {
	case KindAccept:
		c, err := ReadAccept(&r)
		return AppendAccept(nil, &c), err
	case KindAttempt:
		c, err := ReadAttempt(&r)
		if err != nil {
			return nil, err
		}
		w := delivery.Row{Count: 1, Attempts: c.Record}
		attempts, err := w.DecodeAttempts()
		if err != nil {
			return nil, err
		}
		return AppendAttempt(nil, &c, &attempts[0]), nil
	case KindCreateAccount:
		a, k, err := ReadCreateAccount(&r)
		return AppendCreateAccount(nil, &a, &k), err
	case KindCreateKey:
		k, err := ReadCreateKey(&r)
		return AppendCreateKey(nil, &k), err
	case KindRevokeKey:
		a, k, err := ReadRevokeKey(&r)
		return AppendRevokeKey(nil, a, k), err
	case KindPutDomain:
		d, err := ReadPutDomain(&r)
		return AppendPutDomain(nil, &d), err
	case KindDeleteDomain:
		a, name, err := ReadDeleteDomain(&r)
		return AppendDeleteDomain(nil, a, name), err
	case KindControl:
		c, err := ReadControl(&r)
		return AppendControl(nil, &c), err
	case KindPutJob:
		j, err := ReadPutJob(&r)
		return AppendPutJob(nil, &j), err
	case KindPutDataKey:
		a, wrapped, err := ReadPutDataKey(&r)
		return AppendPutDataKey(nil, a, wrapped), err
	case KindPutLane:
		s, err := ReadPutLane(&r)
		return AppendPutLane(nil, &s), err
	case KindDropBodies:
		c, err := ReadDropBodies(&r)
		return AppendDropBodies(nil, &c), err
	case KindTrim:
		c, err := ReadTrim(&r)
		return AppendTrim(nil, &c), err
	case KindRetain:
		c, err := ReadRetain(&r)
		return AppendRetain(nil, &c), err
	case KindPutAccount:
		a, err := ReadPutAccount(&r)
		return AppendPutAccount(nil, &a), err
	case KindTouchKeys:
		uses, err := ReadTouchKeys(&r)
		return AppendTouchKeys(nil, uses), err
	case KindDeleteAccount:
		a, at, err := ReadDeleteAccount(&r)
		return AppendDeleteAccount(nil, a, at), err
	case KindReleaseOrder:
		c, err := ReadReleaseOrder(&r)
		return AppendReleaseOrder(nil, &c), err
	case KindSweepAccount:
		a, limit, err := ReadSweepAccount(&r)
		return AppendSweepAccount(nil, a, limit), err
	}
	return nil, errors.New("a kind without a decoder")
}

// samples has a command of every kind.
func samples() map[Kind][]byte {
	rec := sampleRecord()
	attempt := delivery.Attempt{
		Number: 2, Outcome: delivery.OutcomeFailed, HTTPStatus: 503, Latency: 84 * time.Millisecond,
		Error: "http_status: 503 Service Unavailable", StartedAt: when, CreatedAt: when.Add(84 * time.Millisecond),
		NextAttemptAt: when.Add(2 * time.Second),
		Timing:        delivery.Timing{DNS: time.Millisecond, Connect: 2 * time.Millisecond, Reused: true},
		RemoteIP:      "192.0.2.1", ResponseBody: []byte("busy"), BodyTruncated: true,
	}
	a := account.Account{
		ID: 5, Name: "Ä & Co", CreatedAt: when, RatePerMinute: account.NoRateLimit, Suspended: true,
		Secrets: []account.Secret{
			{Text: "whsec_eA==", CreatedAt: when},
			{Text: "whsec_eB==", CreatedAt: when.Add(-time.Hour), ExpiresAt: when.Add(time.Hour)},
		},
	}
	k := account.Key{
		Account: 5, ID: 6, Hash: account.HashKey([]byte("k")), Prefix: "hp_live_abcd", CreatedAt: when, LastUsed: when,
	}
	d := account.Domain{Account: 5, Name: "your-app.com", Token: "abc123", CreatedAt: when, VerifiedAt: when}
	return map[Kind][]byte{
		KindAccept: AppendAccept(nil, &Accept{
			Idempotent: true, Hash: [16]byte{1}, Stored: true, Ordered: true, OrderHash: delivery.OrderHash{2}, Apart: true, Destination: 9,
			Record: delivery.AppendRecord(nil, &rec), Body: []byte(`{"a": 1}`),
		}),
		KindAttempt: AppendAttempt(nil, &Attempt{
			Account: 5, ID: rec.ID, Number: 2, Status: delivery.Retrying, UpdatedAt: 7, NextDue: 8,
		}, &attempt),
		KindCreateAccount: AppendCreateAccount(nil, &a, &k),
		KindCreateKey:     AppendCreateKey(nil, &k),
		KindRevokeKey:     AppendRevokeKey(nil, 5, 6),
		KindPutDomain:     AppendPutDomain(nil, &d),
		KindDeleteDomain:  AppendDeleteDomain(nil, 5, "your-app.com"),
		KindControl:       AppendControl(nil, &Control{Kind: job.Cancel, Account: 5, At: 7, Job: 8, After: rec.ID, Last: true}),
		KindPutJob: AppendPutJob(nil, &job.Job{
			ID: 8, Account: 5, Kind: job.Replay, Status: job.Running, Matched: -1, RatePerSecond: 5, CreatedAt: when, UpdatedAt: when,
			Filter: delivery.Filter{Dead: true, Host: "your-app.com", OrderingKey: "customer-7", Since: when.Add(time.Nanosecond)},
		}),
		KindPutDataKey: AppendPutDataKey(nil, 5, []byte("wrapped")),
		KindPutLane: AppendPutLane(nil, &lane.Setting{
			Account: 5, Destination: 9, Name: lane.Name{Kind: lane.Flow, Text: "shop"}, Rate: 0.5, Parallelism: 3, Paused: true, PinnedRate: true,
		}),
		KindDropBodies:    AppendDropBodies(nil, &DropBodies{First: 1, Last: 1 << 63, Before: 5}),
		KindTrim:          AppendTrim(nil, &Trim{First: 1, Last: 1 << 63, Accepted: 5}),
		KindRetain:        AppendRetain(nil, &Retain{First: 1, Last: 1 << 63, Finished: 1, Dead: -2, Idempotency: 3}),
		KindPutAccount:    AppendPutAccount(nil, &a),
		KindTouchKeys:     AppendTouchKeys(nil, []KeyUse{{5, 6, when.UnixMilli()}, {5, 7, -1}}),
		KindDeleteAccount: AppendDeleteAccount(nil, 5, when.UnixMilli()),
		KindSweepAccount:  AppendSweepAccount(nil, 5, 1000),
		KindReleaseOrder:  AppendReleaseOrder(nil, &ReleaseOrder{Account: 5, Number: 6, Hash: delivery.OrderHash{7}, At: -8}),
	}
}

func sampleRecord() delivery.Record {
	return delivery.Record{
		ID: delivery.MakeID(delivery.Sequence(when), 42), Account: 5,
		NotBefore: when.UnixMilli() + 10, ExpiresAt: when.UnixMilli() + 1000,
		Method: "POST",
		Target: delivery.Target{
			URL: "https://your-app.com/webhook", Scheme: "https", Host: "your-app.com", Port: 443, URI: "/webhook",
		},
		Headers: []delivery.Header{{Name: "X-A", Value: "1"}, {Name: "Content-Type", Value: "text/plain"}},
		Policy: delivery.Policy{
			MaxAttempts: 5, Backoff: delivery.Fixed, Jitter: delivery.NoJitter, BaseDelay: time.Second,
			MaxDelay: time.Hour, Timeout: 10 * time.Second, RespectRetryAfter: true,
		},
		Sign: true, IdempotencyKey: "ord_123-paid", Metadata: []byte(`{"order":123}`),
		OrderingKey: "customer-7", SkipFailed: true,
		Labels: []string{"a", "b"}, BodyBytes: 8, BodyCRC: delivery.BodyCRC([]byte(`{"a": 1}`)),
		FlowKey: "shop",
	}
}

func TestEveryKindSurvivesItsBytes(t *testing.T) {
	all := samples()
	for n := range known {
		k := Kind(n)
		b, ok := all[k]
		if !known[k] && !ok {
			continue
		}
		if !ok {
			t.Fatalf("kind %d has no sample", k)
		}
		got, err := reencode(b)
		if err != nil || !bytes.Equal(got, b) {
			t.Errorf("kind %d: %v\n got %x\nwant %x", k, err, got, b)
		}
		for n := range len(b) {
			if k == KindAccept && n >= len(b)-len(`{"a": 1}`) {
				break // the body is what is left, of any length; the record knows which
			}
			if _, err := reencode(b[:n]); err == nil {
				t.Errorf("kind %d: decodes though cut at %d of %d", k, n, len(b))
			}
		}
		if _, err := reencode(append(bytes.Clone(b), 0)); err == nil && k != KindAccept {
			t.Errorf("kind %d: decodes with a byte too many", k)
		}
	}
}

// A log and a state of the first release are read: its accounts had one secret
// and its keys no last use.
func TestFirstVersionIsRead(t *testing.T) {
	old := append([]byte{1, byte(KindCreateAccount)}, // version and kind
		1, 0, 0, 0, 0, 0, 0, 0, 5, // version and id of the account
		0xa0, 0xf9, 0xcb, 0x9e, 0xd6, 0x67, // created, zigzag milliseconds
		4, 'A', 'c', 'm', 'e', 10, 'w', 'h', 's', 'e', 'c', '_', 'e', 'A', '=', '=',
		1, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 6) // version and ids of the key
	hash := account.HashKey([]byte("k"))
	old = append(append(old, hash[:]...), 4, 'h', 'p', '_', 'l', 0xa0, 0xf9, 0xcb, 0x9e, 0xd6, 0x67)
	_, r, err := Parse(old)
	if err != nil {
		t.Fatal(err)
	}
	a, k, err := ReadCreateAccount(&r)
	if err != nil {
		t.Fatal(err)
	}
	wantAccount := account.Account{
		ID: 5, Name: "Acme", CreatedAt: when, Secrets: []account.Secret{{Text: "whsec_eA==", CreatedAt: when}},
	}
	wantKey := account.Key{Account: 5, ID: 6, Hash: hash, Prefix: "hp_l", CreatedAt: when}
	if !reflect.DeepEqual(a, wantAccount) || k != wantKey {
		t.Errorf("\n got %+v, %+v\nwant %+v, %+v", a, k, wantAccount, wantKey)
	}
}

func TestRecordSurvivesItsBytes(t *testing.T) {
	want := sampleRecord()
	w := delivery.Row{Record: delivery.AppendRecord(nil, &want)}
	var got delivery.Record
	if err := w.DecodeRecord(&got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("\n got %+v\nwant %+v", got, want)
	}
}

func TestParseRefusesWhatItDoesNotKnow(t *testing.T) {
	for name, b := range map[string][]byte{
		"a later version": {2, byte(KindAccept)},
		"a later kind":    {1, 255},
		"no kind":         {1, 0},
	} {
		if _, _, err := Parse(b); !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %v, want ErrUnknown", name, err)
		}
	}
}

// FuzzCommand: no bytes make a decoder panic, and what decodes means the same
// after it was encoded again.
func FuzzCommand(f *testing.F) {
	for _, b := range samples() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		once, err := reencode(b)
		if err != nil {
			return
		}
		twice, err := reencode(once)
		if err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("encoded once %x, twice %x: %v", once, twice, err)
		}
	})
}

// FuzzRow is the same for the rows that the state keeps.
func FuzzRow(f *testing.F) {
	rec := sampleRecord()
	w := delivery.Row{UpdatedAt: 5, Record: delivery.AppendRecord(nil, &rec), HasBody: true, Body: []byte("x")}
	f.Add(delivery.AppendRow(nil, &w))
	f.Fuzz(func(t *testing.T, b []byte) {
		w, err := delivery.DecodeRow(b)
		if err != nil {
			return
		}
		again, err := delivery.DecodeRow(delivery.AppendRow(nil, &w))
		if err != nil || !reflect.DeepEqual(again, w) && (len(w.Body) > 0 || len(w.Record) > 0) {
			t.Fatalf("%+v became %+v: %v", w, again, err)
		}
		for _, st := range delivery.Statuses {
			_, _ = delivery.View(st, &w) // must not panic
		}
	})
}
