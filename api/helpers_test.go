package api

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/harepost/harepost/engine"
	"github.com/harepost/harepost/transport"
)

func bracketed(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

func portSuffix(port uint16) string { return ":" + strconv.Itoa(int(port)) }

// A testServer is the whole thing on loopback: API, engine, its log and state
// on disk, a name server.
type testServer struct {
	*Server
	t      testing.TB
	engine *engine.Engine
	addr   string
	names  *nameServer
	log    *logBuffer
	client *http.Client
}

const adminToken = "root-of-all-accounts"

// startServer starts a server that ends with the test. change may be nil.
func startServer(t testing.TB, o Options, change func(*engine.Options)) *testServer {
	t.Helper()
	s := &testServer{t: t, names: serveNames(t), log: &logBuffer{}}
	logger := slog.New(slog.NewJSONHandler(s.log, nil))
	tr, err := transport.New(transport.Options{
		EgressAllow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Resolver:    s.names.addr,
		Logger:      logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tr.Close)
	eo := engine.Options{Transport: tr, DevLoopback: o.Dev, Logger: logger, LogSegmentBytes: 1 << 20}
	if change != nil {
		change(&eo)
	}
	if s.engine, err = engine.Open(t.TempDir(), eo); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.engine.Close(); err != nil {
			t.Errorf("close the engine: %v", err)
		}
	})
	o.Logger = logger
	if o.AdminToken == "" {
		o.AdminToken = adminToken
	}
	if s.Server, err = New(s.engine, o); err != nil {
		t.Fatal(err)
	}
	s.listen()
	return s
}

func (s *testServer) listen() {
	s.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	s.addr = ln.Addr().String()
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	wires := &http.Transport{}
	s.client = &http.Client{Transport: wires, Timeout: time.Minute}
	s.t.Cleanup(func() {
		wires.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			s.t.Errorf("shut down: %v", err)
		}
		if err := <-served; err != nil {
			s.t.Errorf("serve: %v", err)
		}
	})
}

// account makes an account and returns its key.
func (s *testServer) account() string {
	s.t.Helper()
	made := s.do("POST", "/v1/accounts", adminToken, `{"name":"test"}`).want(201)
	return made["api_key"].(string)
}

// verified makes the account own a domain.
func (s *testServer) verified(key, domain string) {
	s.t.Helper()
	added := s.do("POST", "/v1/domains", key, `{"domain":"`+domain+`"}`).want(201)
	record := added["record"].(map[string]any)
	s.names.set(record["name"].(string), "TXT", strconv.Quote(record["value"].(string)))
	s.do("POST", "/v1/domains/verify", key, `{"domain":"`+domain+`"}`).want(200)
}

// settled waits until a delivery is final and returns it.
func (s *testServer) settled(key, id string) map[string]any {
	s.t.Helper()
	var d map[string]any
	eventually(s.t, "delivery "+id+" is final", func() bool {
		d = s.do("GET", "/v1/deliveries/"+id, key, "").want(200)
		return d["status"] != "queued" && d["status"] != "retrying"
	})
	return d
}

// eventually waits for a condition that another goroutine brings about.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never true: %s", what)
		}
	}
}

// raw writes bytes to a new connection and returns what comes back until the
// server closes it or has been silent for a while.
func (s *testServer) raw(request string) string {
	s.t.Helper()
	c := s.dial()
	defer c.Close()
	if _, err := io.WriteString(c, request); err != nil {
		s.t.Fatal(err)
	}
	got := readAll(c, 300*time.Millisecond)
	if got != "" {
		statusOf(s.t, request, bufio.NewReader(strings.NewReader(got)))
	}
	return got
}

func (s *testServer) dial() net.Conn {
	s.t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func readAll(c net.Conn, silence time.Duration) string {
	var all bytes.Buffer
	buf := make([]byte, 4096)
	for {
		c.SetReadDeadline(time.Now().Add(silence))
		n, err := c.Read(buf)
		all.Write(buf[:n])
		if err != nil {
			return all.String()
		}
	}
}

// statusOf reads the response to a request off a raw connection. Of the request
// only the first line matters.
func statusOf(t testing.TB, request string, r *bufio.Reader) (*http.Response, string) {
	t.Helper()
	method, target := requestLine(request)
	resp, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("read a response: %v", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("read a response's body: %v", err)
	}
	if resp.StatusCode != http.StatusContinue {
		documented(t, method, target, resp, b)
	}
	return resp, string(b)
}

// requestLine takes the first line of a request apart, also where it is none: a
// target that cannot be made out is no path of ours.
func requestLine(request string) (method, target string) {
	line, _, _ := strings.Cut(strings.TrimLeft(request, "\r\n"), "\n")
	words := append(strings.Fields(line), "GET", "")
	method, target = words[0], words[1]
	if after, absolute := strings.CutPrefix(target, "http://"); absolute {
		_, path, _ := strings.Cut(after, "/")
		target = "/" + path
	}
	target, _, _ = strings.Cut(target, "#")
	return method, target
}

// logBuffer is what a server logged.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// nameServer answers DNS on loopback from a table; what is not in it does not
// exist.
type nameServer struct {
	addr string
	mu   sync.Mutex
	rrs  map[string][]dns.RR // by "name. TYPE"
}

func serveNames(t testing.TB) *nameServer {
	t.Helper()
	n := &nameServer{rrs: map[string][]dns.RR{}}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.addr = pc.LocalAddr().String()
	started := make(chan struct{})
	server := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(n.answer), NotifyStartedFunc: func() { close(started) }}
	var wg sync.WaitGroup
	wg.Go(func() { server.ActivateAndServe() })
	<-started
	t.Cleanup(func() { server.Shutdown(); wg.Wait() })
	return n
}

// set makes name have one record.
func (n *nameServer) set(name, kind, value string) {
	rr, err := dns.NewRR(fmt.Sprintf("%s. 0 IN %s %s", name, kind, value))
	if err != nil {
		panic(err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.rrs[name+". "+kind] = []dns.RR{rr}
}

func (n *nameServer) answer(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	n.mu.Lock()
	m.Answer = n.rrs[strings.ToLower(q.Question[0].Name)+" "+dns.TypeToString[q.Question[0].Qtype]]
	n.mu.Unlock()
	if len(m.Answer) == 0 {
		m.Rcode = dns.RcodeNameError
	}
	w.WriteMsg(m)
}

// A receiver is a target that keeps what it was sent.
type receiver struct {
	url string
	got chan received
}

type received struct {
	method, path string
	header       http.Header
	body         string
}

// startReceiver answers with status; its channel must be read.
func startReceiver(t testing.TB, status int) *receiver {
	t.Helper()
	r := &receiver{got: make(chan received, 1000)}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		b, _ := io.ReadAll(req.Body)
		r.got <- received{method: req.Method, path: req.RequestURI, header: req.Header, body: string(b)}
		w.WriteHeader(status)
		io.WriteString(w, "thank you")
	})}
	var wg sync.WaitGroup
	wg.Go(func() { server.Serve(ln) })
	t.Cleanup(func() { server.Close(); wg.Wait() })
	r.url = "http://" + ln.Addr().String()
	return r
}

func (r *receiver) next(t testing.TB) received {
	t.Helper()
	select {
	case got := <-r.got:
		return got
	case <-time.After(time.Minute):
		t.Fatal("nothing was delivered")
	}
	panic("not reached")
}
