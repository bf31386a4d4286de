package bench

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/miekg/dns"
)

// receiverDomain is what the hosts of a receiver with names are in: h0, h1, …
// It is one that is for examples, and that nobody has.
const receiverDomain = "hosts.example.com"

// nameTTL is for how long an answer may be kept, in seconds.
const nameTTL = 60

// A nameServer tells the addresses of a receiver's hosts, over UDP and TCP on one
// port of loopback. It owns a goroutine for each of the two.
type nameServer struct {
	hosts   int
	servers [2]*dns.Server
	serving sync.WaitGroup
	queries atomic.Uint64
	proof   atomic.Pointer[string] // the TXT record of every name under the domain; nil: none
}

func newNameServer(hosts int) (*nameServer, error) {
	udp, tcp, err := listenForNames()
	if err != nil {
		return nil, fmt.Errorf("bench: receiver: name server: %w", err)
	}
	n := &nameServer{hosts: hosts}
	n.servers = [2]*dns.Server{{PacketConn: udp, Handler: n}, {Listener: tcp, Handler: n}}
	for _, s := range n.servers {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		n.serving.Go(func() { _ = s.ActivateAndServe() }) // it ends by Close; until then who asks sees what is wrong
		<-started
	}
	return n, nil
}

// listenForNames takes a port for both. The kernel picks it for UDP; for TCP it may
// be somebody else's.
func listenForNames() (net.PacketConn, net.Listener, error) {
	var last error
	for range 20 {
		udp, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			return nil, nil, err
		}
		tcp, err := net.Listen("tcp", udp.LocalAddr().String())
		if err == nil {
			return udp, tcp, nil
		}
		last = err
		_ = udp.Close() // nothing was said on it
	}
	return nil, nil, last
}

func (n *nameServer) addr() string { return n.servers[0].PacketConn.LocalAddr().String() }

// Close ends both servers and waits for their goroutines.
func (n *nameServer) Close() error {
	err := errors.Join(n.servers[0].Shutdown(), n.servers[1].Shutdown())
	n.serving.Wait()
	return err
}

// ServeDNS is called by the dns package.
func (n *nameServer) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	n.queries.Add(1)
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = true
	if len(q.Question) == 1 {
		n.answer(m, q.Question[0])
	}
	_ = w.WriteMsg(m) // who asked asks again
}

// answer adds what there is at a name. A host has no IPv6 address, which is an
// answer without a record.
func (n *nameServer) answer(m *dns.Msg, q dns.Question) {
	header := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: nameTTL}
	host, isHost := hostOfName(q.Name, n.hosts)
	proof := n.proof.Load()
	switch {
	case q.Qtype == dns.TypeTXT && proof != nil:
		m.Answer = append(m.Answer, &dns.TXT{Hdr: header, Txt: []string{*proof}})
	case !isHost:
		m.Rcode = dns.RcodeNameError
	case q.Qtype == dns.TypeA:
		a := hostAddress(host).As4()
		m.Answer = append(m.Answer, &dns.A{Hdr: header, A: a[:]})
	}
}

// hostName is the inverse of hostOfName.
func hostName(host int) string { return "h" + strconv.Itoa(host) + "." + receiverDomain }

// hostOfName is the number of the host that has a name, as it is asked for.
func hostOfName(name string, hosts int) (int, bool) {
	label, ok := strings.CutSuffix(strings.ToLower(name), "."+receiverDomain+".")
	if !ok || !strings.HasPrefix(label, "h") {
		return 0, false
	}
	host, err := strconv.Atoi(label[1:])
	return host, err == nil && host >= 0 && host < hosts
}
