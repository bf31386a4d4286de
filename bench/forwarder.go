package bench

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

// ForwarderOptions configure a Forwarder.
type ForwarderOptions struct {
	// Workers forward at the same time. Default 256.
	Workers int
	// QueueRequests bounds the channel between the server and the workers.
	// When it is full a request waits for room, and is answered 503 after
	// queueWait: so what is accepted is delivered. Default 1,024.
	QueueRequests int
}

const (
	// queueWait bounds how long a request waits for room in the queue.
	queueWait = 5 * time.Second
	dialWait  = 5 * time.Second
	// maxHosts bounds the destinations of one forwarder.
	maxHosts = 1024
)

// A Forwarder is the yardstick: it takes the requests that the engine takes,
// answers 202 at once, forwards the body to the target and keeps nothing. What
// cannot be forwarded is lost, and counted.
type Forwarder struct {
	server  *server
	queue   chan *forwarding
	spare   sync.Pool // of *forwarding
	workers sync.WaitGroup
	closing sync.Once
	err     error // of closing

	// hosts is copied when a host is added, so that workers read it without a
	// lock: the plain map look-up is all that a forwarding pays.
	hosts   atomic.Pointer[map[string]*fasthttp.HostClient]
	hostsMu sync.Mutex

	maxConns int
	lost     atomic.Uint64
}

// A forwarding is one request on its way. It owns its bytes, since fasthttp
// reuses the request's after the answer.
type forwarding struct{ target, method, body []byte }

// NewForwarder listens on a free port of 127.0.0.1 and serves until Close.
func NewForwarder(o ForwarderOptions) (*Forwarder, error) {
	if o.Workers == 0 {
		o.Workers = 256
	}
	if o.QueueRequests == 0 {
		o.QueueRequests = 1024
	}
	f := &Forwarder{
		queue:    make(chan *forwarding, o.QueueRequests),
		spare:    sync.Pool{New: func() any { return new(forwarding) }},
		maxConns: o.Workers,
	}
	f.hosts.Store(&map[string]*fasthttp.HostClient{})
	var err error
	if f.server, err = serve("forwarder", 1, f.accept); err != nil {
		return nil, err
	}
	for range o.Workers {
		f.workers.Go(f.work)
	}
	return f, nil
}

// Addr is the host and port the forwarder listens on.
func (f *Forwarder) Addr() string { return f.server.listeners[0].Addr().String() }

// Lost counts what was accepted and could not be forwarded.
func (f *Forwarder) Lost() uint64 { return f.lost.Load() }

// Close stops accepting, forwards what is queued and waits for the workers. It
// may be called twice.
func (f *Forwarder) Close() error {
	f.closing.Do(func() {
		f.err = f.server.close()
		close(f.queue)
		f.workers.Wait()
		for _, c := range *f.hosts.Load() {
			c.CloseIdleConnections()
		}
	})
	return f.err
}

func (f *Forwarder) accept(ctx *fasthttp.RequestCtx) {
	e, err := readEnvelope(ctx.PostBody())
	if err != nil {
		ctx.Error(err.Error(), fasthttp.StatusBadRequest)
		return
	}
	w := f.spare.Get().(*forwarding)
	w.target = append(w.target[:0], e.Target...)
	w.method = append(w.method[:0], e.Method...)
	w.body = append(w.body[:0], e.Body...)
	if !f.enqueue(w) {
		ctx.Error("queue is full", fasthttp.StatusServiceUnavailable)
		return
	}
	ctx.SetStatusCode(fasthttp.StatusAccepted)
}

// enqueue reports false when the queue stayed full. The timer is made only
// then: the usual request pays one channel send.
func (f *Forwarder) enqueue(w *forwarding) bool {
	select {
	case f.queue <- w:
		return true
	default:
	}
	timeout := time.NewTimer(queueWait)
	defer timeout.Stop()
	select {
	case f.queue <- w:
		return true
	case <-timeout.C:
		return false
	}
}

func (f *Forwarder) work() {
	request, response := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(request)
	defer fasthttp.ReleaseResponse(response)
	for w := range f.queue {
		if err := f.forward(w, request, response); err != nil {
			f.lost.Add(1)
		}
		f.spare.Put(w)
	}
}

func (f *Forwarder) forward(w *forwarding, request *fasthttp.Request, response *fasthttp.Response) error {
	host, err := hostOf(w.target)
	if err != nil {
		return err
	}
	client, err := f.client(host)
	if err != nil {
		return err
	}
	request.Reset()
	request.SetRequestURIBytes(w.target)
	request.Header.SetMethod(fasthttp.MethodPost)
	if len(w.method) > 0 {
		request.Header.SetMethodBytes(w.method)
	}
	request.Header.SetContentType("application/json")
	request.SetBodyRaw(w.body)
	return client.Do(request, response)
}

// hostOf returns the host and port of an http URL.
func hostOf(target []byte) ([]byte, error) {
	rest, ok := bytes.CutPrefix(target, []byte("http://"))
	if !ok {
		return nil, fmt.Errorf("not an http target: %.80q", target)
	}
	if end := bytes.IndexAny(rest, "/?#"); end >= 0 {
		rest = rest[:end]
	}
	return rest, nil
}

// client returns the client of a host, and makes it on the first use.
func (f *Forwarder) client(host []byte) (*fasthttp.HostClient, error) {
	if c := (*f.hosts.Load())[string(host)]; c != nil {
		return c, nil
	}
	f.hostsMu.Lock()
	defer f.hostsMu.Unlock()
	old := *f.hosts.Load()
	if c := old[string(host)]; c != nil {
		return c, nil
	}
	if len(old) == maxHosts {
		return nil, errors.New("too many hosts")
	}
	c := &fasthttp.HostClient{
		Addr:     string(host),
		MaxConns: f.maxConns,
		// fasthttp's own dialer caches addresses in a goroutine that never ends.
		Dial: func(addr string) (net.Conn, error) { return net.DialTimeout("tcp", addr, dialWait) },
		// One attempt, as the engine's: a resend would be a duplicate.
		RetryIfErr: func(*fasthttp.Request, int, error) (bool, bool) { return false, false },
	}
	hosts := make(map[string]*fasthttp.HostClient, len(old)+1)
	for name, known := range old {
		hosts[name] = known
	}
	hosts[string(host)] = c
	f.hosts.Store(&hosts)
	return c, nil
}
