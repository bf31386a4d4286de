package api

import (
	"bufio"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/valyala/fasthttp"

	"github.com/harepost/harepost/engine"
)

const benchSend = `{"target":"https://hooks.example.com/v1/orders","headers":{"X-Event":"order.paid","X-Tenant":"t_4711"},` +
	`"body":{"id":"ord_123","event":"order.paid","amount":4200,"currency":"EUR","items":[{"sku":"a-1","n":2}]},` +
	`"delivery":{"max_attempts":5,"timeout_ms":10000},"idempotency_key":"ord_123-paid","sign":true}`

// sendOf is benchSend with a body of about so many bytes of JSON.
func sendOf(bytes int) string {
	items := strings.Repeat(`,{"sku":"a-1","n":2,"note":"two of them"}`, max(0, bytes-160)/42)
	return strings.Replace(benchSend, `{"sku":"a-1","n":2}`, `{"sku":"a-1","n":2}`+items, 1)
}

// BenchmarkDecodeSend decodes and checks a send; of the batch, 1,000 of them.
func BenchmarkDecodeSend(b *testing.B) {
	s, err := New(nil, Options{})
	if err != nil {
		b.Fatal(err)
	}
	for name, text := range map[string]string{"300B": benchSend, "64KiB": sendOf(64 << 10)} {
		b.Run(name, func(b *testing.B) {
			body := []byte(text)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				decodeOne(b, s, body)
			}
		})
	}
	b.Run("batch=1000", func(b *testing.B) {
		body := []byte(batchOfSends(1000))
		b.SetBytes(int64(len(body)))
		b.ReportAllocs()
		for b.Loop() {
			decodeBatchOf(b, s, body)
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/send")
	})
}

func decodeOne(t testing.TB, s *Server, body []byte) {
	r := s.acquireSendRequest(body)
	if err := r.decode(nil, testNow); err != nil {
		t.Fatal(err)
	}
	r.release()
}

func batchOfSends(n int) string { return "[" + strings.Repeat(benchSend+",", n-1) + benchSend + "]" }

func decodeBatchOf(t testing.TB, s *Server, body []byte) {
	raw, err := splitArray(body, s.o.BatchSends)
	if err != nil {
		t.Fatal(err)
	}
	items := s.decodeBatch(raw, time.Now())
	for i := range items {
		if items[i].err != nil {
			t.Fatal(items[i].err)
		}
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
	ctx := arrived(b, "POST /v1/send", key, benchSend)
	b.ReportAllocs()
	for b.Loop() {
		served(b, s, ctx, 403)
	}
}

// arrived is a request as it came off the wire.
func arrived(t testing.TB, line, key, body string) *fasthttp.RequestCtx {
	ctx := new(fasthttp.RequestCtx)
	ctx.Init(&fasthttp.Request{}, nil, nil)
	head := line + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + key + "\r\nContent-Type: application/json\r\n" +
		"User-Agent: bench\r\nAccept: */*\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n"
	if err := ctx.Request.Read(bufio.NewReader(strings.NewReader(head + body))); err != nil {
		t.Fatal(err)
	}
	return ctx
}

// served has the server answer it.
func served(t testing.TB, s *testServer, ctx *fasthttp.RequestCtx, want int) {
	ctx.Response.Reset()
	s.serve(ctx)
	if ctx.Response.StatusCode() != want {
		t.Fatalf("%d %s", ctx.Response.StatusCode(), ctx.Response.Body())
	}
}

// inMemory keeps log and state in memory, in files as large as in production.
func inMemory(o *engine.Options) {
	o.FS = vfs.NewMem()
	o.LogSegmentBytes = 64 << 20
}

// answering200 is a target on loopback that answers every read and allocates
// nothing while it does. A small request is one read. It waits for the end of its
// connections, so it is started before what makes them.
func answering200(t testing.TB) (url string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close()
				reply := []byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				for buf := make([]byte, 16<<10); ; {
					if _, err := c.Read(buf); err != nil {
						return
					}
					if _, err := c.Write(reply); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close(); running.Wait() })
	return "http://" + ln.Addr().String() + "/v1/orders"
}

// sendTo is benchSend to another target, and without its idempotency key.
func sendTo(target string) string {
	send := strings.Replace(benchSend, "https://hooks.example.com/v1/orders", target, 1)
	return strings.Replace(send, `"idempotency_key":"ord_123-paid",`, "", 1)
}

// BenchmarkSend is a send from the request's bytes to the answer's, by 64
// requests at once: through the log, on a disk in memory, and delivered at the
// same time to a target on loopback.
func BenchmarkSend(b *testing.B) {
	body := sendTo(answering200(b))
	s := startServer(b, Options{Dev: true}, inMemory)
	key := s.account()
	b.ReportAllocs()
	b.SetParallelism(64 / runtime.GOMAXPROCS(0))
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		ctx := arrived(b, "POST /v1/send", key, body)
		for pb.Next() {
			served(b, s, ctx, 202)
		}
	})
}

// BenchmarkPage answers a request for the newest 25 of 5,000 finished deliveries.
func BenchmarkPage(b *testing.B) {
	send := sendTo(answering200(b))
	s := startServer(b, Options{Dev: true}, inMemory)
	key := s.account()
	for range 5 {
		served(b, s, arrived(b, "POST /v1/send/batch", key, "["+strings.Repeat(send+",", 999)+send+"]"), 202)
	}
	eventually(b, "none is queued", func() bool {
		page := s.do("GET", "/v1/deliveries?status=queued&limit=1", key, "").want(200)
		return len(page["data"].([]any)) == 0
	})
	ctx := arrived(b, "GET /v1/deliveries?limit=25", key, "")
	b.ReportAllocs()
	for b.Loop() {
		served(b, s, ctx, 200)
	}
	b.SetBytes(int64(len(ctx.Response.Body())))
}

// The hot path allocates what net/url and the names of headers cost, and nothing
// that grows with the request.
func TestDecodeSendAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool drop what it is given")
	}
	s, err := New(nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, extra := range []string{"", strings.Repeat(`,"x":{"y":[1,2,3]}`, 1), strings.Repeat(" ", 10_000)} {
		body := []byte(strings.Replace(benchSend, `"amount":4200`, `"amount":4200`+extra, 1))
		if got := testing.AllocsPerRun(200, func() { decodeOne(t, s, body) }); got > 3 {
			t.Errorf("%d bytes: %.0f allocations, want at most 3", len(body), got)
		}
	}
	body := []byte(sendOf(64 << 10))
	if got := testing.AllocsPerRun(100, func() { decodeOne(t, s, body) }); got > 3 {
		t.Errorf("%d bytes: %.0f allocations, want at most 3", len(body), got)
	}
	body = []byte(batchOfSends(1000))
	if got := testing.AllocsPerRun(10, func() { decodeBatchOf(t, s, body) }) / 1000; got > 8 {
		t.Errorf("%.1f allocations for each send of a batch, want at most 8", got)
	}
}

// What a send allocates from the request's bytes to the answer's, with the frame
// that it has to itself and what the state makes of it. The delivery is an hour
// away, so that no attempt is counted.
func TestServeSendAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool drop what it is given")
	}
	s := startServer(t, Options{Dev: true}, inMemory)
	send := strings.Replace(sendTo("http://127.0.0.1:18080/"), `"sign":true`, `"sign":true,"delay_ms":3600000`, 1)
	ctx := arrived(t, "POST /v1/send", s.account(), send)
	for range 500 { // pools and maps
		served(t, s, ctx, 202)
	}
	if got := testing.AllocsPerRun(500, func() { served(t, s, ctx, 202) }); got > 18 {
		t.Errorf("%.0f allocations, want at most 18", got)
	}
}
