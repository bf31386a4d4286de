package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// pair makes a certificate for 127.0.0.1 and its key as files hold them, and
// tells its serial number.
func (a *authority) pair() (cert, key []byte, serial string) {
	a.t.Helper()
	pair := a.valid("127.0.0.1")
	parsed, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		a.t.Fatal(err)
	}
	cert, key = a.pairFor(pair)
	return cert, key, parsed.SerialNumber.String()
}

// pairFor is a certificate and its key as files hold them.
func (a *authority) pairFor(pair tls.Certificate) (cert, key []byte) {
	a.t.Helper()
	private, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		a.t.Fatal(err)
	}
	return pemText("CERTIFICATE", pair.Certificate[0]), pemText("PRIVATE KEY", private)
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func pemText(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func writeFile(t *testing.T, name string, text []byte) {
	t.Helper()
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A mounted is a directory as Kubernetes mounts a secret: the files are links
// through one link that is swapped.
type mounted struct {
	t         *testing.T
	dir       string
	cert, key string
	versions  int
}

func newMounted(t *testing.T) *mounted {
	dir := t.TempDir()
	m := &mounted{t: t, dir: dir, cert: filepath.Join(dir, "tls.crt"), key: filepath.Join(dir, "tls.key")}
	for _, name := range []string{"tls.crt", "tls.key"} {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func (m *mounted) put(cert, key []byte) {
	m.t.Helper()
	m.versions++
	version := "..v" + string(rune('0'+m.versions))
	if err := os.Mkdir(filepath.Join(m.dir, version), 0o700); err != nil {
		m.t.Fatal(err)
	}
	writeFile(m.t, filepath.Join(m.dir, version, "tls.crt"), cert)
	writeFile(m.t, filepath.Join(m.dir, version, "tls.key"), key)
	link := filepath.Join(m.dir, "..data_new")
	if err := os.Symlink(version, link); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Rename(link, filepath.Join(m.dir, "..data")); err != nil {
		m.t.Fatal(err)
	}
}

// The certificate follows its files, at most once a second, and a pair that
// cannot be used changes nothing and is told once.
func TestTheCertificateFollowsItsFiles(t *testing.T) {
	ca := newAuthority(t)
	files := newMounted(t)
	cert, key, first := ca.pair()
	files.put(cert, key)
	var logs bytes.Buffer
	c, err := openCertificate(files.cert, files.key, slog.New(slog.NewTextHandler(&logs, nil)))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	c.now = func() time.Time { return now }
	shown := func(why string, want string, logged int) {
		t.Helper()
		if got := c.get().Leaf.SerialNumber.String(); got != want {
			t.Errorf("%s: certificate %s, want %s", why, got, want)
		}
		if got := strings.Count(logs.String(), "stays in use"); got != logged {
			t.Errorf("%s: %d errors in the log, want %d:\n%s", why, got, logged, logs.String())
		}
	}
	shown("at first", first, 0)

	newCert, newKey, second := ca.pair()
	files.put(newCert, newKey)
	shown("within the same second", first, 0)
	now = now.Add(certificateCheck)
	shown("a second later", second, 0)

	files.put(cert, newKey)
	for range 3 {
		now = now.Add(certificateCheck)
		shown("a key that does not match", second, 1)
	}
	files.put([]byte("broken"), newKey)
	for range 3 {
		now = now.Add(certificateCheck)
		shown("no certificate", second, 2)
	}
	if err := os.Remove(files.cert); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		now = now.Add(certificateCheck)
		shown("no file", second, 3)
	}
	writeFile(t, files.cert, cert)
	writeFile(t, files.key, key) // in place, through the link
	now = now.Add(certificateCheck)
	shown("whole again", first, 3)
	if strings.Contains(logs.String(), "PRIVATE") {
		t.Error("the key is in the log")
	}
}

func TestServeSpeaksTLS(t *testing.T) {
	ca := newAuthority(t)
	files := newMounted(t)
	cert, key, first := ca.pair()
	files.put(cert, key)
	s := startServer(t, "--dev", "--tls-cert", files.cert, "--tls-key", files.key)
	if !strings.HasPrefix(s.URL, "https://") {
		t.Fatalf("it serves on %s", s.URL)
	}
	address := strings.TrimPrefix(s.URL, "https://")
	dial := func(o *tls.Config) (tls.ConnectionState, error) {
		o.RootCAs = ca.pool()
		conn, err := tls.Dial("tcp", address, o)
		if err != nil {
			return tls.ConnectionState{}, err
		}
		defer conn.Close()
		return conn.ConnectionState(), nil
	}
	state, err := dial(&tls.Config{NextProtos: []string{"h2", "http/1.1"}})
	if err != nil || state.Version != tls.VersionTLS13 || state.NegotiatedProtocol != "http/1.1" {
		t.Errorf("version %x, protocol %q, %v; want TLS 1.3 and http/1.1", state.Version, state.NegotiatedProtocol, err)
	}
	if state, err := dial(&tls.Config{MaxVersion: tls.VersionTLS12}); err != nil || state.Version != tls.VersionTLS12 {
		t.Errorf("TLS 1.2: version %x, %v", state.Version, err)
	}
	if _, err := dial(&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 was accepted")
	}
	if _, err := dial(&tls.Config{NextProtos: []string{"h2"}}); err == nil {
		t.Error("h2 alone was accepted")
	}

	caFile := filepath.Join(t.TempDir(), "ca.pem")
	writeFile(t, caFile, ca.pem)
	u := newUser(t, s.URL, s.devKey())
	u.prints("is not trusted|HAREPOST_CA_FILE", exitNotNow, "domains", "list")
	u.env = append(u.env, "HAREPOST_CA_FILE="+caFile)
	u.prints("DOMAIN", exitOK, "domains", "list")

	// A new pair is used by connections that come after it, without a restart.
	newCert, newKey, second := ca.pair()
	files.put(newCert, newKey)
	eventually(t, "second", func() string {
		state, err := dial(&tls.Config{})
		switch {
		case err != nil:
			return err.Error()
		case state.PeerCertificates[0].SerialNumber.String() == second:
			return "second"
		case state.PeerCertificates[0].SerialNumber.String() != first:
			t.Fatalf("certificate %s was never given", state.PeerCertificates[0].SerialNumber)
		}
		return "first"
	})
	metrics := u.get(ca, s.URL+"/metrics")
	if !strings.Contains(metrics, "harepost_tls_certificate_not_after_timestamp_seconds") {
		t.Error("the end of the certificate is not among the metrics")
	}

	// Plain HTTP gets nothing, and harms nothing.
	if resp, err := http.Get("http://" + address + "/healthz"); err == nil {
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			t.Error("plain HTTP was answered on a TLS listener")
		}
	}
	u.runs(exitOK, "domains", "list")
	if status := s.stop(); status != exitOK {
		t.Errorf("status %d\n%s", status, s.stderr.String())
	}
}

// get reads a URL of a server whose authority is ca.
func (u user) get(ca *authority, url string) string {
	u.t.Helper()
	c := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.pool()}, DisableKeepAlives: true}}
	resp, err := c.Get(url)
	if err != nil {
		u.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		u.t.Fatal(err)
	}
	documented(u.t, http.MethodGet, resp.Request.URL.RequestURI(), resp, text)
	return string(text)
}

// Connections count from the moment they are accepted: those that never shake
// hands too. What is above the bound is told so, over TLS.
func TestTLSConnectionsAreBounded(t *testing.T) {
	ca := newAuthority(t)
	files := newMounted(t)
	cert, key, _ := ca.pair()
	files.put(cert, key)
	s := startServer(t, "--dev", "--tls-cert", files.cert, "--tls-key", files.key, "--max-connections", "1")
	address := strings.TrimPrefix(s.URL, "https://")
	silent, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	// Not with http.Client: a refusal does not wait for the request, and that
	// client may take an answer without one for a mistake.
	above, err := tls.Dial("tcp", address, &tls.Config{RootCAs: ca.pool()})
	if err != nil {
		t.Fatal(err)
	}
	defer above.Close()
	resp, err := http.ReadResponse(bufio.NewReader(above), nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	documented(t, http.MethodGet, "/healthz", resp, text)
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("above the bound: %d, Retry-After %q", resp.StatusCode, resp.Header.Get("Retry-After"))
	}
	silent.Close()
	c := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.pool()}, DisableKeepAlives: true}}
	eventually(t, "200", func() string {
		resp, err := c.Get(s.URL + "/healthz")
		if err != nil {
			return err.Error()
		}
		resp.Body.Close()
		return resp.Status
	})
}

// A client that says nothing, or stops half way, is given up after ten seconds
// of the bubble's clock.
func TestAHandshakeHasAnEnd(t *testing.T) {
	ca := newAuthority(t)
	files := newMounted(t)
	text, key, _ := ca.pair()
	files.put(text, key)
	cert, err := openCertificate(files.cert, files.key, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		began := time.Now()
		conn := &tlsConn{Conn: tls.Server(near, cert.config())}
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("a byte was read from somebody who said nothing")
		}
		if took := time.Since(began); took != handshakeTimeout {
			t.Errorf("given up after %s, want %s", took, handshakeTimeout)
		}
	})
}

// Who can be reached without TLS by others than this machine says so; who
// cannot, does not.
func TestPlainHTTPForOthersIsWarnedOf(t *testing.T) {
	ca := newAuthority(t)
	files := newMounted(t)
	cert, key, _ := ca.pair()
	files.put(cert, key)
	f := func(want bool, args ...string) {
		t.Helper()
		s := startServer(t, append(args, "--open-signup")...)
		if status := s.stop(); status != exitOK {
			t.Errorf("status %d", status)
		}
		if got := strings.Contains(s.stderr.String(), "the API is plain HTTP on an address that others may reach"); got != want {
			t.Errorf("%q: warned %v, want %v:\n%s", args, got, want, s.stderr.String())
		}
	}
	f(true, "--listen", "0.0.0.0:0")
	f(false, "--listen", "127.0.0.1:0")
	f(false, "--listen", "0.0.0.0:0", "--tls-cert", files.cert, "--tls-key", files.key)
	f(false, "--listen", "", "--unix-socket", filepath.Join(socketDir(t), "s"))
}
