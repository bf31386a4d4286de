package bench

import (
	"sync/atomic"
	"testing"

	"github.com/valyala/fasthttp"
)

// BenchmarkReceiver is what a first arrival costs in the handler: it is taken from
// the CPUs that run the system under load.
func BenchmarkReceiver(b *testing.B) {
	b.Run("plain", func(b *testing.B) { benchmarkReceiver(b, "/") })
	b.Run("group", func(b *testing.B) { benchmarkReceiver(b, "/b/group=1/") })
	b.Run("failing", func(b *testing.B) { benchmarkReceiver(b, "/b/fail=0.1:503/") })
}

func benchmarkReceiver(b *testing.B, path string) {
	r, err := NewReceiver(ReceiverOptions{Run: 5})
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	var next atomic.Uint32
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		var ctx fasthttp.RequestCtx
		ctx.Init2(&doorConn{door: r.doors[0]}, nil, false)
		ctx.Request.Header.SetMethod(fasthttp.MethodPost)
		ctx.Request.SetRequestURI(path)
		var p []byte
		for pb.Next() {
			p = appendPayload(p[:0], 300, mark{Run: 5, Sequence: next.Add(1) % maxSends, SentAt: now()})
			ctx.Request.SetBodyRaw(p)
			r.handle(&ctx)
		}
	})
}
