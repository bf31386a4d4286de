package engine

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/miekg/dns"

	"github.com/harepost/harepost/transport"
)

// A nameServer answers for names under good.example, and keeps quiet about all
// others.
type nameServer struct {
	address string
	mu      sync.Mutex
	quiet   map[string]bool // names it did not answer for
}

func startNameServer(t *testing.T) *nameServer {
	t.Helper()
	s := &nameServer{quiet: map[string]bool{}}
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = conn.LocalAddr().String()
	server := &dns.Server{PacketConn: conn, Handler: s}
	var serving sync.WaitGroup
	serving.Go(func() { server.ActivateAndServe() })
	t.Cleanup(func() {
		server.Shutdown()
		serving.Wait()
	})
	return s
}

func (s *nameServer) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	name := strings.ToLower(q.Question[0].Name)
	if !strings.HasSuffix(name, ".good.example.") {
		s.mu.Lock()
		s.quiet[name] = true
		s.mu.Unlock()
		return
	}
	m := new(dns.Msg).SetReply(q)
	if q.Question[0].Qtype == dns.TypeA {
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(127, 0, 0, 1)}}
	}
	w.WriteMsg(m)
}

func (s *nameServer) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.quiet)
}

// One account's batches to names that nobody answers for take its own share of
// the lookups, and another account's send does not wait for them.
func TestLookupsOfOneAccountAreBounded(t *testing.T) {
	names := startNameServer(t)
	o := testOptions(t, vfs.NewMem())
	tr, err := transport.New(transport.Options{Resolver: names.address, EgressAllow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tr.Close)
	o.Transport = tr
	e := openEngine(t, o)
	noisy, other := newAccount(t, e), newAccount(t, e)
	verifyByHand(t, e, noisy, "mute.example")
	verifyByHand(t, e, other, "good.example")
	to := func(host string) *Send {
		s := sendTo(Target{URL: "https://" + host + "/", Scheme: "https", Host: host, Port: 443, URI: "/"}, "{}")
		s.NotBefore = time.Now().Add(time.Hour) // its attempt is not what this is about
		return s
	}
	ctx, cancel := context.WithCancel(t.Context())
	var batches sync.WaitGroup
	const n, hosts = 8, 100 // what the gate takes of one account at once
	for b := range n {
		batches.Go(func() {
			sends, results := make([]*Send, hosts), make([]SendResult, hosts)
			for i := range sends {
				sends[i] = to(fmt.Sprintf("h%d-%d.mute.example", b, i))
			}
			e.SendBatch(ctx, noisy, sends, results)
			for i, r := range results {
				if r.Err != nil {
					t.Errorf("batch %d, send %d: %v; trouble with DNS is no reason to refuse", b, i, r.Err)
				}
			}
		})
	}
	awaitCondition(t, "the noisy account's share is taken", func() bool { return names.asked() >= lookupsPerAccount })
	if _, err := e.Send(t.Context(), other, to("a.good.example")); err != nil {
		t.Errorf("the other account: %v", err)
	}
	// The send above went through the server after all that were asked before it.
	// Twice the share: on a slow machine the first may have been given up by now.
	if asked := names.asked(); asked > 2*lookupsPerAccount {
		t.Errorf("%d names of one account are looked up at once, want at most %d", asked, lookupsPerAccount)
	}
	cancel() // what is not known is accepted all the same
	batches.Wait()
	e.lookups.mu.Lock()
	defer e.lookups.mu.Unlock()
	if len(e.lookups.accounts) != 0 || len(e.lookups.all) != 0 {
		t.Errorf("%d accounts hold %d slots when all is over", len(e.lookups.accounts), len(e.lookups.all))
	}
}
