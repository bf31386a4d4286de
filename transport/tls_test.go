package transport

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// authority is a certificate authority made for one test.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t, pool: x509.NewCertPool()}
	a.key = newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert = sign(t, template, template, &a.key.PublicKey, a.key)
	a.pool.AddCert(a.cert)
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t testing.TB, template, parent *x509.Certificate, pub, key any) *x509.Certificate {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// issue returns a server certificate for names and addresses.
func (a *authority) issue(change func(*x509.Certificate), names ...string) tls.Certificate {
	key := newKey(a.t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "Test server"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	if change != nil {
		change(template)
	}
	cert := sign(a.t, template, a.cert, &key.PublicKey, a.key)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

// selfSigned returns a server certificate for an address, signed by itself.
func selfSigned(t testing.TB, addr string) tls.Certificate {
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "Self"}, IPAddresses: []net.IP{net.ParseIP(addr)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	cert := sign(t, template, template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

// secure serves TLS connections with serve, after the handshake.
func (a *authority) secure(config *tls.Config, serve func(*tls.Conn)) func(net.Conn) {
	return func(c net.Conn) {
		tc := tls.Server(c, config)
		if tc.Handshake() == nil {
			serve(tc)
			tc.Close()
		}
	}
}

func trust(a *authority) func(*Options) { return func(o *Options) { o.RootCAs = a.pool } }

func overTLS(req *Request) *Request {
	req.Scheme = "https"
	return req
}

// A target that cannot prove who it is gets nothing, and the attempt may be
// tried again.
func TestCertificatesAreVerified(t *testing.T) {
	ca, stranger := newAuthority(t), newAuthority(t)
	expired := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }
	early := func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }
	clientOnly := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }
	ok := func(c *tls.Conn) { answering(always(reply(200, "")))(c) }

	for _, tc := range []struct {
		name   string
		config *tls.Config
		want   *fault // nil: delivered
	}{
		{"good", &tls.Config{Certificates: []tls.Certificate{ca.issue(nil, "127.0.0.1")}}, nil},
		{"TLS 1.2", &tls.Config{MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{ca.issue(nil, "127.0.0.1")}}, nil},
		{"wrong name", &tls.Config{Certificates: []tls.Certificate{ca.issue(nil, "other.example")}}, faultTLSName},
		{"expired", &tls.Config{Certificates: []tls.Certificate{ca.issue(expired, "127.0.0.1")}}, faultTLSExpired},
		{"not valid yet", &tls.Config{Certificates: []tls.Certificate{ca.issue(early, "127.0.0.1")}}, faultTLSExpired},
		{"not for servers", &tls.Config{Certificates: []tls.Certificate{ca.issue(clientOnly, "127.0.0.1")}}, faultTLSCertificate},
		{"unknown authority", &tls.Config{Certificates: []tls.Certificate{stranger.issue(nil, "127.0.0.1")}}, faultTLSAuthority},
		{"self-signed", &tls.Config{Certificates: []tls.Certificate{selfSigned(t, "127.0.0.1")}}, faultTLSAuthority},
		{"TLS 1.1", &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11, Certificates: []tls.Certificate{ca.issue(nil, "127.0.0.1")}}, faultTLSAlert},
		{"TLS 1.0", &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10, Certificates: []tls.Certificate{ca.issue(nil, "127.0.0.1")}}, faultTLSAlert},
		{"speaks another protocol", &tls.Config{NextProtos: []string{"acme-tls/1"}, Certificates: []tls.Certificate{ca.issue(nil, "127.0.0.1")}}, faultTLSAlert},
		{"wants our certificate", &tls.Config{ClientAuth: tls.RequireAnyClientCert, Certificates: []tls.Certificate{ca.issue(nil, "127.0.0.1")}}, faultTLSAlert},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tr := open(t, trust(ca))
			addr := receiver(t, ca.secure(tc.config, ok))
			res := do(tr, overTLS(to(addr, "POST", "/", "{}")))
			if tc.want == nil {
				if res.Outcome != Delivered || res.Timing.TLS <= 0 || res.Timing.Connect <= 0 {
					t.Fatalf("got %+v", res)
				}
				return
			}
			if res.Outcome != Failed || res.Code != CodeTLSFailure || res.Detail != tc.want.detail || res.Status != 0 {
				t.Fatalf("got %v %q, want %q", res.Outcome, res.Error(), tc.want.detail)
			}
		})
	}
}

// What sits on the port may not speak TLS at all.
func TestTLSHandshakeTrouble(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		serve func(net.Conn)
		want  *fault
	}{
		{"plain HTTP", func(c net.Conn) { io.WriteString(c, reply(400, "speak TLS")); discard(c) }, faultTLSNot},
		{"closes", func(c net.Conn) { c.Read(make([]byte, 1)); c.(*net.TCPConn).SetLinger(0) }, faultTLSClosed},
		{"closes politely", func(c net.Conn) { bufio.NewReader(c).Peek(5); c.(*net.TCPConn).CloseWrite(); discard(c) }, faultTLSClosed},
		{"stalls", discard, faultTimeoutTLS},
		{"stalls half-way", func(c net.Conn) { io.WriteString(c, "\x16\x03\x03\x00\x7a\x02"); discard(c) }, faultTimeoutTLS},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tr := open(t)
			req := overTLS(to(receiver(t, tc.serve), "POST", "/", "{}"))
			req.Timeout = 300 * time.Millisecond
			res := do(tr, req)
			if res.Outcome != Failed || res.Code != tc.want.code || res.Detail != tc.want.detail {
				t.Fatalf("got %v %q, want %q", res.Outcome, res.Error(), tc.want.Error())
			}
			if res.Latency > req.Timeout+tolerance {
				t.Fatalf("took %v of %v", res.Latency, req.Timeout)
			}
		})
	}
}

// The server is asked for by the target's name, although the connection goes
// to an address; an address literal sends no name.
func TestServerNameIndication(t *testing.T) {
	ca := newAuthority(t)
	var mu sync.Mutex
	var names []string
	config := &tls.Config{
		Certificates: []tls.Certificate{ca.issue(nil, "hooks.example.com", "127.0.0.1")},
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			mu.Lock()
			defer mu.Unlock()
			names = append(names, h.ServerName)
			return nil, nil
		},
	}
	addr := receiver(t, ca.secure(config, func(c *tls.Conn) { answering(always(reply(200, "")))(c) }))
	dns := serveDNS(t)
	dns.set("hooks.example.com", "127.0.0.1")
	tr := open(t, trust(ca), dns.use)
	for _, host := range []string{"Hooks.Example.COM.", "127.0.0.1"} {
		req := overTLS(to(addr, "POST", "/", "{}"))
		req.Host = host
		if res := do(tr, req); res.Outcome != Delivered || res.RemoteIP != netip.MustParseAddr("127.0.0.1") {
			t.Fatalf("%s: %+v", host, res)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(names) != 2 || names[0] != "hooks.example.com" || names[1] != "" {
		t.Fatalf("server names %q", names)
	}
}

// A second connection to the same name resumes the first one's session.
func TestTLSSessionsResume(t *testing.T) {
	ca := newAuthority(t)
	resumed := make(chan bool, 2)
	addr := receiver(t, ca.secure(&tls.Config{Certificates: []tls.Certificate{ca.issue(nil, "127.0.0.1")}}, func(c *tls.Conn) {
		resumed <- c.ConnectionState().DidResume
		answering(always(reply(200, "", "Connection: close")))(c)
	}))
	tr := open(t, trust(ca))
	for range 2 {
		if res := do(tr, overTLS(to(addr, "POST", "/", "{}"))); res.Outcome != Delivered {
			t.Fatalf("%+v", res)
		}
	}
	if first, second := <-resumed, <-resumed; first || !second {
		t.Fatalf("resumed: first %v, second %v", first, second)
	}
}

// secureWith is serve behind TLS with a certificate for loopback.
func secureWith(a *authority, serve func(net.Conn)) func(net.Conn) {
	config := &tls.Config{Certificates: []tls.Certificate{a.issue(nil, "127.0.0.1")}}
	return a.secure(config, func(c *tls.Conn) { serve(c) })
}
