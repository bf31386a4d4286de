package transport

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// fastReceiver is a fasthttp server that answers 200 with an empty body.
func fastReceiver(b testing.TB) netip.AddrPort {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := &fasthttp.Server{Handler: func(ctx *fasthttp.RequestCtx) { ctx.SetStatusCode(200) }}
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(ln) }()
	b.Cleanup(func() { ln.Close(); s.Shutdown(); <-done })
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

func benchmarkDo(b *testing.B, secrets ...string) {
	addr := fastReceiver(b)
	tr := open(b)
	req := to(addr, "POST", "/hooks", string(make([]byte, 1024)))
	req.Headers = []Header{{"Content-Type", "application/json"}}
	req.Secrets = secrets
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		var res Result
		for pb.Next() {
			if tr.Do(req, &res); res.Outcome != Delivered {
				b.Error(res.Error())
			}
		}
	})
}

func BenchmarkDo(b *testing.B)       { b.SetParallelism(32); benchmarkDo(b) }
func BenchmarkDoSerial(b *testing.B) { b.SetParallelism(1); benchmarkDo(b) }
func BenchmarkDoSigned(b *testing.B) {
	b.SetParallelism(32)
	benchmarkDo(b, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
}

// BenchmarkHostClient is the same exchange through fasthttp's own client, to
// measure ours against.
func BenchmarkHostClient(b *testing.B) {
	addr := fastReceiver(b)
	hc := &fasthttp.HostClient{Addr: addr.String(), MaxConns: 1024, ConnPoolStrategy: fasthttp.LIFO}
	body := make([]byte, 1024)
	b.Cleanup(hc.CloseIdleConnections)
	b.SetParallelism(32)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
		for pb.Next() {
			req.Reset()
			req.SetRequestURI("http://" + addr.String() + "/hooks")
			req.Header.SetMethod("POST")
			req.Header.SetContentType("application/json")
			req.SetBodyRaw(body)
			if err := hc.DoTimeout(req, resp, 5*time.Second); err != nil {
				b.Error(err)
			}
		}
	})
}
