package api

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/valyala/fasthttp"

	"github.com/harepost/harepost/engine"
)

// In a cluster the node that leads answers. Others hand requests on to it:
//
//	client ──► follower ──── cluster port ────► leader
//	             │  as the client sent it         │ answers, or says that it
//	             │  but for what is about the     │ does not lead (any more);
//	             ▼  connection                    ▼ it never hands on
//	          no leader yet: waits for one      503
//
// A request is sent to a second node only if no other has acted on it.

const (
	headerNode         = "X-Harepost-Node"          // who answered
	headerNotLeading   = "X-Harepost-Not-Leading"   // between nodes: nothing was done, ask who leads
	headerHandedOn     = "X-Harepost-Handed-On"     // between nodes: it is a client's request
	headerAppliedIndex = "X-Harepost-Applied-Index" // of a stale read: what the node's state had
	headerAge          = "X-Harepost-Age-Ms"        // of a stale read: since the node heard of the leader
)

// headersOfConnection are about one connection, and not handed on.
var headersOfConnection = []string{
	fasthttp.HeaderConnection, "Keep-Alive", fasthttp.HeaderTE, fasthttp.HeaderTrailer, fasthttp.HeaderTransferEncoding,
	fasthttp.HeaderUpgrade, fasthttp.HeaderExpect, "Proxy-Connection", "Proxy-Authorization", "Proxy-Authenticate",
}

// strangers own the large bodies of requests whose key a follower does not know:
// the leader may, since the follower is behind. There is no account with this id.
const strangers engine.AccountID = 0

var (
	errNotLeading = &problem{
		status:     fasthttp.StatusServiceUnavailable,
		message:    "this node does not lead (any more)",
		detail:     "nothing was done; try again",
		retryAfter: time.Second,
	}
	errNoLeader = &problem{
		status:     fasthttp.StatusServiceUnavailable,
		message:    "no node leads",
		detail:     "nothing was done; the nodes are electing one, or there are too few of them: try again",
		retryAfter: time.Second,
	}
	errWaiters = &problem{
		status:     fasthttp.StatusServiceUnavailable,
		message:    "no node leads",
		detail:     "nothing was done, and too many requests wait for a leader: try again",
		retryAfter: time.Second,
	}
	// errUncertain takes the place of an answer that may be older than what another
	// node has answered since.
	errUncertain = &problem{
		status:     fasthttp.StatusServiceUnavailable,
		message:    "this node may not lead any more",
		detail:     "what it has to say may be out of date, and nothing was changed; try again",
		retryAfter: time.Second,
	}
	errNotClustered = &problem{
		status:  fasthttp.StatusNotFound,
		message: "not found",
		detail:  "this server is not part of a cluster",
	}
)

// sayWhyEvery is how often the log tells why the leader is out of reach, as long as it is.
const sayWhyEvery = 30 * time.Second

// unanswered is the answer to a request that another node got and did not answer.
func unanswered(err error) *problem {
	return &problem{
		status:  fasthttp.StatusServiceUnavailable,
		message: "outcome unknown",
		detail: "the node that leads got the request and did not answer: it may have been accepted; " +
			"repeat a send with the same idempotency key, which is answered as a duplicate if it was",
		retryAfter: time.Second,
		cause:      err,
	}
}

// A proxy hands requests on to the node that leads.
type proxy struct {
	cluster  Cluster
	patience time.Duration // for a leader to be known
	timeout  time.Duration // for its answer
	quiesce  time.Duration // for attempts under way, before leadership goes on
	settle   time.Duration // for requests under way, after it
	most     int64         // that wait for a leader
	waiting  atomic.Int64
	saidWhy  atomic.Int64 // Unix nanoseconds at which the log last told why the leader is out of reach

	running     atomic.Int64                  // handlers at work because this node leads
	transfers   atomic.Bool                   // one is under way
	handingOver atomic.Pointer[chan struct{}] // nil: requests need not wait for it; closed when it is over

	answered, notSent, unknown, noLeader, full, uncertain *metrics.Counter
}

func newProxy(o *Options, set *metrics.Set) *proxy {
	outcome := func(name string) *metrics.Counter {
		return set.NewCounter(`harepost_api_proxied_requests_total{outcome="` + name + `"}`)
	}
	p := &proxy{
		cluster: o.Cluster, patience: o.LeaderPatience, timeout: o.ProxyTimeout, quiesce: QuiesceTime, settle: settleTime, most: int64(o.LeaderWaiters),
		answered: outcome("answered"), notSent: outcome("not_sent"), unknown: outcome("unknown"),
		noLeader: outcome("no_leader"), full: outcome("overloaded"),
		uncertain: set.NewCounter("harepost_api_uncertain_answers_total"),
	}
	set.NewGauge("harepost_api_requests_waiting_for_leader", func() float64 { return float64(p.waiting.Load()) })
	return p
}

// readConsistency takes the parameter consistency out of the query, so that no
// handler has to know of it.
func (c *call) readConsistency() error {
	if len(c.http.URI().QueryString()) == 0 {
		return nil
	}
	args := c.http.QueryArgs()
	if !args.Has("consistency") {
		return nil
	}
	value := string(args.Peek("consistency"))
	args.Del("consistency")
	switch {
	case value == "" || value == "strong":
	case value == "stale" && c.reads:
		c.stale = true
	case value == "stale":
		return invalid("consistency", "stale", "strong, or left out, for what is not a GET")
	default:
		return invalid("consistency", strconv.Quote(clip([]byte(value))), "strong or stale")
	}
	return nil
}

// answer has the handler answer, here or on the node that leads.
func (s *Server) answer(c *call, r *route, h handler) error {
	here := func() error {
		if err := s.authorize(c, r.access); err != nil {
			return err
		}
		return h(c)
	}
	switch {
	case s.o.Cluster == nil || r.local:
		return here()
	case c.stale:
		st := s.o.Cluster.Standing() // before the state is read
		header := &c.http.Response.Header
		header.Set(headerAppliedIndex, strconv.FormatUint(st.Applied, 10))
		header.Set(headerAge, strconv.FormatInt(st.Contact.Milliseconds(), 10))
		return here()
	}
	return s.answerByLeader(c, here)
}

// answerByLeader answers with here while this node leads, else as the node does
// that leads. It waits for there to be one.
func (s *Server) answerByLeader(c *call, here func() error) error {
	cluster := s.o.Cluster
	until := s.now().Add(s.proxy.patience)
	asked := ""         // who was asked in vain, since something changed
	var unreached error // why the request did not get there, if it did not
	for {
		leader, self, changed := cluster.Leader()
		var handedOver <-chan struct{} // nil: it is not being handed over
		reign := cluster.Reign()
		if reign != 0 {
			handedOver = s.proxy.enter()
		}
		if reign != 0 && handedOver == nil {
			err := here()
			s.proxy.running.Add(-1)
			switch {
			case errors.Is(err, engine.ErrNotLeader): // nothing was done
			case s.vouches(c, reign, err):
				return err
			default: // what was read is not answered; who leads next may be asked soon
				c.http.Response.Header.Del(fasthttp.HeaderCacheControl)
				if s.proxy.await(s.ctx, changed, s.proxy.handOverEnds(), until.Sub(s.now())) != nil {
					s.proxy.uncertain.Inc()
					return errUncertain
				}
				asked, unreached = "", nil
				continue
			}
		} else if leader != "" && !self && leader != asked && !c.handedOn {
			answered, err := s.proxy.ask(s.ctx, leader, c.http)
			if answered || err != nil && !errors.Is(err, ErrNotSent) {
				return err
			}
			asked, unreached = leader, err
			continue
		}
		if c.handedOn && !self {
			c.http.Response.Header.Set(headerNotLeading, "true")
			return errNotLeading
		}
		if err := s.proxy.await(s.ctx, changed, handedOver, until.Sub(s.now())); err != nil {
			if unreached != nil && leader == asked && s.ctx.Err() == nil {
				return s.outOfReach(leader, unreached)
			}
			return err
		}
		asked, unreached = "", nil
	}
}

// outOfReach is the answer to a request that could not be handed on to the node that leads,
// of which this one hears all the same. The log says why, once in a while.
func (s *Server) outOfReach(leader string, why error) *problem {
	now := s.now().UnixNano()
	if said := s.proxy.saidWhy.Load(); now-said >= int64(sayWhyEvery) && s.proxy.saidWhy.CompareAndSwap(said, now) {
		s.log.Warn("requests cannot be handed on to the node that leads, they are refused here", "leader", leader, "error", why)
	}
	return &problem{
		status:     fasthttp.StatusServiceUnavailable,
		message:    "the node that leads, " + leader + ", cannot be reached from this one",
		detail:     "nothing was done; this node's log says why: try again, or at another node",
		retryAfter: time.Second,
	}
}

// vouches reports whether what a handler has answered that began in that reign is as
// of now: no other node may have led meanwhile and known better. What has changed
// something is so anyway.
func (s *Server) vouches(c *call, reign uint64, err error) bool {
	return !c.reads && !s.isRefusal(err) || s.o.Cluster.Certain() && s.o.Cluster.Reign() == reign
}

// isRefusal tells errors that may depend on what the state holds, as an unknown key.
func (s *Server) isRefusal(err error) bool {
	if err == nil {
		return false
	}
	status := s.problemOf(err).status
	return 400 <= status && status < 500
}

// ask has a node answer that is said to lead. It reports false, without an error or with
// one that is ErrNotSent, when no node has acted on the request, nor will.
func (p *proxy) ask(ctx context.Context, leader string, client *fasthttp.RequestCtx) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	copyRequest(req, client)
	err := p.cluster.Ask(ctx, leader, req, resp)
	switch {
	case errors.Is(err, ErrNotSent), err == nil && len(resp.Header.Peek(headerNotLeading)) > 0:
		p.notSent.Inc()
		return false, err
	case err != nil:
		p.unknown.Inc()
		return false, unanswered(err)
	}
	p.answered.Inc()
	copyAnswer(&client.Response, resp)
	return true, nil
}

// enter counts a handler in that is to work because this node leads. If it is handing
// that over, the handler is not counted, and is to wait for what is returned.
func (p *proxy) enter() (handedOver <-chan struct{}) {
	p.running.Add(1) // first: who hands over looks at it afterwards
	handedOver = p.handOverEnds()
	if handedOver != nil {
		p.running.Add(-1)
	}
	return handedOver
}

// handOverEnds is closed when the hand-over that goes on has ended; nil if none does.
func (p *proxy) handOverEnds() <-chan struct{} {
	if h := p.handingOver.Load(); h != nil {
		return *h
	}
	return nil
}

const (
	// QuiesceTime is how long attempts under way may take before leadership goes on
	// without them. Another node makes again what is not on record by then.
	QuiesceTime = 2 * time.Second

	settleTime = 500 * time.Millisecond // for requests under way, after it
)

// HandOver has another node lead: that with the id, or with an empty one the one that
// is furthest. Attempts come to an end first, while sends go on. Then new requests wait,
// and those under way are answered: what is in raft's hands when its leader changes has
// an unknown outcome. Where it fails this node leads as before, and attempts go on.
// One that a request has asked for already is waited for.
func (s *Server) HandOver(ctx context.Context, id string) error {
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		err := s.handOver(ctx, id, 0)
		if !errors.Is(err, errHandingOver) {
			return err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return err
		}
	}
}

// errHandingOver is said to who wants leadership handed over while it is.
var errHandingOver = &problem{status: fasthttp.StatusConflict, message: "refused: leadership is being handed over already"}

// handOver is HandOver by so many of the requests under way themselves.
func (s *Server) handOver(ctx context.Context, id string, own int64) error {
	if err := s.o.Cluster.Transferable(id); err != nil {
		return err // before anything rests
	}
	if !s.proxy.transfers.CompareAndSwap(false, true) {
		return errHandingOver
	}
	defer s.proxy.transfers.Store(false)
	s.quiesce(ctx)
	if !s.draining.Load() {
		defer s.engine.Resume()
	}
	over := make(chan struct{})
	s.proxy.handingOver.Store(&over)
	defer close(over)
	defer s.proxy.handingOver.Store(nil)
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for until := s.now().Add(s.proxy.settle); s.proxy.running.Load() > own && s.now().Before(until); {
		select {
		case <-look.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return s.o.Cluster.Transfer(ctx, id)
}

// quiesce has attempts under way come to an end.
func (s *Server) quiesce(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, s.proxy.quiesce)
	defer cancel()
	if err := s.engine.Quiesce(ctx); err != nil {
		s.log.Info("attempts are still under way, they may be made again", "error", err)
	}
}

// await waits until something has changed about who leads, or a hand-over has ended.
func (p *proxy) await(ctx context.Context, changed, handedOver <-chan struct{}, most time.Duration) error {
	defer p.waiting.Add(-1)
	if p.waiting.Add(1) > p.most {
		p.full.Inc()
		return errWaiters
	}
	over := time.NewTimer(most)
	defer over.Stop()
	select {
	case <-changed:
		return nil
	case <-handedOver:
		return nil
	case <-over.C:
		p.noLeader.Inc()
		return errNoLeader
	case <-ctx.Done():
		return ctx.Err()
	}
}

// copyRequest makes req what the client has sent. Its body is the client's, which
// must stay until req is released.
func copyRequest(req *fasthttp.Request, client *fasthttp.RequestCtx) {
	client.Request.Header.CopyTo(&req.Header)
	for _, name := range headersOfConnection {
		req.Header.Del(name)
	}
	req.Header.SetNoDefaultContentType(true)
	if len(req.Header.Host()) == 0 { // HTTP/1.0; it would be taken from the target, and that be rewritten
		req.Header.SetHost("localhost")
	}
	req.Header.Set(headerHandedOn, "true")
	req.Header.SetBytesV(headerRequestID, client.Response.Header.Peek(headerRequestID))
	req.SetBodyRaw(client.Request.Body())
}

// copyAnswer makes to what the node that leads has answered. It takes the body of
// from.
func copyAnswer(to, from *fasthttp.Response) {
	from.Header.CopyTo(&to.Header)
	for _, name := range headersOfConnection {
		to.Header.Del(name)
	}
	to.Header.ResetConnectionClose()
	to.Header.SetNoDefaultContentType(true)
	to.SwapBody(from.SwapBody(nil))
}

// HandedOn reports whether a request that came over the cluster port is a client's, which
// another node has handed on. Whatever its path, it is none of that node's own.
func HandedOn(ctx *fasthttp.RequestCtx) bool {
	return len(ctx.Request.Header.Peek(headerHandedOn)) > 0
}

// NotLeading answers a request that another node has handed on, before there is a
// Server to answer it: nothing was done.
func NotLeading(ctx *fasthttp.RequestCtx) {
	setRequestID(ctx)
	ctx.Response.Header.Set(headerNotLeading, "true")
	writeProblem(ctx, errNotLeading)
}
