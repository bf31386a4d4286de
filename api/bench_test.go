package api

import (
	"bufio"
	"strconv"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"
)

const benchSend = `{"target":"https://hooks.example.com/v1/orders","headers":{"X-Event":"order.paid","X-Tenant":"t_4711"},` +
	`"body":{"id":"ord_123","event":"order.paid","amount":4200,"currency":"EUR","items":[{"sku":"a-1","n":2}]},` +
	`"delivery":{"max_attempts":5,"timeout_ms":10000},"idempotency_key":"ord_123-paid","sign":true}`

func BenchmarkDecodeSend(b *testing.B) {
	s, err := New(nil, Options{})
	if err != nil {
		b.Fatal(err)
	}
	body := []byte(benchSend)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		r := s.acquireSendRequest(body)
		if err := r.decode(nil, testNow); err != nil {
			b.Fatal(err)
		}
		r.release()
	}
}

func BenchmarkParseTarget(b *testing.B) {
	r := rules()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parseTarget("https://hooks.example.com/v1/orders", r); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkServe is everything of ours in a send but the log: it ends at a
// target that is not verified.
func BenchmarkServe(b *testing.B) {
	s := startServer(b, Options{}, nil)
	key := s.account()
	var ctx fasthttp.RequestCtx
	ctx.Init(&fasthttp.Request{}, nil, nil)
	head := "POST /v1/send HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + key + "\r\nContent-Type: application/json\r\n" +
		"User-Agent: bench\r\nAccept: */*\r\nContent-Length: " + strconv.Itoa(len(benchSend)) + "\r\n\r\n"
	if err := ctx.Request.Read(bufio.NewReader(strings.NewReader(head + benchSend))); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		ctx.Response.Reset()
		s.serve(&ctx)
		if ctx.Response.StatusCode() != 403 {
			b.Fatalf("%d %s", ctx.Response.StatusCode(), ctx.Response.Body())
		}
	}
}

// The hot path allocates what net/url and the name of the target cost, and
// nothing that grows with the request.
func TestDecodeSendAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool drop what it is given")
	}
	s, err := New(nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, extra := range []string{"", strings.Repeat(`,"x":{"y":[1,2,3]}`, 1), strings.Repeat("z", 10_000)} {
		body := []byte(strings.Replace(benchSend, `"amount":4200`, `"amount":4200`+strings.ReplaceAll(extra, "z", ` `), 1))
		got := testing.AllocsPerRun(200, func() {
			r := s.acquireSendRequest(body)
			if err := r.decode(nil, testNow); err != nil {
				t.Fatal(err)
			}
			r.release()
		})
		if got > 4 {
			t.Errorf("%d bytes: %.0f allocations", len(body), got)
		}
	}
}
