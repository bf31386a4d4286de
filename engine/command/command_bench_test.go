package command

import (
	"strings"
	"testing"
	"time"

	"github.com/harepost/harepost/engine/delivery"
)

// A send with 300 bytes of JSON and the headers of a usual one.
func benchRecord() (rec delivery.Record, body []byte) {
	body = []byte(`{"id":"ord_123","event":"order.paid","note":"` + strings.Repeat("n", 253) + `"}`)
	return delivery.Record{
		ID: delivery.MakeID(delivery.Sequence(when), 7), Account: 5, NotBefore: when.UnixMilli(), Method: "POST",
		Target: delivery.Target{
			URL: "https://hooks.example.com/v1/orders", Scheme: "https", Host: "hooks.example.com", Port: 443, URI: "/v1/orders",
		},
		Headers: []delivery.Header{{Name: "X-Event", Value: "order.paid"}, {Name: "Content-Type", Value: "application/json"}},
		Policy: delivery.Policy{
			MaxAttempts: 5, BaseDelay: time.Second, MaxDelay: time.Hour, Timeout: 10 * time.Second, RespectRetryAfter: true,
		},
		Sign: true, BodyBytes: len(body), BodyCRC: delivery.BodyCRC(body),
	}, body
}

func benchAttempt() delivery.Attempt {
	return delivery.Attempt{
		Number: 1, Outcome: delivery.OutcomeDelivered, HTTPStatus: 200, Latency: 8 * time.Millisecond,
		StartedAt: when, CreatedAt: when.Add(8 * time.Millisecond), RemoteIP: "192.0.2.1",
		Timing: delivery.Timing{FirstByte: 7 * time.Millisecond, Reused: true},
	}
}

// encoder has room for both commands, as their encoders' callers have.
type encoder struct {
	record, command []byte
	rec             delivery.Record
	attempt         delivery.Attempt
	body            []byte
}

func newEncoder() *encoder {
	e := &encoder{record: make([]byte, 0, 1024), command: make([]byte, 0, 2048), attempt: benchAttempt()}
	e.rec, e.body = benchRecord()
	return e
}

func (e *encoder) accept() []byte {
	e.record = delivery.AppendRecord(e.record[:0], &e.rec)
	e.command = AppendAccept(e.command[:0], &Accept{Destination: 9, Record: e.record, Body: e.body})
	return e.command
}

func (e *encoder) attempted() []byte {
	c := Attempt{Account: 5, ID: e.rec.ID, Number: 1, Status: delivery.Delivered, UpdatedAt: when.UnixMilli()}
	e.command = AppendAttempt(e.command[:0], &c, &e.attempt)
	return e.command
}

// decodeAccept reads a command with all that is in it.
func decodeAccept(t testing.TB, b []byte, rec *delivery.Record) {
	kind, r, err := Parse(b)
	if err != nil || kind != KindAccept {
		t.Fatal(kind, err)
	}
	a, err := ReadAccept(&r)
	if err != nil {
		t.Fatal(err)
	}
	w := delivery.Row{Record: a.Record}
	if err := w.DecodeRecord(rec); err != nil || delivery.BodyCRC(a.Body) != rec.BodyCRC {
		t.Fatal("another record", err)
	}
}

func decodeAttempt(t testing.TB, b []byte) {
	kind, r, err := Parse(b)
	if err != nil || kind != KindAttempt {
		t.Fatal(kind, err)
	}
	if a, err := ReadAttempt(&r); err != nil || a.Number != 1 {
		t.Fatal(a, err)
	}
}

// BenchmarkEncode makes the command of a send of 300 bytes, its record included,
// and that of an attempt which delivered.
func BenchmarkEncode(b *testing.B) {
	e := newEncoder()
	for name, encode := range map[string]func() []byte{"accept": e.accept, "attempt": e.attempted} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(encode())))
			b.ReportAllocs()
			for b.Loop() {
				encode()
			}
		})
	}
}

// BenchmarkDecode reads the same.
func BenchmarkDecode(b *testing.B) {
	e := newEncoder()
	b.Run("accept", func(b *testing.B) {
		cmd := e.accept()
		var rec delivery.Record
		b.SetBytes(int64(len(cmd)))
		b.ReportAllocs()
		for b.Loop() {
			decodeAccept(b, cmd, &rec)
		}
	})
	b.Run("attempt", func(b *testing.B) {
		cmd := e.attempted()
		b.SetBytes(int64(len(cmd)))
		b.ReportAllocs()
		for b.Loop() {
			decodeAttempt(b, cmd)
		}
	})
}

// Commands are encoded into room that the caller has, and decoded without any.
func TestCommandsDoNotAllocate(t *testing.T) {
	e := newEncoder()
	accept, attempt := append([]byte(nil), e.accept()...), append([]byte(nil), e.attempted()...)
	var rec delivery.Record
	decodeAccept(t, accept, &rec) // from here on its headers have room
	for name, f := range map[string]func(){
		"encode an accept":  func() { e.accept() },
		"encode an attempt": func() { e.attempted() },
		"decode an accept":  func() { decodeAccept(t, accept, &rec) },
		"decode an attempt": func() { decodeAttempt(t, attempt) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %.0f allocations, want none", name, n)
		}
	}
}
