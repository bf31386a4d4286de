package api

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/harepost/harepost/engine"
)

// headerRequestIDBytes is headerRequestID, which is in its canonical form.
var headerRequestIDBytes = []byte(headerRequestID)

// Headers that fasthttp has no name for.
const (
	headerRequestID      = "X-Request-Id"
	headerIdempotencyKey = "Idempotency-Key"
)

// A call is one request on its way to a handler. It ends with the handler.
type call struct {
	http     *fasthttp.RequestCtx
	account  engine.AccountID // of the API key, where the route asks for one
	param    string           // the path's one variable element, where the route has one
	received time.Time        // when its head and body were there
	handedOn bool             // by another node of the cluster: it goes no further
	reads    bool             // it changes nothing
	stale    bool             // it may be answered from what this node has
}

// access is whom a route serves.
type access uint8

const (
	public  access = iota // no key
	account               // an API key
	owner                 // an API key, or the admin token with the parameter account_id
	signup                // the admin token; with open sign-up anyone, for POST
	admin                 // the admin token
)

// A handler answers a call, or returns the error that serve answers with.
type handler func(c *call) error

// A route is one path with its methods.
type route struct {
	path    string // as documented, a label of metrics too
	param   bool   // the path has a variable element
	access  access
	methods map[string]handler
	allow   string // value of the header Allow
	probe   bool   // answered on connections above the limit too
	local   bool   // in a cluster every node answers it for itself
	metrics *routeMetrics
}

// routeTable returns the routes by path, with the parameter left out of those
// that have one: "/v1/deliveries/" and "/v1/deliveries//replay".
func (s *Server) routeTable() map[string]*route {
	table := map[string]*route{}
	add := func(path string, who access, methods map[string]handler) {
		key, param := path, false
		if before, after, found := strings.Cut(path, "{"); found {
			_, after, _ = strings.Cut(after, "}")
			key, param = before+after, true
		}
		table[key] = &route{path: path, param: param, access: who, methods: methods, allow: allow(methods)}
	}
	add("/v1/send", account, map[string]handler{"POST": s.send})
	add("/v1/send/batch", account, map[string]handler{"POST": s.sendBatch})
	add("/v1/deliveries", account, map[string]handler{"GET": s.listDeliveries})
	add("/v1/deliveries/{id}", account, map[string]handler{"GET": s.getDelivery})
	add("/v1/deliveries/cancel", account, map[string]handler{"POST": s.cancelDeliveries})
	add("/v1/deliveries/{id}/cancel", account, map[string]handler{"POST": s.cancelDelivery})
	add("/v1/deliveries/{id}/replay", account, map[string]handler{"POST": s.replayDelivery})
	add("/v1/dead-letters", account, map[string]handler{"GET": s.listDeadLetters, "DELETE": s.purgeDeadLetters})
	add("/v1/dead-letters/replay", account, map[string]handler{"POST": s.replayDeadLetters})
	add("/v1/replays", account, map[string]handler{"GET": s.listReplays})
	add("/v1/replays/{id}", account, map[string]handler{"GET": s.getReplay})
	add("/v1/replays/{id}/cancel", account, map[string]handler{"POST": s.cancelReplay})
	add("/v1/jobs", account, map[string]handler{"GET": s.listJobs})
	add("/v1/jobs/{id}", account, map[string]handler{"GET": s.getJob})
	add("/v1/jobs/{id}/cancel", account, map[string]handler{"POST": s.cancelJob})
	add("/v1/domains", account, map[string]handler{"GET": s.listDomains, "POST": s.addDomain})
	add("/v1/domains/verify", account, map[string]handler{"POST": s.verifyDomain})
	add("/v1/domains/{domain}", account, map[string]handler{"GET": s.getDomain, "DELETE": s.deleteDomain})
	add("/v1/destinations", owner, map[string]handler{"GET": s.listDestinations})
	add("/v1/destinations/{host}", owner, map[string]handler{"GET": s.getDestination, "PATCH": s.changeDestination})
	add("/v1/destinations/{host}/pause", owner, map[string]handler{"POST": s.pauseDestination})
	add("/v1/destinations/{host}/resume", owner, map[string]handler{"POST": s.resumeDestination})
	add("/v1/keys", account, map[string]handler{"GET": s.listKeys, "POST": s.createKey})
	add("/v1/keys/{id}", account, map[string]handler{"DELETE": s.deleteKey})
	add("/v1/signing-secret", account, map[string]handler{"GET": s.getSigningSecret})
	add("/v1/signing-secret/rotate", account, map[string]handler{"POST": s.rotateSigningSecret})
	add("/v1/accounts", signup, map[string]handler{"GET": s.listAccounts, "POST": s.createAccount})
	add("/v1/accounts/{id}", admin, map[string]handler{"GET": s.getAccount, "PATCH": s.changeAccount, "DELETE": s.deleteAccount})
	add("/v1/backup", admin, map[string]handler{"GET": s.getBackup})
	add("/v1/cluster", admin, map[string]handler{"GET": s.getCluster})
	add("/v1/cluster/snapshot", admin, map[string]handler{"POST": s.snapshotCluster})
	add("/v1/cluster/transfer", admin, map[string]handler{"POST": s.transferCluster})
	add("/v1/cluster/nodes/{id}", admin, map[string]handler{"DELETE": s.removeNode})
	add("/healthz", public, map[string]handler{"GET": s.healthz})
	add("/readyz", public, map[string]handler{"GET": s.readyz})
	add("/metrics", public, map[string]handler{"GET": s.writeMetrics})
	add("/v1/openapi.json", public, map[string]handler{"GET": s.getOpenAPI})
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		table[path].probe = true
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/v1/openapi.json", "/v1/backup", "/v1/cluster", "/v1/cluster/snapshot"} {
		table[path].local = true
	}
	return table
}

// allow lists the methods in one order; HEAD comes with GET, OPTIONS always.
func allow(methods map[string]handler) string {
	var list []string
	for _, m := range []string{"GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS"} {
		if _, ok := methods[m]; ok || m == "OPTIONS" || m == "HEAD" && methods["GET"] != nil {
			list = append(list, m)
		}
	}
	return strings.Join(list, ", ")
}

// find returns the route of a path as it came, without decoding or cleaning
// it: a path in another spelling is another path. The parameter is decoded. It
// is the last element or the one before; a path without one goes first.
func (s *Server) find(path []byte) (r *route, param string) {
	if r := s.routes[string(path)]; r != nil && !r.param {
		return r, ""
	}
	last := bytes.LastIndexByte(path, '/')
	if last < 0 {
		return nil, ""
	}
	if r := s.routes[string(path[:last+1])]; r != nil && r.param {
		return r.with(path[last+1:])
	}
	before := bytes.LastIndexByte(path[:last], '/')
	if before < 0 {
		return nil, ""
	}
	if r := s.routes[string(path[:before+1])+string(path[last:])]; r != nil && r.param {
		return r.with(path[before+1 : last])
	}
	return nil, ""
}

// with returns the route and its decoded parameter, or nil if that is none.
func (r *route) with(raw []byte) (*route, string) {
	param, err := url.PathUnescape(string(raw))
	if err != nil || param == "" {
		return nil, ""
	}
	return r, param
}

// serve answers one request of a client.
func (s *Server) serve(ctx *fasthttp.RequestCtx) { s.serveCall(ctx, false) }

// serveCall answers one request, which another node may have handed on.
func (s *Server) serveCall(ctx *fasthttp.RequestCtx, handedOn bool) {
	start := s.now()
	setRequestID(ctx)
	if s.o.NodeID != "" {
		ctx.Response.Header.Set(headerNode, s.o.NodeID)
	}
	conn, _ := ctx.Conn().(*conn) // nil with a server that is not ours
	var r *route
	// A request target with control characters has no path for fasthttp.
	if path := ctx.URI().PathOriginal(); len(path) == 0 || ambiguousHead(ctx.Request.Header.RawHeaders()) {
		ctx.SetConnectionClose()
		writeProblem(ctx, errMalformedHTTP)
	} else {
		var param string
		r, param = s.find(path)
		err := conn.admits(r)
		if err == nil {
			err = s.dispatch(&call{http: ctx, param: param, received: start, handedOn: handedOn}, r)
		}
		if err != nil {
			s.writeError(ctx, err)
		}
	}
	if s.draining.Load() || conn != nil && conn.spare {
		ctx.SetConnectionClose()
	}
	ctx.Request.ReleaseBody(keptBytes) // no answer refers to it
	if conn != nil {
		conn.giveBody()
	}
	s.metrics.observe(r, ctx.Response.StatusCode(), s.now().Sub(start))
}

// dispatch finds the handler, lets it work, and turns its panic into an error.
func (s *Server) dispatch(c *call, r *route) (err error) {
	ctx := c.http
	defer func() {
		if v := recover(); v != nil {
			err = &panicError{value: v, stack: debug.Stack()}
		}
	}()
	if r == nil {
		return errNotFound
	}
	method := ctx.Method()
	h := r.methods[string(method)]
	switch {
	case h != nil:
	case string(method) == "HEAD" && r.methods["GET"] != nil:
		h = r.methods["GET"] // fasthttp leaves the body out
	case string(method) == "OPTIONS":
		ctx.Response.Header.Set(fasthttp.HeaderAllow, r.allow)
		ctx.SetStatusCode(fasthttp.StatusNoContent)
		return nil
	default:
		ctx.Response.Header.Set(fasthttp.HeaderAllow, r.allow)
		return &problem{
			status:  fasthttp.StatusMethodNotAllowed,
			message: "method not allowed",
			detail:  r.path + " has " + r.allow,
		}
	}
	if e := ctx.Request.Header.Peek(fasthttp.HeaderContentEncoding); len(e) > 0 && string(e) != "identity" {
		return &problem{
			status:  fasthttp.StatusUnsupportedMediaType,
			message: "request is encoded",
			detail:  "send the JSON without Content-Encoding",
		}
	}
	c.reads = ctx.IsGet() || ctx.IsHead()
	if err := c.readConsistency(); err != nil {
		return err
	}
	return s.answer(c, r, h)
}

// authorize lets a call through to a route, and says for which account.
func (s *Server) authorize(c *call, who access) (err error) {
	switch who {
	case account:
		c.account, err = s.authenticate(bearer(&c.http.Request.Header))
		return err
	case owner:
		return s.authorizeOwner(c)
	case signup:
		if c.http.IsPost() {
			return s.authorizeSignup(c)
		}
		return s.authorizeAdmin(c, errAdminClosed)
	case admin:
		return s.authorizeAdmin(c, errAdminClosed)
	}
	return nil
}

// authorizeOwner lets an account see to what is its own, and whoever runs the
// server to what is any account's.
func (s *Server) authorizeOwner(c *call) error {
	text := string(c.http.QueryArgs().Peek("account_id"))
	if text == "" {
		return s.authorize(c, account)
	}
	if err := s.authorizeAdmin(c, errAdminClosed); err != nil {
		return err
	}
	id, err := engine.ParseAccountID(text)
	if err != nil {
		return invalid("account_id", strconv.Quote(clip([]byte(text))), "an id such as acc_...")
	}
	c.account = id
	_, err = s.engine.Account(s.ctx, id)
	return err
}

func (s *Server) authorizeSignup(c *call) error {
	if s.o.OpenSignup {
		return checkOrigin(c.http.Request.Header.Peek(fasthttp.HeaderOrigin))
	}
	return s.authorizeAdmin(c, errSignupClosed)
}

// authorizeAdmin wants the admin token. Without one the server is closed, to
// everybody and with that error: open sign-up opens nothing else.
func (s *Server) authorizeAdmin(c *call, closed error) error {
	if s.o.AdminToken == "" {
		return closed
	}
	if !s.isAdmin(bearer(&c.http.Request.Header)) {
		return errAdminToken
	}
	return nil
}

// isAdmin reports whether a token is the admin token.
func (s *Server) isAdmin(token []byte) bool {
	// Hashes, so that not even the token's length shows in the time.
	given := sha256.Sum256(token)
	return s.o.AdminToken != "" && subtle.ConstantTimeCompare(given[:], s.admin[:]) == 1
}

// authenticate finds the account of an API key. The admin token is that of the
// operator's account, where there is one.
func (s *Server) authenticate(key []byte) (engine.AccountID, error) {
	a, err := s.engine.Authenticate(key)
	if err == nil || !s.isAdmin(key) {
		return a, err
	}
	if _, absent := s.engine.Account(s.ctx, engine.OperatorAccount); absent != nil {
		return 0, err
	}
	return engine.OperatorAccount, nil
}

// checkOrigin keeps web pages out of open sign-up. A page can reach a server on
// its visitor's own machine, and by changing what its name resolves to it can
// read the answers; an API key is all it would need to have requests made from
// there. Browsers name the page's origin, other clients send none.
func checkOrigin(origin []byte) error {
	if len(origin) == 0 {
		return nil
	}
	u, err := url.Parse(string(origin))
	if err == nil {
		if _, loopback, err := targetHost(bareHost(u.Host), &targetRules{loopback: true}); err == nil && loopback {
			return nil
		}
	}
	return errSignupOrigin
}

// bareHost cuts the port off.
func bareHost(hostport string) string {
	host, _, err := splitAuthority(hostport)
	if err != nil {
		return ""
	}
	return host
}

// bearer returns the token of the header Authorization, or nothing.
func bearer(h *fasthttp.RequestHeader) []byte {
	const scheme = "Bearer "
	v := h.Peek(fasthttp.HeaderAuthorization)
	if len(v) < len(scheme) || !strings.EqualFold(alias(v[:len(scheme)]), scheme) {
		return nil
	}
	return bytes.Trim(v[len(scheme):], " ")
}

// A panicError is a handler's panic.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// writeError answers with an error, and logs it when it is ours.
func (s *Server) writeError(ctx *fasthttp.RequestCtx, err error) {
	p := s.problemOf(err)
	s.logProblem(ctx, err, p)
	writeProblem(ctx, p)
}

// logProblem logs an error that is ours.
func (s *Server) logProblem(ctx *fasthttp.RequestCtx, err error, p *problem) {
	if p.status == fasthttp.StatusInternalServerError {
		attrs := []any{
			slog.String("request_id", string(ctx.Response.Header.Peek(headerRequestID))),
			slog.String("method", string(ctx.Method())),
			slog.Any("error", p.cause),
		}
		var pe *panicError
		if errors.As(err, &pe) {
			attrs = append(attrs, slog.String("stack", string(pe.stack)))
		}
		s.log.Error("request failed", attrs...)
	}
}

// setRequestID answers with the caller's X-Request-Id where it is fit to be
// written into a log, else with one of ours.
func setRequestID(ctx *fasthttp.RequestCtx) {
	id := ctx.Request.Header.Peek(headerRequestID)
	if !isRequestID(id) {
		const hex = "0123456789abcdef"
		var buf [16]byte
		n := rand.Uint64()
		for i := range buf {
			buf[i] = hex[n>>(4*i)&15]
		}
		id = buf[:]
	}
	ctx.Response.Header.SetCanonical(headerRequestIDBytes, id)
}

func isRequestID(id []byte) bool {
	if len(id) == 0 || len(id) > 128 {
		return false
	}
	for _, c := range id {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case bytes.IndexByte([]byte("-_.:/=+"), c) >= 0:
		default:
			return false
		}
	}
	return true
}
