package torture

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// domain is what all targets are names of, and the account's.
const domain = "receiver.torture-of-clusters.com"

// bodyOf is what a send with that number carries. Its length varies, so that
// frames do.
func bodyOf(number int) string {
	sum := crc32.ChecksumIEEE([]byte(strconv.Itoa(number)))
	return strconv.Itoa(number) + " " + strings.Repeat(strconv.FormatUint(uint64(sum), 36)+"-", int(sum%64))
}

// A receiver is the target of all sends. It takes up to 15 ms to answer, so that
// attempts are under way at any moment, and fails the first attempt of one send
// in 32, so that some wait for their next. It fails with 500: after 503 the
// scheduler would take it that the receiver has too much to do, and slow down.
type receiver struct {
	ledger *ledger
	net    network
	server http.Server
	url    string
	serves sync.WaitGroup
}

func startReceiver(l *ledger, n network) (*receiver, error) {
	r := &receiver{ledger: l, net: n}
	ln, err := net.Listen("tcp", net.JoinHostPort(n.world(), "0"))
	if err != nil {
		return nil, fmt.Errorf("torture: receiver: %w", err)
	}
	r.url = fmt.Sprintf("http://%s:%d/in", domain, ln.Addr().(*net.TCPAddr).Port)
	r.server.Handler = http.HandlerFunc(r.take)
	r.serves.Go(func() { r.server.Serve(ln) })
	return r, nil
}

func (r *receiver) close() {
	r.server.Close()
	r.serves.Wait()
}

func (r *receiver) take(rw http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the node was killed while it wrote: nothing arrived
	}
	text, _, _ := strings.Cut(string(body), " ")
	number, err1 := strconv.Atoi(text)
	attempt, err2 := strconv.Atoi(req.Header.Get("X-Harepost-Attempt"))
	if errors.Join(err1, err2) != nil || string(body) != bodyOf(number) && !isLarge(string(body)) {
		number = -1 // not sent by anyone
	}
	host, _, _ := net.SplitHostPort(req.RemoteAddr)
	first, over := r.ledger.arrive(number, req.Header.Get("X-Harepost-Delivery"), attempt, r.net.nodeAt(host))
	sum := crc32.ChecksumIEEE([]byte(text))
	<-time.After(time.Duration(sum%16) * time.Millisecond)
	ok := !first || sum%32 != 0
	over(ok)
	if !ok {
		rw.WriteHeader(http.StatusInternalServerError)
	}
}

// A nameServer knows the receiver's address, and the text by which the account
// proves that the domain is its own.
type nameServer struct {
	server  *dns.Server
	address string
	host    string

	mu  sync.Mutex
	txt string
}

func startNameServer(host string) (*nameServer, error) {
	pc, err := net.ListenPacket("udp", net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, fmt.Errorf("torture: name server: %w", err)
	}
	n := &nameServer{address: pc.LocalAddr().String(), host: host}
	n.server = &dns.Server{PacketConn: pc, Handler: n}
	started := make(chan struct{})
	n.server.NotifyStartedFunc = func() { close(started) }
	failed := make(chan error, 1)
	go func() { failed <- n.server.ActivateAndServe() }()
	select {
	case <-started:
		return n, nil
	case err := <-failed:
		return nil, fmt.Errorf("torture: name server: %w", err)
	}
}

func (n *nameServer) close() { n.server.ShutdownContext(context.Background()) }

func (n *nameServer) publish(txt string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.txt = txt
}

// ServeDNS implements dns.Handler.
func (n *nameServer) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	a := new(dns.Msg).SetReply(q)
	head := dns.RR_Header{Name: q.Question[0].Name, Class: dns.ClassINET, Ttl: 60}
	switch q.Question[0].Qtype {
	case dns.TypeA:
		head.Rrtype = dns.TypeA
		a.Answer = []dns.RR{&dns.A{Hdr: head, A: net.ParseIP(n.host)}}
	case dns.TypeTXT:
		n.mu.Lock()
		head.Rrtype = dns.TypeTXT
		a.Answer = []dns.RR{&dns.TXT{Hdr: head, Txt: []string{n.txt}}}
		n.mu.Unlock()
	}
	w.WriteMsg(a)
}
