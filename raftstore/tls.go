package raftstore

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// nodeDomain ends the name that makes a certificate one of a node: node n1 has
// n1.harepost.internal. Nothing resolves it.
const nodeDomain = ".harepost.internal"

// maxNodeID is the length of a DNS label.
const maxNodeID = 63

// ValidNodeID returns an error that says what a node id is, unless id is one.
func ValidNodeID(id string) error {
	ok := id != "" && len(id) <= maxNodeID && id[0] != '-' && id[len(id)-1] != '-'
	for _, c := range []byte(id) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-')
	}
	if !ok {
		return fmt.Errorf("raftstore: %q is no node id: give 1 to %d of a-z, 0-9 and '-', not '-' at either end", id, maxNodeID)
	}
	return nil
}

// nodeIDOf returns the node that a certificate is for. It has to have exactly
// one name of nodeDomain: without one it was made for something else, and with
// two its holder could pose as either.
func nodeIDOf(chain []*x509.Certificate) (string, error) {
	if len(chain) == 0 {
		return "", errors.New("no certificate")
	}
	found := ""
	for _, name := range chain[0].DNSNames {
		id, ok := strings.CutSuffix(name, nodeDomain)
		if !ok {
			continue
		}
		if err := ValidNodeID(id); err != nil {
			return "", fmt.Errorf("the certificate's name %s: %w", name, err)
		}
		if found != "" && found != id {
			return "", fmt.Errorf("the certificate is for two nodes, %q and %q", found, id)
		}
		found = id
	}
	if found == "" {
		return "", fmt.Errorf("the certificate is for no node: its alternative names need one as n1%s, it has %q", nodeDomain, chain[0].DNSNames)
	}
	return found, nil
}

// wrongNodeError is the certificate of another node than was expected.
type wrongNodeError struct{ got, want string }

func (e *wrongNodeError) Error() string {
	return fmt.Sprintf("the certificate is for node %q and not for %q", e.got, e.want)
}

// ClusterTLSFiles name the PEM files of a node: its certificate (with those
// between it and the CA, if any), its key, and the certificates of the CA.
type ClusterTLSFiles struct{ Cert, Key, CA string }

// checkFiles is how often, at most, the files are looked at; pemBytes bounds
// each.
const (
	checkFiles = time.Second
	pemBytes   = 1 << 20
)

// ClusterTLS is what a node proves its id by, and knows others by. Every node
// holds a certificate of the cluster's own CA for both client and server use,
// whose names include <id>.harepost.internal. Whoever holds one is a member: the
// CA should make certificates for nothing else.
//
// The files are read again when they change: once a second at most, a handshake
// reads all three and compares what they hold. What cannot be used (one file is
// new and the other not yet, another node's certificate, one that has expired)
// leaves the old in use; that is logged once for every such content, which is tried
// again all the same: the time of a certificate may be still to come. Connections
// there are go on as they are. No goroutine watches.
type ClusterTLS struct {
	files ClusterTLSFiles
	id    string // what the first certificate was for; others are refused
	log   *slog.Logger
	now   func() time.Time

	current atomic.Pointer[identity]
	checked atomic.Int64 // Unix nanoseconds of the last look

	mu   sync.Mutex        // held by the handshake that reads the files
	used [sha256.Size]byte // what current is of
	seen [sha256.Size]byte // what was there the last time
	lost bool              // the files could not be read the last time

	warnAt time.Time // next, of the end; WarnOfEnd's
}

// identity is what the files held at one moment.
type identity struct {
	id    string
	cert  tls.Certificate
	roots *x509.CertPool
	ends  time.Time // the certificate's time, or that of the CA that it needs, whichever is first
}

// LoadClusterTLS reads the files for the first time; then they have to be right.
// log gets what is found about them later; nil is slog.Default().
func LoadClusterTLS(files ClusterTLSFiles, log *slog.Logger) (*ClusterTLS, error) {
	return loadClusterTLS(files, log, time.Now)
}

func loadClusterTLS(files ClusterTLSFiles, log *slog.Logger, now func() time.Time) (*ClusterTLS, error) {
	if log == nil {
		log = slog.Default()
	}
	t := &ClusterTLS{files: files, log: log, now: now}
	t.checked.Store(now().UnixNano())
	texts, err := t.read()
	if err != nil {
		return nil, err
	}
	id, err := t.parse(texts)
	if err != nil {
		return nil, fmt.Errorf("raftstore: --cluster-cert %s, --cluster-key %s, --cluster-ca %s: %w", files.Cert, files.Key, files.CA, err)
	}
	t.id, t.used = id.id, texts.digest()
	t.current.Store(id)
	return t, nil
}

// NodeID returns the node that the certificate is for.
func (t *ClusterTLS) NodeID() string { return t.id }

// NotAfter returns when the certificate in use ends, or its CA, if that is before.
func (t *ClusterTLS) NotAfter() time.Time { return t.current.Load().ends }

// How long before the end of a certificate it is warned of, and how often.
const (
	endsSoon  = 14 * 24 * time.Hour
	warnEvery = 24 * time.Hour
)

// WarnOfEnd logs that the certificate in use, or its CA, ends soon or has ended: once a
// day, however often it is called. One goroutine calls it.
func (t *ClusterTLS) WarnOfEnd() {
	now := t.now()
	soon := func() bool { return now.Add(endsSoon).After(t.NotAfter()) }
	if !soon() {
		return
	}
	// There may be a new one, which no handshake has needed yet.
	if t.look(); !soon() || now.Before(t.warnAt) {
		return
	}
	t.warnAt = now.Add(warnEvery)
	t.log.Warn("the cluster certificate or its CA ends soon, or has ended: other nodes refuse this one then; make a new one and copy it over the old, it is taken without a restart",
		"node", t.id, "cert", t.files.Cert, "ca", t.files.CA, "not_after", t.NotAfter())
}

// server is the configuration of one accepted connection.
func (t *ClusterTLS) server() *tls.Config {
	id := t.get()
	c := t.config(id)
	c.ClientAuth = tls.RequireAndVerifyClientCert
	c.ClientCAs = id.roots
	c.VerifyConnection = func(s tls.ConnectionState) error {
		_, err := nodeIDOf(s.PeerCertificates)
		return err
	}
	// A ticket would be sent after the handshake, and a connection that waits
	// would have something to read that nobody asked for.
	c.SessionTicketsDisabled = true
	return c
}

// client is the configuration of one dialed connection to the node want, or to
// any if want is empty.
//
// crypto/tls verifies a server by a name that has to be known before, and not at
// all otherwise. So it is told not to, and VerifyConnection does the same in both
// cases: the chain up to our CA, for server use, and then the node's id.
func (t *ClusterTLS) client(want string) *tls.Config {
	id := t.get()
	c := t.config(id)
	c.InsecureSkipVerify = true
	// Of its own accord crypto/tls sends no certificate that the server will not
	// accept. Then the server could not say whose it refused.
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &id.cert, nil }
	c.VerifyConnection = func(s tls.ConnectionState) error {
		if _, err := t.verify(s.PeerCertificates, id.roots, x509.ExtKeyUsageServerAuth); err != nil {
			return err
		}
		got, err := nodeIDOf(s.PeerCertificates)
		if err == nil && want != "" && got != want {
			err = &wrongNodeError{got: got, want: want}
		}
		return err
	}
	return c
}

func (t *ClusterTLS) config(id *identity) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{id.cert},
		NextProtos:   []string{"harepost-cluster"},
		Time:         t.now,
	}
}

// verify checks a chain up to roots, at this moment and for usage. It returns when that
// ends to be so.
func (t *ClusterTLS) verify(chain []*x509.Certificate, roots *x509.CertPool, usage x509.ExtKeyUsage) (ends time.Time, err error) {
	if len(chain) == 0 {
		return ends, errors.New("no certificate")
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	ways, err := chain[0].Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: between,
		CurrentTime:   t.now(),
		KeyUsages:     []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		return ends, &tls.CertificateVerificationError{UnverifiedCertificates: chain, Err: err}
	}
	for _, way := range ways { // one is enough
		first := way[0].NotAfter
		for _, c := range way {
			if c.NotAfter.Before(first) {
				first = c.NotAfter
			}
		}
		if first.After(ends) {
			ends = first
		}
	}
	return ends, nil
}

// get returns what to use now.
func (t *ClusterTLS) get() *identity {
	t.look()
	return t.current.Load()
}

// look reads the files when it is time, unless another handshake does: that
// one's result is for the next.
func (t *ClusterTLS) look() {
	now := t.now().UnixNano()
	if now-t.checked.Load() < int64(checkFiles) || !t.mu.TryLock() {
		return
	}
	defer t.mu.Unlock()
	t.checked.Store(now)
	texts, err := t.read()
	if err != nil {
		if !t.lost {
			t.log.Error("the cluster certificate cannot be read, the old one stays in use", "error", err)
		}
		t.lost = true
		return
	}
	t.lost = false
	sum := texts.digest()
	fresh := sum != t.seen
	t.seen = sum
	if sum == t.used {
		return
	}
	id, err := t.parse(texts)
	if err == nil && id.id != t.id {
		err = &wrongNodeError{got: id.id, want: t.id}
	}
	if err != nil {
		if fresh {
			t.log.Error("the new cluster certificate cannot be used, the old one stays in use",
				"cert", t.files.Cert, "key", t.files.Key, "ca", t.files.CA, "error", err)
		}
		return
	}
	t.used = sum
	t.current.Store(id)
	t.log.Info("the cluster certificate was replaced", "node", t.id, "cert", t.files.Cert, "not_after", t.NotAfter())
}

// parse makes an identity of the files. It has to be one that other nodes of the
// same CA believe, in both directions.
func (t *ClusterTLS) parse(texts pemTexts) (*identity, error) {
	pair, err := tls.X509KeyPair(texts.cert, texts.key)
	if err != nil {
		return nil, err
	}
	chain := make([]*x509.Certificate, len(pair.Certificate))
	for i, der := range pair.Certificate {
		if chain[i], err = x509.ParseCertificate(der); err != nil {
			return nil, err
		}
	}
	pair.Leaf = chain[0]
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(texts.ca) {
		return nil, errors.New("the CA's file has no certificate")
	}
	id, err := nodeIDOf(chain)
	if err != nil {
		return nil, err
	}
	var ends time.Time // by either usage: a way up is good for both
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if ends, err = t.verify(chain, roots, usage); err != nil {
			return nil, fmt.Errorf("the certificate of node %q: %w", id, err)
		}
	}
	return &identity{id: id, cert: pair, roots: roots, ends: ends}, nil
}

// pemTexts are what the three files hold.
type pemTexts struct{ cert, key, ca []byte }

func (t *ClusterTLS) read() (texts pemTexts, err error) {
	for _, f := range []struct {
		flag, name string
		text       *[]byte
	}{
		{"--cluster-cert", t.files.Cert, &texts.cert},
		{"--cluster-key", t.files.Key, &texts.key},
		{"--cluster-ca", t.files.CA, &texts.ca},
	} {
		if *f.text, err = readPEM(f.name); err != nil {
			return texts, fmt.Errorf("raftstore: %s: %w", f.flag, err)
		}
	}
	return texts, nil
}

// digest tells two contents apart, so that the key is not kept as text.
func (p pemTexts) digest() [sha256.Size]byte {
	var sums [][]byte
	for _, text := range [][]byte{p.cert, p.key, p.ca} {
		sum := sha256.Sum256(text)
		sums = append(sums, sum[:])
	}
	return sha256.Sum256(bytes.Join(sums, nil))
}

// readPEM reads a whole file, which may not be larger than pemBytes.
func readPEM(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, pemBytes+1))
	if err == nil && len(text) > pemBytes {
		err = fmt.Errorf("%s is larger than 1 MiB", name)
	}
	return text, err
}
