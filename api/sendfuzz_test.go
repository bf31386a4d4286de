package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/valyala/fasthttp"
	"golang.org/x/net/http/httpguts"

	"github.com/harepost/harepost/engine"
)

// FuzzSend: no body of a request panics the decoder, and what it accepts keeps
// to the bounds that the engine relies on.
func FuzzSend(f *testing.F) {
	for _, seed := range []string{
		with(""), with(`"body":{"a":[1,2,{"b":null}]},"headers":{"X-A":"b"},"delivery":{"max_attempts":3,"backoff":"fixed"}`),
		with(`"body":"\u00e9","idempotency_key":"k","metadata":{"a":1},"labels":["a"],"sign":true,"delay_ms":1e3`),
		with(`"method":"GET","not_before":"2026-06-10T14:22:20Z","expires_at":"2026-07-10T14:22:20Z","unknown":[]`),
		`{"target":`, `{}`, `null`, `[]`, "\xff",
	} {
		f.Add([]byte(seed), "")
	}
	f.Add([]byte(with(`"idempotency_key":"k"`)), "k")
	s, err := New(nil, Options{Dev: true})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte, key string) {
		before := string(body)
		r := s.acquireSendRequest(body)
		defer r.release()
		err := r.decode([]byte(key), testNow)
		if string(body) != before {
			t.Fatal("the decoder wrote into the request")
		}
		if err != nil {
			var p *problem
			if !errors.As(err, &p) || p.status != 400 || p.message == "" || len(p.Error()) > 1000 {
				t.Fatalf("refused with %v", err)
			}
			return
		}
		checkSend(t, &r.send)
	})
}

func checkSend(t *testing.T, send *engine.Send) {
	p := send.Policy
	switch {
	case p.MaxAttempts < 1 || p.MaxAttempts > 25,
		p.BaseDelay < 100*time.Millisecond || p.BaseDelay > time.Minute,
		p.MaxDelay < time.Second || p.MaxDelay > 12*time.Hour,
		p.Timeout < time.Second || p.Timeout > 30*time.Second:
		t.Fatalf("policy out of range: %+v", p)
	}
	if len(send.Headers) > 65 || len(send.Labels) > 8 || len(send.Metadata) > 16<<10 || len(send.IdempotencyKey) > 4*255 {
		t.Fatalf("a bound is passed: %+v", send)
	}
	for _, h := range send.Headers {
		if !httpguts.ValidHeaderFieldName(h.Name) || !httpguts.ValidHeaderFieldValue(h.Value) || isStripped(h.Name) {
			t.Fatalf("header %+v", h)
		}
	}
	if !httpguts.ValidHeaderFieldValue(send.IdempotencyKey) {
		t.Fatalf("idempotency key %q", send.IdempotencyKey)
	}
	if !strings.HasPrefix(send.Target.URI, "/") || send.Target.Host == "" || send.Target.Port == 0 {
		t.Fatalf("target %+v", send.Target)
	}
	if !send.ExpiresAt.IsZero() && !send.ExpiresAt.After(send.NotBefore) {
		t.Fatalf("never to be tried: %+v", send)
	}
}

// A pooled request keeps nothing of the one before.
func TestSendRequestReuse(t *testing.T) {
	s, err := New(nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	r := s.acquireSendRequest([]byte(with(`"method":"PUT","headers":{"X-Secret":"1","Host":"x"},"body":{"secret":1},"labels":["l"],
		"delivery":{"max_attempts":9},"idempotency_key":"k","sign":true,"metadata":{},"delay_ms":5,"expires_at":"2030-01-01T00:00:00Z","x":"\u0041"`)))
	if err := r.decode(nil, testNow); err != nil {
		t.Fatal(err)
	}
	headers := r.send.Headers
	r.release()
	if h := headers[:1][0]; h != (engine.Header{}) {
		t.Errorf("the pool keeps a header: %+v", h)
	}
	// Whatever the pool gives, it is as if new; r itself is looked at as well.
	for _, r := range []*sendRequest{r, s.acquireSendRequest(nil)} {
		r.o, r.rules, r.most = &s.o, &s.targets, s.o.Warnings
		r.decoder.reset([]byte(with("")))
		if err := r.decode(nil, testNow); err != nil {
			t.Fatal(err)
		}
		send := r.send
		send.Target, send.Headers, send.Labels = engine.Target{}, nil, nil
		fresh := engine.Send{Method: "POST", Policy: defaultPolicy}
		if fmt.Sprint(send) != fmt.Sprint(fresh) || len(r.send.Headers)+len(r.send.Labels)+len(r.warnings.list) != 0 {
			t.Errorf("left over: %+v, warnings %q", r.send, r.warnings.list)
		}
	}
}

// FuzzSendBatch gives the whole server batches of valid sends with others between
// them. It never answers with its own fault; an answer has a result for each
// item; and a valid send is taken whatever its neighbours are.
func FuzzSendBatch(f *testing.F) {
	const valid = `{"target":"https://your-app.com/hook","body":{"a":1},"delivery":{"max_attempts":1}}`
	for _, item := range []string{
		valid, `{"target":"https://your-app.com/","idempotency_key":"k"}`, `{"target":"https://other.example/"}`,
		with(`"headers":{"X-A":"b"},"metadata":{"a":1},"labels":["a"],"sign":true,"delay_ms":1e3`),
		`{"target":`, `{}`, `null`, `[]`, `1,2`, `"x`, "\xff", "{}\n{}", " \t\r\n", `{"body":"\u00e9","typo":[[]]}`, "",
	} {
		for _, lines := range []bool{true, false} {
			f.Add([]byte(item), byte(0b0101_0101), byte(5), lines)
			f.Add([]byte(item), byte(0), byte(0), lines) // alone
		}
	}
	s := startServer(f, Options{}, func(o *engine.Options) { o.FS = vfs.NewMem() })
	key := s.account()
	s.verified(key, "your-app.com") // which has no address: nothing is dialled
	f.Fuzz(func(t *testing.T, item []byte, mask, n byte, lines bool) {
		items, taken := [][]byte{item}, map[int]bool{}
		if n > 0 {
			items = nil
			for i := range int(n % 8) {
				if ok := mask>>i&1 == 1; ok {
					items, taken[i] = append(items, []byte(valid)), true
				} else {
					items = append(items, item)
				}
			}
		}
		var ctx fasthttp.RequestCtx
		ctx.Request.Header.SetMethod("POST")
		ctx.Request.SetRequestURI("/v1/send/batch")
		ctx.Request.Header.Set("Authorization", "Bearer "+key)
		if lines {
			ctx.Request.Header.SetContentType("application/x-ndjson")
			ctx.Request.SetBody(bytes.Join(items, []byte("\n")))
		} else {
			ctx.Request.Header.SetContentType("application/json")
			ctx.Request.SetBody(append(append([]byte("["), bytes.Join(items, []byte(","))...), ']'))
			if n == 0 {
				ctx.Request.SetBody(item)
			}
		}
		body := string(ctx.Request.Body())
		s.serve(&ctx)
		checkBatch(t, body, lines, taken, len(items), ctx.Response.StatusCode(), ctx.Response.Body())
	})
}

// checkBatch checks an answer to a batch. taken are the places of sends that must
// have been taken, if the body has given items.
func checkBatch(t *testing.T, body string, lines bool, taken map[int]bool, given, status int, answered []byte) {
	t.Helper()
	if status != 202 {
		var p struct{ Error string }
		if err := json.Unmarshal(answered, &p); err != nil || p.Error == "" || status != 400 && status != 413 {
			t.Fatalf("%q is answered %d %s", body, status, answered)
		}
		if lines && len(taken) > 0 {
			t.Fatalf("%q is refused whole, though it has valid lines: %s", body, answered)
		}
		return
	}
	count := 0
	if lines {
		for line := range strings.SplitSeq(body, "\n") {
			if strings.Trim(line, " \t\r") != "" {
				count++
			}
		}
	} else {
		var list []json.RawMessage
		if err := json.Unmarshal([]byte(body), &list); err != nil {
			t.Fatalf("%q is taken, and is no JSON: %v", body, err)
		}
		count = len(list)
	}
	var a struct {
		Results []struct {
			QueueID *string         `json:"queue_id"`
			Status  json.RawMessage `json:"status"`
			Error   *string         `json:"error"`
		} `json:"results"`
	}
	if err := json.Unmarshal(answered, &a); err != nil || len(a.Results) != count {
		t.Fatalf("%q has %d items and %d results: %v in %s", body, count, len(a.Results), err, answered)
	}
	for i, r := range a.Results {
		var word string
		var code int
		switch {
		case r.QueueID != nil && r.Error == nil:
			if _, err := engine.ParseDeliveryID(*r.QueueID); err != nil || json.Unmarshal(r.Status, &word) != nil || word != "queued" {
				t.Fatalf("%q: result %d is no send's answer: %s", body, i, answered)
			}
		case r.QueueID == nil && r.Error != nil:
			if err := json.Unmarshal(r.Status, &code); err != nil || code < 400 || code > 499 {
				t.Fatalf("%q: result %d is no refusal: %s", body, i, answered)
			}
			if taken[i] && count == given {
				t.Fatalf("%q: item %d is valid and was refused: %s", body, i, answered)
			}
		default:
			t.Fatalf("%q: result %d is both or neither: %s", body, i, answered)
		}
	}
}
