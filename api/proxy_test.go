package api

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// A peer is a node that others hand requests on to, over TCP. The cluster port's
// own ways are tested where they are, in package raftstore.
type peer struct {
	addr   string
	server *fasthttp.Server

	mu   sync.Mutex
	seen []string // heads of requests
}

// servePeers serves what other nodes hand on to s.
func servePeers(t testing.TB, s *testServer) *peer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{addr: ln.Addr().String()}
	h := s.PeerHandler()
	p.server = &fasthttp.Server{
		Handler: func(ctx *fasthttp.RequestCtx) {
			p.mu.Lock()
			p.seen = append(p.seen, string(ctx.Request.Header.RawHeaders())+string(ctx.Request.Header.RequestURI()))
			p.mu.Unlock()
			h(ctx)
		},
		MaxRequestBodySize: 17 << 20, NoDefaultContentType: true, NoDefaultServerHeader: true, NoDefaultDate: true,
	}
	served := make(chan error, 1)
	go func() { served <- p.server.Serve(ln) }()
	t.Cleanup(func() {
		p.server.Shutdown()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return p
}

// do hands a request on as a node would.
func (p *peer) do(t testing.TB, method, path, body string) *fasthttp.Response {
	t.Helper()
	req, resp := &fasthttp.Request{}, &fasthttp.Response{}
	req.Header.SetMethod(method)
	req.SetRequestURI("http://peer" + path)
	req.Header.Set("Authorization", "Bearer "+adminToken)
	req.SetBodyString(body)
	if err := p.reply(t.Context(), req, resp); err != nil {
		t.Fatal(err)
	}
	return resp
}

// last is the head of the last request.
func (p *peer) last() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen[len(p.seen)-1]
}

// reply asks the peer, as a Cluster does that reaches it.
func (p *peer) reply(ctx context.Context, req *fasthttp.Request, resp *fasthttp.Response) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.addr)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	w := bufio.NewWriter(conn)
	resp.SkipBody = req.Header.IsHead()
	if err := errors.Join(req.Write(w), w.Flush(), resp.ReadLimitBody(bufio.NewReader(conn), 64<<20)); err != nil {
		return fmt.Errorf("%w: %w", ErrUnanswered, err)
	}
	return nil
}

// startPair starts a node that leads, and one that follows it and that clients ask.
func startPair(t testing.TB) (leader, follower *testServer, c *fakeCluster, p *peer) {
	t.Helper()
	of := leading()
	of.standing.Node, of.standing.Leader = "n2", "n2"
	leader = startServer(t, Options{Dev: true, Cluster: of, NodeID: "n2"}, nil)
	p = servePeers(t, leader)
	c = following("n2")
	c.reply = p.reply
	return leader, startFollower(t, c), c, p
}

// Through a follower everything is as it is with the leader.
func TestProxyGoesUnnoticed(t *testing.T) {
	leader, follower, _, p := startPair(t)
	key := follower.account()
	got := startReceiver(t, 200)
	send := `{"target":"` + got.url + `/a","body":{"n":1}}`
	a := follower.do("POST", "/v1/send?x=%2F%20&y=a+b", key, send, "Idempotency-Key: order-1", "X-Request-Id: mine-1", "Accept: application/json")
	id := a.want(202)["queue_id"].(string)
	if a.header.Get("X-Request-Id") != "mine-1" || a.header.Get(headerNode) != "n2" {
		t.Errorf("answered %v", a.header)
	}
	head := p.last()
	for _, want := range []string{
		"Authorization: Bearer " + key + "\r\n", "Idempotency-Key: order-1\r\n", "X-Request-Id: mine-1\r\n", "Host: " + follower.addr + "\r\n",
		"Accept: application/json\r\n", "\r\n/v1/send?x=%2F%20&y=a+b",
	} {
		if !strings.Contains(head, want) {
			t.Errorf("the leader got\n%s\nwithout %q", head, want)
		}
	}
	again := leader.do("POST", "/v1/send", key, send, "Idempotency-Key: order-1").want(202)
	if again["queue_id"] != id {
		t.Errorf("%v is not a duplicate of %s", again, id)
	}
	leader.settled(key, id)
	if d := follower.settled(key, id); d["queue_id"] != id {
		t.Errorf("%v", d)
	}
	follower.do("GET", "/v1/deliveries/"+id, "hp_live_other", "").refused(401)
	follower.do("GET", "/v1/deliveries/hr_x", key, "").refused(404)
	follower.do("DELETE", "/v1/accounts/acc_04t9qm2x7c3e0", adminToken, "").refused(404)
	follower.do("DELETE", "/v1/cluster/nodes/n3", adminToken, "").want(204)
	if a := follower.do("HEAD", "/v1/deliveries", key, ""); a.status != 200 || a.header.Get("Content-Length") == "" {
		t.Errorf("HEAD: %d %v", a.status, a.header)
	}
	follower.do("POST", "/v1/cluster/snapshot", adminToken, "").want(200) // itself
	if head := p.last(); !strings.HasSuffix(head, "/v1/deliveries") {
		t.Errorf("the leader was asked %q", head)
	}
}

// What is handed on has the client's target as it was, and says that it is a client's: by
// a path that says another thing when it is decoded, or by leaving out the host, nobody
// speaks to the other node as a node would.
func TestAClientsTargetIsHandedOnAsItIs(t *testing.T) {
	_, follower, _, p := startPair(t)
	const path = "/v1/deliveries/..%2F..%2Finternal%2Fv1%2Fwho"
	for _, request := range []string{
		"GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET " + path + " HTTP/1.1\r\nHost: x\r\nX-Harepost-Handed-On:\r\nConnection: X-Harepost-Handed-On\r\n\r\n",
		"GET http://x" + path + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET " + path + " HTTP/1.0\r\n\r\n",
		"GET http://x" + path + " HTTP/1.0\r\n\r\n",
	} {
		answer := follower.raw(request)
		if !strings.Contains(answer, " 401 ") {
			t.Errorf("%q is answered\n%s", request, answer)
		}
		head := p.last()
		if strings.Count(head, headerHandedOn+": true\r\n") != 1 || !strings.HasSuffix(head, path) {
			t.Errorf("%q is handed on as\n%s", request, head)
		}
	}
}

// A follower that does not know a key yet takes large bodies all the same, and the
// leader says whether it is one.
func TestProxyLargeBatch(t *testing.T) {
	_, follower, _, p := startPair(t)
	key := follower.account()
	line := `{"target":"http://127.0.0.1:19999/","delay_ms":86400000,"body":"` + strings.Repeat("x", 900_000) + `"}` + "\n"
	batch := strings.Repeat(line, 17)
	batch = batch + strings.Repeat("\n", 16<<20-len(batch)) // all of what a batch may have
	a := follower.do("POST", "/v1/send/batch", key, batch, "Content-Type: application/x-ndjson")
	results := a.want(202)["results"].([]any)
	for _, r := range results {
		if r.(map[string]any)["queue_id"] == nil {
			t.Fatalf("%.300v", r)
		}
	}
	if len(results) != 17 || !strings.Contains(p.last(), "Content-Type: application/x-ndjson\r\n") {
		t.Errorf("%d results", len(results))
	}
	follower.do("POST", "/v1/send/batch", "hp_live_unknown", batch, "Content-Type: application/x-ndjson").refused(401)
	follower.do("POST", "/v1/send/batch", key, batch+"\n").refused(413)
	if n := follower.conns.bodies.bytes(); n != 0 {
		t.Errorf("%d bytes of bodies are still counted", n)
	}
}

// A chunked body is handed on whole, and what is about the connection is not.
func TestProxyHandsOnChunks(t *testing.T) {
	_, follower, _, p := startPair(t)
	key := follower.account()
	conn := follower.dial()
	defer conn.Close()
	fmt.Fprintf(conn, "POST /v1/domains HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nTransfer-Encoding: chunked\r\n"+
		"Connection: close\r\nTE: trailers\r\nExpect: 100-continue\r\nProxy-Authorization: Basic eA==\r\n\r\n", key)
	r := bufio.NewReader(conn)
	if resp, _ := statusOf(t, "POST /v1/domains", r); resp.StatusCode != 100 {
		t.Fatal(resp.Status)
	}
	io.WriteString(conn, "8\r\n{\"domain\r\n14\r\n\":\"chunked.example\"}\r\n0\r\n\r\n")
	if resp, body := statusOf(t, "POST /v1/domains", r); resp.StatusCode != 201 || !strings.Contains(body, "chunked.example") {
		t.Errorf("%s %s", resp.Status, body)
	}
	for _, name := range []string{"Transfer-Encoding", "TE:", "Expect", "Proxy-", "Connection"} {
		if strings.Contains(p.last(), name) {
			t.Errorf("the leader got %s in\n%s", name, p.last())
		}
	}
}

// A leader that dies with a request may have accepted it.
func TestProxyLeaderDies(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var dying sync.WaitGroup
	defer dying.Wait()
	defer ln.Close()
	dying.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			r := bufio.NewReader(conn)
			for line := ""; line != "\r\n" && err == nil; line, err = r.ReadString('\n') {
			}
			io.WriteString(conn, "HTTP/1.1 202 Accepted\r\nContent-Le")
			conn.Close()
		}
	})
	c := following("n2")
	c.reply = (&peer{addr: ln.Addr().String()}).reply
	s := startFollower(t, c)
	a := s.do("POST", "/v1/send", "hp_live_x", `{"target":"https://your-app.com/"}`, "X-Request-Id: mine-2")
	a.refused(503, "outcome unknown", "same idempotency key")
	if a.header.Get("X-Request-Id") != "mine-2" || a.header.Get(headerNode) != "n1" {
		t.Errorf("%v", a.header)
	}
}

// A client that goes away leaves nothing behind.
func TestProxyClientGoesAway(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	c := following("n2")
	c.reply = func(ctx context.Context, req *fasthttp.Request, resp *fasthttp.Response) error {
		close(asked)
		select {
		case <-answer:
		case <-ctx.Done():
		}
		if n := len(req.Body()); n != 20_000 {
			return errors.New("the body is not what it was")
		}
		resp.SetBody(bytes.Repeat([]byte("x"), 1<<20))
		return nil
	}
	s := startFollower(t, c)
	conn := s.dial()
	fmt.Fprintf(conn, "POST /v1/send HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\nContent-Length: 20000\r\n\r\n%s", strings.Repeat("x", 20_000))
	<-asked
	if n := s.conns.bodies.bytes(); n != 20_000 {
		t.Errorf("%d bytes of bodies are counted", n)
	}
	conn.Close()
	close(answer)
	eventually(t, "the connection is gone", func() bool { return s.conns.count() == 0 && s.conns.bodies.bytes() == 0 })
	if n := s.proxy.unknown.Get(); n != 0 {
		t.Errorf("%d unknown", n)
	}
}

// An answer that does not come by the deadline is an unknown outcome; a server that
// shuts down does not wait for it.
func TestProxyTimeout(t *testing.T) {
	c := following("n2")
	c.reply = func(ctx context.Context, _ *fasthttp.Request, _ *fasthttp.Response) error {
		<-ctx.Done()
		return fmt.Errorf("%w: %w", ErrUnanswered, ctx.Err())
	}
	s := startServer(t, Options{Dev: true, Cluster: c, NodeID: "n1", ProxyTimeout: 30 * time.Millisecond}, nil)
	s.do("POST", "/v1/send", "hp_live_x", "{}").refused(503, "outcome unknown")
}
