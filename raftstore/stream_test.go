package raftstore

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"go.uber.org/goleak"
)

// noLeaks fails the test if it leaves goroutines behind. Call it first.
func noLeaks(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		goleak.VerifyNone(t, before,
			// fasthttp formats the Date header once a second, for the whole process.
			goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
			// The cleaner of fasthttp's workers notices the end of Serve when it wakes, within 10 s.
			goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
		)
	})
}

// A logBook is a log that a test waits for lines of.
type logBook struct {
	mu    sync.Mutex
	text  bytes.Buffer
	wrote chan struct{} // closed at the next line
}

func (b *logBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.wrote != nil {
		close(b.wrote)
		b.wrote = nil
	}
	return b.text.Write(p)
}

func (b *logBook) logger() *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

// waitFor waits until all words are in the log.
func (b *logBook) waitFor(t *testing.T, words ...string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		b.mu.Lock()
		text := b.text.String()
		if b.wrote == nil {
			b.wrote = make(chan struct{})
		}
		wrote := b.wrote
		b.mu.Unlock()
		if hasAll(text, words) {
			return
		}
		select {
		case <-wrote:
		case <-deadline:
			t.Fatalf("the log has no %q:\n%s", words, text)
		}
	}
}

func hasAll(text string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}

// certDir makes a CA and certificates for nodes.
func certDir(t *testing.T, nodes ...string) string {
	t.Helper()
	dir := t.TempDir()
	if _, err := MakeCerts(CertOptions{Dir: dir, Nodes: nodes, Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func certFilesOf(dir, id string) ClusterTLSFiles {
	return ClusterTLSFiles{
		Cert: filepath.Join(dir, id+".pem"),
		Key:  filepath.Join(dir, id+"-key.pem"),
		CA:   filepath.Join(dir, "ca.pem"),
	}
}

// identityOf loads the certificate of id in dir; nil if dir is empty.
func identityOf(t *testing.T, dir, id string) *ClusterTLS {
	t.Helper()
	if dir == "" {
		return nil
	}
	c, err := LoadClusterTLS(certFilesOf(dir, id), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// listenAs starts node id with its certificate in dir, or without any if dir is
// empty, and closes it at the end. change may be nil.
func listenAs(t *testing.T, dir, id string, change func(*StreamOptions)) *StreamLayer {
	t.Helper()
	o := StreamOptions{Bind: "127.0.0.1:0", NodeID: id, TLS: identityOf(t, dir, id), Logger: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&o)
	}
	l, err := Listen(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// expect is a NodeOf that knows one node.
func expect(id string) func(*StreamOptions) {
	return func(o *StreamOptions) { o.NodeOf = func(string) (string, bool) { return id, true } }
}

// echo accepts connections and returns what comes in on them, after the peer's
// id and a colon.
func echo(t *testing.T, l net.Listener) {
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				fmt.Fprintf(c, "%s:", PeerID(c))
				io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() { l.Close() })
}

// talk says hello on c and returns the answer.
func talk(t *testing.T, c net.Conn) string {
	t.Helper()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		t.Fatal(err)
	}
	var answer []byte
	var b [1]byte
	for !bytes.HasSuffix(answer, []byte("\n")) {
		if _, err := c.Read(b[:]); err != nil {
			t.Fatalf("after %q: %v", answer, err)
		}
		answer = append(answer, b[0])
	}
	c.SetDeadline(time.Time{})
	return strings.TrimSpace(string(answer))
}

// works fails the test unless from reaches to, by both kinds of connection.
func works(t *testing.T, from, to *StreamLayer, answer string) {
	t.Helper()
	address := to.Addr().String()
	c, err := from.Dial(raft.ServerAddress(address), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := talk(t, c); got != answer {
		t.Errorf("over a raft connection: %q, want %q", got, answer)
	}
	h, err := from.DialHTTP(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if got := talk(t, h); got != answer {
		t.Errorf("over an HTTP connection: %q, want %q", got, answer)
	}
	if id := PeerID(h); from.o.TLS != nil && id != to.o.NodeID {
		t.Errorf("the dialer knows its peer as %q", id)
	}
}

// openAndSecured runs f without certificates, where dir and peer are empty, and with those of n1 and n2 in dir; peer is
// n2's id then.
func openAndSecured(t *testing.T, f func(t *testing.T, dir, peer string)) {
	t.Helper()
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls=%v", secure), func(t *testing.T) {
			noLeaks(t)
			dir, peer := "", ""
			if secure {
				dir, peer = certDir(t, "n1", "n2"), "n2"
			}
			f(t, dir, peer)
		})
	}
}

func TestStreamCarriesBothKinds(t *testing.T) {
	openAndSecured(t, func(t *testing.T, dir, peer string) {
		n1 := listenAs(t, dir, "n1", nil)
		echo(t, n1)
		echo(t, n1.HTTPListener())
		n2 := listenAs(t, dir, "n2", expect("n1"))
		works(t, n2, n1, peer+":hello")
		joining := listenAs(t, dir, "n2", nil) // knows nobody
		works(t, joining, n1, peer+":hello")
	})
}

// A stranger is a CA that makes certificates as MakeCerts does not.
type stranger struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// strangerOf is the CA in dir.
func strangerOf(t *testing.T, dir string) *stranger {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return &stranger{t, pair.Leaf, pair.PrivateKey.(*ecdsa.PrivateKey)}
}

// issue makes a certificate with names, and with what change makes of it.
func (s *stranger) issue(change func(*x509.Certificate), names ...string) tls.Certificate {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "stranger"},
		DNSNames:    names,
		NotBefore:   time.Now().Add(-2 * time.Hour),
		NotAfter:    time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(template)
	}
	leaf, err := sign(template, s.cert, key, s.key)
	if err != nil {
		s.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

// posing makes a layer present cert, which it would itself refuse to load.
func posing(l *StreamLayer, cert tls.Certificate) {
	was := l.o.TLS.current.Load()
	l.o.TLS.current.Store(&identity{id: was.id, cert: cert, roots: was.roots})
	l.o.TLS.checked.Store(time.Now().Add(time.Hour).UnixNano())
}

func TestStreamRefusesWrongCertificates(t *testing.T) {
	dir, other := certDir(t, "n1", "n2"), certDir(t, "n2")
	ca := strangerOf(t, dir)
	ended := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) }
	serverOnly := func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }
	clientOnly := func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] }
	for name, c := range map[string]struct {
		cert tls.Certificate
		// What is said where n1 accepts it, and where n1 connects to it.
		accepting, dialing []string
	}{
		"another CA": {strangerOf(t, other).issue(nil, "n2.harepost.internal"),
			[]string{"unknown authority", "node=n1", "claims=n2", "from=127.0.0.1"}, []string{"unknown authority", `"n1"`, `"n2"`}},
		"expired": {ca.issue(ended, "n2.harepost.internal"),
			[]string{"expired", "node=n1", "claims=n2"}, []string{"expired", `"n1"`, `"n2"`}},
		"of no node": {ca.issue(nil, "n2", "www.example.com"),
			[]string{"for no node", "www.example.com"}, []string{"for no node", "www.example.com"}},
		"of two nodes": {ca.issue(nil, "n2.harepost.internal", "n3.harepost.internal"),
			[]string{"two nodes", "n3"}, []string{"two nodes", "n3"}},
		"of all nodes": {ca.issue(nil, "*.harepost.internal"),
			[]string{"no node id"}, []string{"no node id"}},
		"for servers only": {ca.issue(serverOnly, "n2.harepost.internal"),
			[]string{"incompatible key usage", "claims=n2"}, nil},
		"for clients only": {ca.issue(clientOnly, "n2.harepost.internal"),
			nil, []string{"incompatible key usage", `"n2"`}},
		"of another node": {ca.issue(nil, "n3.harepost.internal"),
			nil, []string{`for node "n3" and not for "n2"`}},
	} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			var book logBook
			n1 := listenAs(t, dir, "n1", func(o *StreamOptions) { o.Logger = book.logger(); expect("n2")(o) })
			echo(t, n1)
			echo(t, n1.HTTPListener())
			bad := listenAs(t, dir, "n2", nil)
			echo(t, bad)
			echo(t, bad.HTTPListener())
			posing(bad, c.cert)
			_, err := bad.Dial(raft.ServerAddress(n1.Addr().String()), 10*time.Second)
			if c.accepting != nil {
				if err == nil || !strings.Contains(err.Error(), "refused this node's certificate") {
					t.Errorf("whoever dialed with it was told %v", err)
				}
				book.waitFor(t, c.accepting...)
			} else if err != nil {
				t.Error(err)
			}
			_, err = n1.Dial(raft.ServerAddress(bad.Addr().String()), 10*time.Second)
			if c.dialing != nil && (err == nil || !hasAll(err.Error(), c.dialing)) {
				t.Errorf("dialing it: %v, want something of %q", err, c.dialing)
			} else if c.dialing == nil && err != nil {
				t.Error(err)
			}
			works(t, listenAs(t, dir, "n2", nil), n1, "n2:hello") // the others are well
		})
	}
}

// Who is at an address where raft expects another node is told to those that ask.
func TestStreamAsksWhoeverIsThere(t *testing.T) {
	noLeaks(t)
	dir := certDir(t, "n1", "n2")
	n1 := listenAs(t, dir, "n1", nil)
	echo(t, n1)
	echo(t, n1.HTTPListener())
	n2 := listenAs(t, dir, "n2", expect("n3"))
	c, err := n2.DialHTTP(t.Context(), n1.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := talk(t, c); got != "n2:hello" || PeerID(c) != "n1" {
		t.Errorf("node %q answers %q", PeerID(c), got)
	}
	if _, err := n2.Dial(raft.ServerAddress(n1.Addr().String()), 10*time.Second); err == nil || !strings.Contains(err.Error(), `for node "n1" and not for "n3"`) {
		t.Errorf("raft connects, or is told %v", err)
	}
}

func TestStreamRefusesNoCertificate(t *testing.T) {
	noLeaks(t)
	dir := certDir(t, "n1")
	var book logBook
	n1 := listenAs(t, dir, "n1", func(o *StreamOptions) { o.Logger = book.logger() })
	c, err := tls.Dial("tcp", n1.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"harepost-cluster"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte{kindRaft})
	if _, err := c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("told %v", err)
	}
	book.waitFor(t, "certificate")
}

// TestStreamOneSideWithoutTLS has both sides say what is wrong.
func TestStreamOneSideWithoutTLS(t *testing.T) {
	noLeaks(t)
	dir := certDir(t, "n1")
	var secureBook, plainBook logBook
	secure := listenAs(t, dir, "n1", func(o *StreamOptions) { o.Logger = secureBook.logger() })
	plain := listenAs(t, "", "n2", func(o *StreamOptions) { o.Logger = plainBook.logger() })
	_, err := plain.Dial(raft.ServerAddress(secure.Addr().String()), 10*time.Second)
	if !errors.Is(err, errServerHasTLS) {
		t.Errorf("without TLS to one with TLS: %v", err)
	}
	secureBook.waitFor(t, "does not speak TLS", "node=n1")
	_, err = secure.Dial(raft.ServerAddress(plain.Addr().String()), 10*time.Second)
	if err == nil || !strings.Contains(err.Error(), "closed the connection in the handshake") {
		t.Errorf("with TLS to one without: %v", err)
	}
	plainBook.waitFor(t, "speaks TLS, and this node has no certificates", "node=n2")
}

func TestStreamRefusesGarbage(t *testing.T) {
	openAndSecured(t, func(t *testing.T, dir, peer string) {
		var book logBook
		n1 := listenAs(t, dir, "n1", func(o *StreamOptions) { o.Logger = book.logger() })
		echo(t, n1)
		echo(t, n1.HTTPListener())
		for _, garbage := range []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "\x00\x00\x00\x00\x00\x00\x00", "r", strings.Repeat("\xff", 1<<16)} {
			c, err := net.Dial("tcp", n1.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			if dir != "" && garbage == "r" {
				c = tls.Client(c, identityOf(t, dir, "n2").client("n1")) // garbage of a member
			}
			c.SetDeadline(time.Now().Add(10 * time.Second))
			io.WriteString(c, garbage)
			if text, err := io.ReadAll(c); errors.Is(err, os.ErrDeadlineExceeded) || bytes.Contains(text, []byte{accepted}) {
				t.Errorf("%.10q was answered %q, %v", garbage, text, err)
			}
			c.Close()
		}
		if dir != "" {
			book.waitFor(t, "does not speak TLS")
		} else {
			book.waitFor(t, "does not speak as a node does")
		}
		works(t, listenAs(t, dir, "n2", nil), n1, peer+":hello")
	})
}

// TestStreamSlowHandshakes has two hundred who connect and do not go on, while
// others are let in. The timeout is out of reach: it is not what saves them.
func TestStreamSlowHandshakes(t *testing.T) {
	noLeaks(t)
	dir := certDir(t, "n1", "n2")
	n1 := listenAs(t, dir, "n1", func(o *StreamOptions) { o.HandshakeTimeout = time.Hour })
	echo(t, n1)
	echo(t, n1.HTTPListener())
	n2 := listenAs(t, dir, "n2", nil)
	var slow []net.Conn
	defer func() {
		for _, c := range slow {
			c.Close()
		}
	}()
	for i := range 200 {
		c, err := net.Dial("tcp", n1.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		slow = append(slow, c)
		if i%2 == 0 {
			c.Write([]byte{tlsHandshakeRecord, 3}) // the beginning of a record
		}
		if i%10 == 0 {
			works(t, n2, n1, "n2:hello")
		}
	}
	works(t, n2, n1, "n2:hello")
	n1.mu.Lock()
	pending := len(n1.pending)
	n1.mu.Unlock()
	if pending > 64 {
		t.Errorf("%d handshakes are under way", pending)
	}
	// The first of them were cut off.
	slow[0].SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := slow[0].Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the first is still connected: %v", err)
	}
}

func TestStreamHandshakeEnds(t *testing.T) {
	noLeaks(t)
	for _, dir := range []string{"", certDir(t, "n1")} {
		var book logBook
		n1 := listenAs(t, dir, "n1", func(o *StreamOptions) {
			o.HandshakeTimeout = 10 * time.Millisecond
			o.Logger = book.logger()
		})
		c, err := net.Dial("tcp", n1.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("who says nothing is still connected: %v", err)
		}
		book.waitFor(t, "did not finish within 10ms")
	}
}

func TestStreamBounds(t *testing.T) {
	noLeaks(t)
	var book logBook
	n1 := listenAs(t, "", "n1", func(o *StreamOptions) { o.Conns = 3; o.Logger = book.logger() })
	n2 := listenAs(t, "", "n2", nil)
	address := raft.ServerAddress(n1.Addr().String())
	var conns []net.Conn
	for range 3 {
		c, err := n2.Dial(address, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	// The dialer is told before the acceptor counts: take them all first.
	for range 3 {
		c, err := n1.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if c, err := n2.Dial(address, 10*time.Second); err == nil {
		t.Errorf("a fourth connection was let in: %v", c)
	}
	book.waitFor(t, "too many")
	for _, c := range conns {
		c.Close()
		c.Close()
	}
}

// TestStreamQueueFull closes who would wait behind too many others.
func TestStreamQueueFull(t *testing.T) {
	noLeaks(t)
	n1 := listenAs(t, "", "n1", nil)
	n2 := listenAs(t, "", "n2", nil)
	address := n1.Addr().String()
	for range queuedConns {
		c, err := n2.DialHTTP(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if _, err := n2.DialHTTP(t.Context(), address); err == nil {
		// Told before the one before it was queued; the next is not.
		_, err = n2.DialHTTP(t.Context(), address)
		if err == nil {
			t.Error("there is no end to the queue")
		}
	}
	c, err := n2.Dial(raft.ServerAddress(address), 10*time.Second)
	if err != nil {
		t.Fatalf("raft has to wait for HTTP: %v", err)
	}
	c.Close()
}

func TestStreamWithoutTLSIsLoopbackOnly(t *testing.T) {
	noLeaks(t)
	dir := certDir(t, "n1")
	for _, c := range []struct {
		bind, advertise string
		secure          bool
		want            string // part of the error; empty: none
	}{
		{"127.0.0.1:0", "", false, ""},
		{"localhost:0", "localhost:7000", false, ""},
		{"127.0.0.1:0", "127.9.9.9:7000", false, ""},
		{":0", "127.0.0.1:7000", false, "--cluster-cert"},
		{"0.0.0.0:0", "127.0.0.1:7000", false, "--cluster-cert"},
		{"10.0.0.1:0", "", false, "--cluster-cert"},
		{"127.0.0.1:0", "n1.example.com:7000", false, "--cluster-cert"},
		{"127.0.0.1:0", "10.0.0.1:7000", false, "--cluster-cert"},
		{"0.0.0.0:0", "", true, "--cluster-advertise"},
		{"0.0.0.0:0", "0.0.0.0:7000", true, "cannot be advertised"},
		{"127.0.0.1:0", ":7000", true, "cannot be advertised"},
		{"127.0.0.1:0", "n1.example.com:7000", true, ""},
		{"127.0.0.1", "", true, "missing port"},
		{"", "", true, "missing port"},
		{"127.0.0.1:http", "", true, "port"},
	} {
		o := StreamOptions{Bind: c.bind, Advertise: c.advertise, NodeID: "n1", Logger: slog.New(slog.DiscardHandler)}
		if c.secure {
			o.TLS = identityOf(t, dir, "n1")
		}
		l, err := Listen(o)
		if err == nil {
			l.Close()
		}
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("bind %q, advertise %q, tls %v: %v, want %q", c.bind, c.advertise, c.secure, err, c.want)
		}
	}
	if _, err := Listen(StreamOptions{Bind: "127.0.0.1:0", NodeID: "n2", TLS: identityOf(t, dir, "n1")}); err == nil || !strings.Contains(err.Error(), `for node "n1"`) {
		t.Errorf("with another node's certificate: %v", err)
	}
	n1 := listenAs(t, "", "n1", nil)
	if _, err := n1.Dial("192.0.2.1:7000", 10*time.Second); err == nil || !strings.Contains(err.Error(), "--cluster-cert") {
		t.Errorf("without TLS to another machine: %v", err)
	}
}

func TestStreamAdvertises(t *testing.T) {
	noLeaks(t)
	dir := certDir(t, "n1")
	l := listenAs(t, dir, "n1", func(o *StreamOptions) { o.Bind, o.Advertise = "0.0.0.0:0", "n1.example.com:0" })
	port := l.BoundAddr().(*net.TCPAddr).Port
	if got, want := l.Addr().String(), fmt.Sprintf("n1.example.com:%d", port); got != want {
		t.Errorf("advertises %s, want %s", got, want)
	}
}

func TestStreamReloadsCertificates(t *testing.T) {
	noLeaks(t)
	dir, next := certDir(t, "n1", "n2"), certDir(t, "n1", "n2")
	var now atomic.Int64 // seconds after the start
	start := time.Now()
	clock := func() time.Time { return start.Add(time.Duration(now.Load()) * time.Second) }
	var book logBook
	load := func(id string) *ClusterTLS {
		c, err := loadClusterTLS(certFilesOf(dir, id), book.logger(), clock)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	n1 := listenAs(t, dir, "n1", func(o *StreamOptions) { o.TLS = load("n1") })
	echo(t, n1)
	echo(t, n1.HTTPListener())
	n2 := listenAs(t, dir, "n2", func(o *StreamOptions) { o.TLS = load("n2"); expect("n1")(o) })
	works(t, n2, n1, "n2:hello")
	old, err := n2.Dial(raft.ServerAddress(n1.Addr().String()), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()

	copyFile := func(name string) {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(next, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	// Half of a change is not one: the old goes on.
	copyFile("n1.pem")
	now.Add(2)
	works(t, n2, n1, "n2:hello")
	book.waitFor(t, "the new cluster certificate cannot be used")
	for _, name := range []string{"n1-key.pem", "n2.pem", "n2-key.pem", "ca.pem"} {
		copyFile(name)
	}
	now.Add(2)
	works(t, n2, n1, "n2:hello")
	book.waitFor(t, "the cluster certificate was replaced")
	if n1.o.TLS.NotAfter().IsZero() {
		t.Error("the new certificate has no end")
	}
	if got := talk(t, old); got != "n2:hello" {
		t.Errorf("the connection from before: %q", got)
	}
	// Who has the old CA's is out now.
	stranger := listenAs(t, certDir(t, "n2"), "n2", nil)
	if _, err := stranger.Dial(raft.ServerAddress(n1.Addr().String()), 10*time.Second); err == nil {
		t.Error("a certificate of another CA was let in")
	}
	// Another node's certificate is no replacement.
	for _, suffix := range []string{".pem", "-key.pem"} {
		text, _ := os.ReadFile(filepath.Join(next, "n2"+suffix))
		if err := os.WriteFile(filepath.Join(dir, "n1"+suffix), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	now.Add(2)
	works(t, n2, n1, "n2:hello")
	book.waitFor(t, `\"n2\" and not for \"n1\"`)
	os.Remove(filepath.Join(dir, "ca.pem"))
	now.Add(2)
	works(t, n2, n1, "n2:hello")
	book.waitFor(t, "cannot be read, the old one stays in use")
}

// TestStreamClose closes a layer with everything under way.
func TestStreamClose(t *testing.T) {
	openAndSecured(t, func(t *testing.T, dir, _ string) {
		n1, n2 := listenAs(t, dir, "n1", nil), listenAs(t, dir, "n2", nil)
		address := n1.Addr().String()
		shaking, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer shaking.Close()
		queued, err := n2.DialHTTP(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		defer queued.Close()
		dialed, err := n2.Dial(raft.ServerAddress(address), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		taken, err := n1.Accept()
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for _, wait := range []func() error{
			func() error { _, err := n1.Accept(); return err },
			func() error { _, err := n1.HTTPListener().Accept(); return errors.Join(err, n1.Close()) },
			func() error { _, err := taken.Read(make([]byte, 1)); return err },
			func() error { _, err := dialed.Read(make([]byte, 1)); return err },
		} {
			wg.Go(func() {
				for wait() == nil { // the second listener has one that is queued
				}
			})
		}
		n1.Close()
		n1.Close()
		n2.Close()
		wg.Wait()
		if _, err := n1.Dial(raft.ServerAddress(n2.Addr().String()), time.Second); err == nil {
			t.Error("a closed layer dials")
		}
		if _, err := n1.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a closed layer accepts: %v", err)
		}
		if n := len(n1.conns) + len(n2.conns) + n1.accepted + len(n1.pending); n != 0 {
			t.Errorf("%d connections are still known", n)
		}
	})
}

// TestStreamHTTPCloses leaves raft its connections.
func TestStreamHTTPCloses(t *testing.T) {
	noLeaks(t)
	n1, n2 := listenAs(t, "", "n1", nil), listenAs(t, "", "n2", nil)
	echo(t, n1)
	n1.HTTPListener().Close()
	n1.HTTPListener().Close()
	if _, err := n2.DialHTTP(t.Context(), n1.Addr().String()); err == nil {
		t.Error("internal HTTP is let in")
	}
	if _, err := n1.HTTPListener().Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accepts: %v", err)
	}
	c, err := n2.Dial(raft.ServerAddress(n1.Addr().String()), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	talk(t, c)
}

func TestStreamDialEnds(t *testing.T) {
	noLeaks(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // connects, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for _, dir := range []string{"", certDir(t, "n1")} {
		n1 := listenAs(t, dir, "n1", nil)
		if _, err := n1.Dial(raft.ServerAddress(silent.Addr().String()), 20*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("by its timeout: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel)
		if _, err := n1.DialHTTP(ctx, silent.Addr().String()); !errors.Is(err, context.Canceled) {
			t.Errorf("by its context: %v", err)
		}
		time.AfterFunc(20*time.Millisecond, func() { n1.Close() })
		if _, err := n1.Dial(raft.ServerAddress(silent.Addr().String()), time.Hour); !errors.Is(err, context.Canceled) {
			t.Errorf("by Close: %v", err)
		}
	}
}

func TestRareLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var book logBook
		r := newRareLog(book.logger())
		for range 5 {
			r.warn("a", "first")
		}
		r.warn("b", "second")
		time.Sleep(rareLogPause)
		r.warn("a", "first")
		text := book.text.String()
		if strings.Count(text, "first") != 2 || strings.Count(text, "second") != 1 || !strings.Contains(text, "left_out=4") {
			t.Errorf("logged:\n%s", text)
		}
		for i := range 10 * rareLogKinds {
			r.warn(fmt.Sprint(i), "flood")
		}
		if n := len(r.kinds); n > rareLogKinds+1 {
			t.Errorf("%d kinds are kept", n)
		}
		if n := strings.Count(book.text.String(), "flood"); n > rareLogKinds+1 {
			t.Errorf("%d lines of a flood", n)
		}
	})
}

func TestValidNodeID(t *testing.T) {
	for _, id := range []string{"n1", "0", "harepost-0", strings.Repeat("a", 63)} {
		if err := ValidNodeID(id); err != nil {
			t.Error(err)
		}
	}
	for _, id := range []string{"", "-a", "a-", "A", "a.b", "a_b", "a b", "ä", "*", strings.Repeat("a", 64)} {
		if ValidNodeID(id) == nil {
			t.Errorf("%q passes", id)
		}
	}
}

// record is a state machine that keeps what was applied.
type record struct {
	mu      sync.Mutex
	applied []string
	more    chan struct{}
}

func (r *record) Apply(l *raft.Log) any {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.applied = append(r.applied, string(l.Data))
	select {
	case r.more <- struct{}{}:
	default:
	}
	return nil
}

func (r *record) Snapshot() (raft.FSMSnapshot, error) { return nil, errors.New("none") }
func (r *record) Restore(rc io.ReadCloser) error      { return rc.Close() }

// TestStreamCarriesRaft has two nodes elect a leader and replicate entries, small
// and large.
func TestStreamCarriesRaft(t *testing.T) {
	openAndSecured(t, func(t *testing.T, dir, _ string) {
		ids := []string{"n1", "n2"}
		layers := map[string]*StreamLayer{}
		nodeOf := func(address string) (string, bool) {
			for id, l := range layers {
				if l.Addr().String() == address {
					return id, true
				}
			}
			return "", false
		}
		var servers []raft.Server
		for _, id := range ids {
			l := listenAs(t, dir, id, func(o *StreamOptions) { o.NodeOf = nodeOf })
			layers[id] = l
			servers = append(servers, raft.Server{ID: raft.ServerID(id), Address: raft.ServerAddress(l.Addr().String())})
		}
		nodes, records := map[string]*raft.Raft{}, map[string]*record{}
		leaders := make(chan string, 16)
		for _, id := range ids {
			config := raft.DefaultConfig()
			config.LocalID = raft.ServerID(id)
			config.HeartbeatTimeout, config.ElectionTimeout, config.LeaderLeaseTimeout = 2*time.Second, 2*time.Second, 2*time.Second // also on a busy machine
			config.Logger = hclog.NewNullLogger()
			config.NoLegacyTelemetry = true
			transport := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
				Stream: layers[id], MaxPool: KeptConnections, Timeout: 10 * time.Second, Logger: hclog.NewNullLogger(),
			})
			records[id] = &record{more: make(chan struct{}, 1)}
			store := raft.NewInmemStore()
			if err := raft.BootstrapCluster(config, store, store, raft.NewInmemSnapshotStore(), transport, raft.Configuration{Servers: servers}); err != nil {
				t.Fatal(err)
			}
			r, err := raft.NewRaft(config, records[id], store, store, raft.NewInmemSnapshotStore(), transport)
			if err != nil {
				t.Fatal(err)
			}
			nodes[id] = r
			done := make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() {
				for {
					select {
					case leads := <-r.LeaderCh():
						if leads {
							leaders <- id
						}
					case <-done:
						return
					}
				}
			})
			t.Cleanup(func() {
				if err := r.Shutdown().Error(); err != nil {
					t.Error(err)
				}
				transport.Close()
				transport.CloseStreams()
				close(done)
				wg.Wait()
			})
		}
		leader := <-leaders
		var want []string
		for i := range 20 {
			entry := fmt.Sprint(i) + strings.Repeat("x", i*50_000)
			want = append(want, entry)
			if err := nodes[leader].Apply([]byte(entry), 10*time.Second).Error(); err != nil {
				t.Fatal(err)
			}
		}
		for id, r := range records {
			for {
				r.mu.Lock()
				n := len(r.applied)
				equal := n == len(want) && strings.Join(r.applied, "") == strings.Join(want, "")
				r.mu.Unlock()
				if n >= len(want) {
					if !equal {
						t.Errorf("%s applied something else", id)
					}
					break
				}
				<-r.more
			}
		}
	})
}

// pemOf is used where a test writes files that MakeCerts would not.
func pemOf(t *testing.T, cert tls.Certificate) (certText, keyText []byte) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
}

// TestLoadClusterTLSRefuses what other nodes would refuse later.
func TestLoadClusterTLSRefuses(t *testing.T) {
	dir, other := certDir(t, "n1"), certDir(t, "n1")
	ca := strangerOf(t, dir)
	for name, c := range map[string]struct {
		cert tls.Certificate
		want string
	}{
		"another CA":    {strangerOf(t, other).issue(nil, "n1.harepost.internal"), "unknown authority"},
		"expired":       {ca.issue(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, "n1.harepost.internal"), "expired"},
		"no node":       {ca.issue(nil, "n1"), "no node"},
		"one direction": {ca.issue(func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }, "n1.harepost.internal"), "key usage"},
	} {
		cert, key := pemOf(t, c.cert)
		files := certFilesOf(dir, "x")
		if err := errors.Join(os.WriteFile(files.Cert, cert, 0o600), os.WriteFile(files.Key, key, 0o600)); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadClusterTLS(files, nil); err == nil || !hasAll(err.Error(), []string{c.want, files.Cert}) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := LoadClusterTLS(certFilesOf(dir, "n7"), nil); err == nil || !strings.Contains(err.Error(), "--cluster-cert") {
		t.Errorf("no file: %v", err)
	}
	files := certFilesOf(dir, "n1")
	files.CA = files.Key
	if _, err := LoadClusterTLS(files, nil); err == nil || !strings.Contains(err.Error(), "no certificate") {
		t.Errorf("a CA's file without certificates: %v", err)
	}
}

// Whoever reads off a connection of raft's does not wait for ever for one who has begun to say something and is
// frozen; a connection of HTTP has bounds of its own.
func TestASilentConnectionOfRaftIsGivenUp(t *testing.T) {
	openAndSecured(t, func(t *testing.T, dir, _ string) {
		n1 := listenAs(t, dir, "n1", func(o *StreamOptions) { o.IdleTimeout = 100 * time.Millisecond })
		n2 := listenAs(t, dir, "n2", nil)
		c, err := n2.Dial(raft.ServerAddress(n1.Addr().String()), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		accepted, err := n1.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer accepted.Close()
		if _, err := io.WriteString(c, "the first part of"); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(accepted)
		if string(got) != "the first part of" || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%q, %v", got, err)
		}
	})
}
