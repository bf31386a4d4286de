package api

import (
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/VictoriaMetrics/metrics"
	"github.com/valyala/fasthttp"

	"github.com/harepost/harepost/engine"
)

// bodies are the large request bodies in memory: declared, being read, or in
// the hands of a handler. What is not larger than smallBodyBytes is not counted,
// since every connection may have that anyway.
type bodies struct {
	most  int64 // Options.BodyBytes
	share int64 // Options.AccountBodyBytes

	refused *metrics.Counter

	mu   sync.Mutex
	held int64
	by   map[engine.AccountID]int64 // above 0
}

func (b *bodies) init(o *Options) {
	b.most, b.share = o.BodyBytes, o.AccountBodyBytes
	b.by = map[engine.AccountID]int64{}
}

// take reports whether an account may have n bytes more. They are to be given
// back.
func (b *bodies) take(a engine.AccountID, n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held+n > b.most || b.by[a]+n > b.share {
		return false
	}
	b.held += n
	b.by[a] += n
	return true
}

func (b *bodies) give(a engine.AccountID, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held -= n
	if b.by[a] -= n; b.by[a] == 0 {
		delete(b.by, a)
	}
}

func (b *bodies) bytes() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.held
}

// A body is what a connection knows of the request that it is reading. All but
// giving it back is for the connection's own goroutine.
type body struct {
	tooLarge *problem      // the answer to one beyond the limit that was set; nil: none was set
	timeout  time.Duration // how long it may take to arrive; 0: Options.ReadTimeout

	owner engine.AccountID
	taken atomic.Int64 // from bodies
}

// take reserves room for the body of the request that is being read.
func (c *conn) take(a engine.AccountID, n int64) bool {
	if !c.conns.bodies.take(a, n) {
		c.conns.bodies.refused.Inc()
		return false
	}
	c.body.owner = a
	c.body.taken.Store(n)
	return true
}

// giveBody gives the room back, if there is any. It is called when a request is
// answered, and by Close: of a client that goes away fasthttp says nothing.
func (c *conn) giveBody() {
	if n := c.body.taken.Swap(0); n > 0 {
		c.conns.bodies.give(c.body.owner, n)
	}
}

// connOf returns the connection that a server's request came by. fasthttp hands
// out no more than the head between a head and its body; but that head is a part
// of its RequestCtx, which knows the connection. A header of any other origin
// must not come here: see setHTTP for who calls.
func connOf(h *fasthttp.RequestHeader) *conn {
	const offset = unsafe.Offsetof(fasthttp.RequestCtx{}.Request) + unsafe.Offsetof(fasthttp.Request{}.Header)
	ctx := (*fasthttp.RequestCtx)(unsafe.Add(unsafe.Pointer(h), -int(offset)))
	c, _ := ctx.Conn().(*conn)
	return c
}
