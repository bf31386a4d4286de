package api

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/harepost/harepost/engine"
)

// A Server serves the API of one engine. Its methods may be called
// concurrently.
type Server struct {
	o       Options
	engine  *engine.Engine
	targets targetRules
	admin   [sha256.Size]byte // of Options.AdminToken
	routes  map[string]*route
	metrics *apiMetrics
	proxy   *proxy
	log     *slog.Logger
	now     func() time.Time

	http     fasthttp.Server
	conns    connections
	draining atomic.Bool

	// ctx is what engine calls get. It ends when Shutdown has run out of
	// time, not when it begins: a send that is being synced is answered.
	ctx    context.Context
	cancel context.CancelFunc
}

// New returns a server that is not listening yet. The engine stays the
// caller's: Shutdown does not close it.
func New(e *engine.Engine, o Options) (*Server, error) {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	s := &Server{
		o:      o,
		engine: e,
		targets: targetRules{
			allowHTTP:    o.AllowHTTPTargets,
			loopback:     o.Dev,
			urlChars:     o.URLChars,
			privateNames: o.PrivateNames,
		},
		admin: sha256.Sum256([]byte(o.AdminToken)),
		log:   o.Logger,
		now:   time.Now,
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.routes = s.routeTable()
	s.conns.init(&s.o)
	s.metrics = newMetrics(s.routes, &s.conns)
	s.metrics.set.NewGauge("harepost_accepting_sends", s.acceptsSends)
	s.proxy = newProxy(&s.o, s.metrics.set)
	s.setHTTP()
	return s, nil
}

// setHTTP sets every limit of fasthttp: its own defaults have no timeouts.
func (s *Server) setHTTP() {
	s.http.Handler = s.serve
	s.http.ErrorHandler = s.serveError
	s.http.HeaderReceived = s.limitBody
	s.http.Logger = printfLogger{s.log}
	s.http.Concurrency = s.o.Connections + 2*spareConns + 1 // ours is met first, see connections
	s.http.MaxRequestsPerConn = s.o.RequestsPerConn
	s.http.ReadBufferSize = s.o.ReadBufferBytes
	s.http.WriteBufferSize = 4 << 10
	s.http.ReadTimeout = s.o.ReadTimeout
	s.http.WriteTimeout = s.o.WriteTimeout
	s.http.IdleTimeout = s.o.IdleTimeout
	s.http.MaxRequestBodySize = s.o.RequestBytes
	s.http.CloseOnShutdown = true
	s.http.NoDefaultServerHeader = true
	s.http.NoDefaultContentType = true // every answer with a body sets its own
	s.http.SecureErrorLogMessage = true
	s.http.DisablePreParseMultipartForm = true
	s.http.LazyRequestTime = true // the handler reads the clock itself
}

// Serve answers requests on ln until Shutdown, which makes it return nil. It
// closes ln. For TLS, ln is a TLS listener. It may be called for several.
func (s *Server) Serve(ln net.Listener) error {
	if err := s.http.Serve(s.conns.listen(ln)); err != nil {
		return fmt.Errorf("api: serve on %s: %w", ln.Addr(), err)
	}
	return nil
}

// Handler is what answers one request, for a caller with a fasthttp.Server of
// its own. That server must set its own limits.
func (s *Server) Handler() fasthttp.RequestHandler { return s.serve }

// PeerHandler is what answers a request that another node of the cluster has
// handed on. It never hands one on itself. It trusts whoever calls to be a node,
// and to hold bodies to their bounds.
func (s *Server) PeerHandler() fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) { s.serveCall(ctx, true) }
}

// Drain makes GET /readyz fail and every answer close its connection, so that
// a load balancer moves on. Requests are still served.
func (s *Server) Drain() { s.draining.Store(true) }

// Shutdown stops listening, waits for the requests under way and closes the
// idle connections. When ctx ends first, it cancels what still waits for the
// engine, without waiting for it, closes every connection, and returns the
// context's error. It may be called twice, and before Serve, which then returns
// at once.
func (s *Server) Shutdown(ctx context.Context) error {
	s.Drain()
	defer s.cancel()
	s.conns.stop()
	err := s.http.ShutdownWithContext(ctx)
	if ctx.Err() != nil {
		s.cancel()
	}
	s.conns.closeAll()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("api: shut down: %w", err)
	}
	return nil
}

// printfLogger is the logger fasthttp wants. What it says is about single
// connections, and without request data because of SecureErrorLogMessage.
type printfLogger struct{ log *slog.Logger }

func (l printfLogger) Printf(format string, args ...any) {
	l.log.Debug("http: " + fmt.Sprintf(format, args...))
}
