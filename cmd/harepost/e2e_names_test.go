package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// A nameServer answers DNS on loopback, over UDP and TCP on one port. A name
// that was never set does not exist.
type nameServer struct {
	addr string

	mu      sync.Mutex
	records map[string][]dns.RR // by "name. TYPE"
	rcode   map[string]int      // of names that are in trouble
}

func startNameServer(t testing.TB) *nameServer {
	t.Helper()
	n := &nameServer{records: map[string][]dns.RR{}, rcode: map[string]int{}}
	udp, tcp := listenOnOnePort(t)
	n.addr = udp.LocalAddr().String()
	var servers sync.WaitGroup
	t.Cleanup(servers.Wait) // runs after the shutdowns below
	for _, s := range []*dns.Server{{PacketConn: udp, Handler: n}, {Listener: tcp, Handler: n}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		servers.Go(func() { s.ActivateAndServe() })
		<-started
		t.Cleanup(func() { s.Shutdown() })
	}
	return n
}

// listenOnOnePort lets the kernel choose the port for UDP, and tries again when
// TCP has given it to somebody else.
func listenOnOnePort(t testing.TB) (net.PacketConn, net.Listener) {
	t.Helper()
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
		udp.Close()
		last = err
	}
	t.Fatal(last)
	return nil, nil
}

// address makes name have this IPv4 address and no other. Nobody may keep the
// answer.
func (n *nameServer) address(name, ip string) { n.set(name, "A", ip) }

// txt makes name have this one TXT record.
func (n *nameServer) txt(name, text string) { n.set(name, "TXT", `"`+text+`"`) }

// set makes value the one record of its kind at name, add one more.
func (n *nameServer) set(name, kind, value string) { n.put(name, kind, value, false) }
func (n *nameServer) add(name, kind, value string) { n.put(name, kind, value, true) }

func (n *nameServer) put(name, kind, value string, keep bool) {
	rr, err := dns.NewRR(fmt.Sprintf("%s. 0 IN %s %s", name, kind, value))
	if err != nil {
		panic(err) // a mistake in the test
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	place := strings.ToLower(name) + ". " + kind
	if !keep {
		n.records[place] = nil
	}
	n.records[place] = append(n.records[place][:len(n.records[place]):len(n.records[place])], rr)
}

// fail makes every question about name be answered with an error.
func (n *nameServer) fail(name string, rcode int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.rcode[strings.ToLower(name)+"."] = rcode
}

// ServeDNS is called by the dns package.
func (n *nameServer) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = true
	name := strings.ToLower(q.Question[0].Name)
	n.mu.Lock()
	m.Rcode = n.rcode[name]
	m.Answer = n.findLocked(name, dns.TypeToString[q.Question[0].Qtype])
	if m.Rcode == dns.RcodeSuccess && len(m.Answer) == 0 && !n.existsLocked(name) {
		m.Rcode = dns.RcodeNameError
	}
	n.mu.Unlock()
	w.WriteMsg(m)
}

// findLocked follows an alias.
func (n *nameServer) findLocked(name, kind string) []dns.RR {
	alias := n.records[name+" CNAME"]
	if len(alias) == 0 {
		return n.records[name+" "+kind]
	}
	target := alias[0].(*dns.CNAME).Target
	return append(alias[:1:1], n.findLocked(target, kind)...)
}

func (n *nameServer) existsLocked(name string) bool {
	for of := range n.records {
		if strings.HasPrefix(of, name+" ") {
			return true
		}
	}
	return false
}

// An authority signs certificates for names on loopback.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t, key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "Test authority"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sign makes a certificate for host that is good until the given time.
func (a *authority) sign(host string, until time.Time) tls.Certificate {
	a.t.Helper()
	key := newKey(a.t)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: host},
		DNSNames:     []string{host},
		NotBefore:    time.Now().Add(-2 * time.Hour),
		NotAfter:     until,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if ip := net.ParseIP(host); ip != nil {
		template.DNSNames, template.IPAddresses = nil, []net.IP{ip}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// valid makes a certificate that nothing is wrong with.
func (a *authority) valid(host string) tls.Certificate {
	return a.sign(host, time.Now().Add(time.Hour))
}
