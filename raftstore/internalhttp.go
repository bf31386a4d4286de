package raftstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

// InternalServerOptions bound what other nodes may ask of this one.
type InternalServerOptions struct {
	// BodyBytes bounds a request's body; what is larger is answered 413. Default
	// 17 MiB, the largest batch of the API and some room.
	BodyBytes int
	// HeadBytes bounds a request's head; what is larger is answered 431. Default
	// 64 KiB.
	HeadBytes int
	// Conns bounds the connections, and with them the requests under way. One
	// more is answered 503. Default 512.
	Conns int
	// ReadTimeout bounds reading a request, from its first byte on, WriteTimeout
	// writing an answer. Default 30 s each. The time between belongs to the handler.
	ReadTimeout, WriteTimeout time.Duration
	// IdleTimeout is how long a connection may wait for a request. It should be
	// longer than the clients' IdleDuration. Default 90 s.
	IdleTimeout time.Duration
	// Logger gets panics of handlers. Default: slog.Default().
	Logger *slog.Logger
}

func (o *InternalServerOptions) setDefaults() {
	for _, d := range []struct {
		bound *int
		value int
	}{{&o.BodyBytes, internalBodyBytes}, {&o.HeadBytes, 64 << 10}, {&o.Conns, 512}} {
		if *d.bound == 0 {
			*d.bound = d.value
		}
	}
	for _, d := range []struct {
		bound *time.Duration
		value time.Duration
	}{{&o.ReadTimeout, 30 * time.Second}, {&o.WriteTimeout, 30 * time.Second}, {&o.IdleTimeout, 90 * time.Second}} {
		if *d.bound == 0 {
			*d.bound = d.value
		}
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
}

// internalBodyBytes is the API's largest batch, 16 MiB, and room for what a node
// may add.
const internalBodyBytes = 17 << 20

// goodbye is the one byte that an internal server writes to a connection before
// it closes it between requests: it has read nothing of what may be on its way.
// No answer of HTTP begins with it. A client that gets it in place of an answer
// knows that its request was not heard, which a mere end does not tell:
//
//	client ── request ──►            the server has decided to close
//	       ◄── goodbye, end ──       nothing of the request was read: ask elsewhere
//	       ◄── end, or a reset ──    who knows
const goodbye = 'Q'

// An InternalServer answers HTTP requests of other nodes.
type InternalServer struct {
	http     *fasthttp.Server
	listener net.Listener
	log      *slog.Logger
	served   chan struct{} // closed when the accept loop is gone

	mu    sync.Mutex
	conns map[*servedConn]struct{}
}

// ServeInternal answers the requests that come in by l with h, on goroutines of
// its own, until Shutdown. l may be a StreamLayer's HTTPListener or any other.
// h may not keep the RequestCtx, nor what is reached from it, after it returned.
func ServeInternal(l net.Listener, h fasthttp.RequestHandler, o InternalServerOptions) *InternalServer {
	o.setDefaults()
	s := &InternalServer{listener: l, log: o.Logger, served: make(chan struct{}), conns: make(map[*servedConn]struct{})}
	s.http = &fasthttp.Server{
		Handler:                      func(ctx *fasthttp.RequestCtx) { s.serve(ctx, h) },
		ErrorHandler:                 internalError,
		ConnState:                    s.connState,
		Logger:                       noLog{},
		Concurrency:                  o.Conns,
		ReadBufferSize:               o.HeadBytes,
		MaxRequestBodySize:           o.BodyBytes,
		ReadTimeout:                  o.ReadTimeout,
		WriteTimeout:                 o.WriteTimeout,
		IdleTimeout:                  o.IdleTimeout,
		CloseOnShutdown:              true,
		NoDefaultServerHeader:        true,
		NoDefaultContentType:         true,
		SecureErrorLogMessage:        true,
		DisablePreParseMultipartForm: true,
	}
	go func() {
		defer close(s.served)
		// It ends when the listener does, and has no other error to tell.
		_ = s.http.Serve(&servedListener{Listener: l, server: s})
	}()
	return s
}

// Shutdown closes the listener and the connections that wait for a request, lets
// requests under way be answered until ctx ends, and then closes their
// connections; handlers that are still at work are not waited for. It returns
// ctx's error if that was so. It may be called again.
func (s *InternalServer) Shutdown(ctx context.Context) error {
	s.listener.Close() // also where fasthttp does not have it yet
	<-s.served
	err := s.http.ShutdownWithContext(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.Conn.Close()
	}
	return err
}

func (s *InternalServer) serve(ctx *fasthttp.RequestCtx, h fasthttp.RequestHandler) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		s.log.Error("a request of another node broke its handler", "panic", p, "from", PeerOf(ctx), "stack", string(debug.Stack()))
		ctx.Response.Reset()
		ctx.SetStatusCode(fasthttp.StatusInternalServerError)
		ctx.SetConnectionClose()
	}()
	h(ctx)
}

// connState hears of answers that have been written.
func (s *InternalServer) connState(c net.Conn, state fasthttp.ConnState) {
	if served, ok := c.(*servedConn); ok && state == fasthttp.StateIdle {
		served.state.CompareAndSwap(connBusy, connWaits)
	}
}

// internalError answers what could not be read as a request.
func internalError(ctx *fasthttp.RequestCtx, err error) {
	status := fasthttp.StatusBadRequest
	var small *fasthttp.ErrSmallBuffer
	var timeout net.Error
	switch {
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		status = fasthttp.StatusRequestEntityTooLarge
	case errors.As(err, &small):
		status = fasthttp.StatusRequestHeaderFieldsTooLarge
	case errors.As(err, &timeout) && timeout.Timeout():
		status = fasthttp.StatusRequestTimeout
	}
	ctx.SetStatusCode(status)
}

// PeerOf returns the id of the node that a request came from, as its certificate
// proves it. It is empty without TLS.
func PeerOf(ctx *fasthttp.RequestCtx) string { return PeerID(ctx.Conn()) }

// noLog is a fasthttp.Logger. What other nodes' connections come to is told to
// them, and by them.
type noLog struct{}

// Printf is part of fasthttp.Logger.
func (noLog) Printf(string, ...any) {}

// A servedListener makes a servedConn of every connection.
type servedListener struct {
	net.Listener
	server *InternalServer
}

// Accept waits for a connection.
func (l *servedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	served := &servedConn{Conn: c, server: l.server}
	l.server.mu.Lock()
	l.server.conns[served] = struct{}{}
	l.server.mu.Unlock()
	return served, nil
}

// A servedConn says goodbye when it is closed between two requests. Which of
// reading and closing was first is decided by one swap of its state:
//
//	         Read has bytes
//	waits ──────────────────► busy
//	  │    ◄──────────────────  │
//	  │     answer is written   │
//	Close, goodbye              │ Close, none
//	  ▼                         ▼
//	closed                    closed: Read gives what it has to nobody
type servedConn struct {
	net.Conn
	server *InternalServer
	state  atomic.Int32
}

const (
	connWaits = iota
	connBusy
	connClosed
)

// PeerID returns the id of the node at the other end, see PeerID.
func (c *servedConn) PeerID() string { return PeerID(c.Conn) }

// Read is as net.Conn says.
func (c *servedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && !c.state.CompareAndSwap(connWaits, connBusy) && c.state.Load() == connClosed {
		return 0, fmt.Errorf("raftstore: read: %w", net.ErrClosed)
	}
	return n, err
}

// Close is as net.Conn says. It may be called again.
func (c *servedConn) Close() error {
	was := c.state.Swap(connClosed)
	if was == connClosed {
		return nil
	}
	if was == connWaits {
		// Nobody else writes between requests. The deadline is for a peer that
		// does not read.
		c.SetWriteDeadline(time.Now().Add(farewell))
		c.Write([]byte{goodbye})
	}
	err := c.Conn.Close()
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	delete(c.server.conns, c)
	return err
}
