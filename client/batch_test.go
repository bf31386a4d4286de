package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/harepost/harepost/client"
)

func TestABatchHasAResultForEachSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const refusal = `{"error":"rate limit exceeded","detail":"slow","status":429,"retry_after":3}`
		c, s := scripted(t, client.Options{}, answer{202, "", `{"results":[` + accepted + `,` + refusal + `]}`})
		results, err := c.SendBatch(t.Context(), []client.Send{{Target: "a", Body: "x\ny"}, {Target: "b"}})
		if err != nil || len(results) != 2 || results[0].Err != nil || results[0].Receipt.QueueID != "hr_1" {
			t.Fatalf("%+v, %v", results, err)
		}
		e, ok := errors.AsType[*client.Error](results[1].Err)
		if !ok || !errors.Is(e, client.ErrRateLimited) || e.RetryAfter != 3*time.Second || e.Detail != "slow" {
			t.Errorf("refused with %#v", results[1].Err)
		}
		if text, err := json.Marshal(results[1]); err != nil || string(text) != refusal {
			t.Errorf("result as JSON: %s, %v", text, err)
		}
		if want := `{"target":"a","body":"x\ny"}` + "\n" + `{"target":"b"}` + "\n"; s.bodies[0] != want {
			t.Errorf("sent %q, want %q", s.bodies[0], want)
		}
	})
}

func TestAnEmptyBatchIsNoRequest(t *testing.T) {
	c, s := scripted(t, client.Options{})
	if results, err := c.SendBatch(t.Context(), nil); err != nil || len(results) != 0 || len(s.at) != 0 {
		t.Errorf("%v, %v", results, err)
	}
}

func TestABatchWithFewerResultsThanSendsIsAnError(t *testing.T) {
	c, _ := scripted(t, client.Options{}, answer{202, "", `{"results":[` + accepted + `]}`})
	if results, err := c.SendBatch(t.Context(), make([]client.Send, 2)); err == nil {
		t.Errorf("%v", results)
	}
}

// Of a batch only those sends are repeated that have a key and were refused
// for now.
func TestABatchRepeatsWhatMayBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const later, never = `{"error":"overloaded","status":503,"retry_after":2}`, `{"error":"no","status":400}`
		c, s := scripted(t, client.Options{Retries: 2},
			answer{202, "", `{"results":[` + strings.Join([]string{later, later, never, accepted}, ",") + `]}`},
			answer{202, "", `{"results":[{"queue_id":"hr_2"}]}`})
		results, err := c.SendBatch(t.Context(), []client.Send{
			{Target: "a", IdempotencyKey: "a"}, {Target: "b"}, {Target: "c", IdempotencyKey: "c"}, {Target: "d", IdempotencyKey: "d"},
		})
		if err != nil || len(s.at) != 2 {
			t.Fatalf("%v after %d requests", err, len(s.at))
		}
		if want := `{"target":"a","idempotency_key":"a"}` + "\n"; s.bodies[1] != want || s.at[1] < 2*time.Second {
			t.Errorf("repeated %q at %v, want %q", s.bodies[1], s.at[1], want)
		}
		if results[0].Err != nil || results[0].Receipt.QueueID != "hr_2" || !errors.Is(results[1].Err, client.ErrUnavailable) ||
			!errors.Is(results[2].Err, client.ErrInvalid) || results[3].Receipt.QueueID != "hr_1" {
			t.Errorf("%+v", results)
		}
	})
}

// What was refused for now stays refused when there is no time to repeat it, and
// is in doubt when the repetition got no answer.
func TestABatchSaysHowItsRepetitionEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const later = `{"error":"overloaded","status":503,"retry_after":2}`
		first := answer{202, "", `{"results":[` + accepted + `,` + later + `]}`}
		sends := []client.Send{{Target: "a", IdempotencyKey: "a"}, {Target: "b", IdempotencyKey: "b"}}

		c, _ := scripted(t, client.Options{Retries: 1}, first)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		results, err := c.SendBatch(ctx, sends)
		if err != nil || results[0].Receipt.QueueID != "hr_1" || !errors.Is(results[1].Err, client.ErrUnavailable) {
			t.Errorf("%+v, %v", results, err)
		}

		c, s := scripted(t, client.Options{Retries: 1}, first, lost)
		results, err = c.SendBatch(t.Context(), sends)
		if err != nil || results[0].Receipt.QueueID != "hr_1" || results[1].Err == nil || errors.Is(results[1].Err, client.ErrUnavailable) {
			t.Errorf("%+v, %v after %d requests", results, err, len(s.at))
		}
	})
}

func TestABatchIsRepeatedWholeOnlyIfEverySendHasAKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := client.Options{Retries: 1}
		c, s := scripted(t, o, lost)
		if _, err := c.SendBatch(t.Context(), []client.Send{{Target: "a", IdempotencyKey: "a"}, {Target: "b"}}); err == nil || len(s.at) != 1 {
			t.Errorf("%v after %d requests", err, len(s.at))
		}
		o.GenerateKeys = true
		c, s = scripted(t, o, lost, answer{202, "", `{"results":[` + accepted + `,` + accepted + `]}`})
		if _, err := c.SendBatch(t.Context(), []client.Send{{Target: "a", IdempotencyKey: "a"}, {Target: "b"}}); err != nil || s.bodies[0] != s.bodies[1] {
			t.Errorf("%v, %q", err, s.bodies)
		}
	})
}

func TestLinesGoOutByteByByte(t *testing.T) {
	const lines = `{"target":"a","body": {"n": 12345678901234567890}}` + "\n"
	c, s := scripted(t, client.Options{Retries: 3, GenerateKeys: true}, lost, lost)
	if _, err := c.SendLines(t.Context(), []byte(lines)); err == nil || len(s.at) != 1 || s.bodies[0] != lines {
		t.Errorf("%v: %q", err, s.bodies)
	}
}

// Retries bounds the requests of a batch, whether a request was refused or a send
// in it.
func TestRetriesOfABatchAreCountedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := answer{202, "", `{"results":[{"error":"overloaded","status":503,"retry_after":2}]}`}
		all := answer{503, "2", `{"error":"overloaded"}`}
		sends := []client.Send{{Target: "a", IdempotencyKey: "a"}}
		f := func(why string, answers ...answer) {
			t.Helper()
			c, s := scripted(t, client.Options{Retries: 2}, append(answers, answer{202, "", `{"results":[` + accepted + `]}`})...)
			results, err := c.SendBatch(t.Context(), sends)
			if len(results) == 1 && err == nil {
				err = results[0].Err
			}
			if !errors.Is(err, client.ErrUnavailable) || len(s.at) != 3 {
				t.Errorf("%s: %v after %d requests, want 3", why, err, len(s.at))
			}
		}
		f("refused whole", all, all, all)
		f("refused whole, then the send", all, one, one)
		f("refused whole, the send, whole", all, one, all)
		f("refused the send, then whole", one, all, all)
		f("refused the send", one, one, one)
	})
}

// All of a batch was accepted: its answer has to be read, however much there is to
// warn of.
func TestTheAnswerToABatchMayBeLargerThanOthers(t *testing.T) {
	long := `{"results":[{"queue_id":"hr_1","warnings":["` + strings.Repeat("x", 17<<20) + `"]}]}`
	batch := []client.Send{{Target: "a", Body: strings.Repeat("x", 1<<20)}}
	c, _ := scripted(t, client.Options{}, answer{202, "", long})
	if results, err := c.SendBatch(t.Context(), batch); err != nil || results[0].Receipt.QueueID != "hr_1" {
		t.Errorf("%d results, %v", len(results), err)
	}
	c, _ = scripted(t, client.Options{}, answer{202, "", long})
	if _, err := c.SendBatch(t.Context(), []client.Send{{Target: "a"}}); !errors.Is(err, client.ErrResponseTooLarge) {
		t.Errorf("for a small batch: %v, want %v", err, client.ErrResponseTooLarge)
	}
}
