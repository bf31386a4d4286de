package transport

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// dnsServer is a name server on loopback, over UDP and TCP on one port.
type dnsServer struct {
	t    testing.TB
	addr string

	mu      sync.Mutex
	zones   map[string][]dns.RR
	queries map[string]int // "name type network"
	// answer, when set, may take a query over; false leaves it to the zones.
	answer func(w dns.ResponseWriter, q *dns.Msg) bool
}

func serveDNS(t testing.TB) *dnsServer {
	t.Helper()
	s := &dnsServer{t: t, zones: map[string][]dns.RR{}, queries: map[string]int{}}
	udp, tcp := listenBoth(t)
	s.addr = udp.LocalAddr().String()
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait) // runs after the shutdowns below
	for _, server := range []*dns.Server{{PacketConn: udp, Handler: s}, {Listener: tcp, Handler: s}} {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		wg.Go(func() { server.ActivateAndServe() })
		<-started
		t.Cleanup(func() { server.Shutdown() })
	}
	return s
}

// listenBoth listens on one port over UDP and TCP. The kernel picks the port
// for one of them, so that it may be taken for the other.
func listenBoth(t testing.TB) (net.PacketConn, net.Listener) {
	var last error
	for range 20 {
		udp, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		tcp, err := net.Listen("tcp", udp.LocalAddr().String())
		if err == nil {
			return udp, tcp
		}
		last = err
		udp.Close()
	}
	t.Fatal(last)
	return nil, nil
}

func (s *dnsServer) use(o *Options) { o.Resolver = s.addr }

// set makes name have these addresses and nothing else.
func (s *dnsServer) set(name string, addrs ...string) {
	var records []string
	for _, a := range addrs {
		kind := " A "
		if netip.MustParseAddr(a).Is6() {
			kind = " AAAA "
		}
		records = append(records, name+". 60 IN"+kind+a)
	}
	s.records(name, records...)
}

// records makes name have these records, in zone file form.
func (s *dnsServer) records(name string, records ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []dns.RR
	for _, r := range records {
		rr, err := dns.NewRR(r)
		if err != nil {
			s.t.Fatal(err)
		}
		out = append(out, rr)
	}
	s.zones[name+"."] = out
}

func (s *dnsServer) handle(answer func(w dns.ResponseWriter, q *dns.Msg) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

// asked is how often a question came, over all networks or one.
func (s *dnsServer) asked(question string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for q, count := range s.queries {
		if strings.HasPrefix(q, question) {
			n += count
		}
	}
	return n
}

func (s *dnsServer) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	name := strings.ToLower(q.Question[0].Name)
	qtype := q.Question[0].Qtype
	s.mu.Lock()
	s.queries[strings.TrimSuffix(name, ".")+" "+dns.TypeToString[qtype]+" "+w.RemoteAddr().Network()]++
	answer, zone, known := s.answer, s.zones[name], false
	_, known = s.zones[name]
	s.mu.Unlock()
	if answer != nil && answer(w, q) {
		return
	}
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = true
	if !known {
		m.Rcode = dns.RcodeNameError
	}
	for _, rr := range zone {
		if t := rr.Header().Rrtype; t == qtype || t == dns.TypeCNAME || rr.Header().Name != q.Question[0].Name {
			m.Answer = append(m.Answer, rr)
		}
	}
	if w.RemoteAddr().Network() == "udp" && m.Len() > udpAnswerBytes {
		m.Answer, m.Truncated = nil, true
	}
	w.WriteMsg(m)
}

// blocking answers nothing until release is closed.
func blocking(release <-chan struct{}) func(dns.ResponseWriter, *dns.Msg) bool {
	return func(dns.ResponseWriter, *dns.Msg) bool { <-release; return true }
}
