package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// certificateCheck is how often, at most, the files are looked at.
const certificateCheck = time.Second

// certificateBytes bounds a certificate file and a key file each.
const certificateBytes = 1 << 20

// A certificate is the pair of --tls-cert and --tls-key, read again when the
// files change. The handshakes look: once a second at most, one of them reads
// both files, and compares what they hold and not what the file system says of
// them. So a symbolic link that is swapped, as Kubernetes does it, is a change
// like any other, and nothing runs while nobody connects.
//
// A pair that cannot be used (one file is new and the other not yet, or it is
// broken for good) leaves the old one in use; that is logged once for every
// such content.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger
	now               func() time.Time

	current atomic.Pointer[tls.Certificate]
	checked atomic.Int64 // Unix nanoseconds of the last look

	mu   sync.Mutex // held by the handshake that reads the files
	seen [sha256.Size]byte
	lost bool // the files could not be read the last time
}

// openCertificate reads the pair for the first time; then it has to be right.
func openCertificate(certFile, keyFile string, log *slog.Logger) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log, now: time.Now}
	c.checked.Store(c.now().UnixNano())
	cert, key, err := c.read()
	if err != nil {
		return nil, err
	}
	pair, err := parsePair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("--tls-cert %s, --tls-key %s: %w", certFile, keyFile, err)
	}
	c.seen = digest(cert, key)
	c.current.Store(pair)
	return c, nil
}

// config is what a TLS listener needs: TLS 1.2 and up, and HTTP/1.1, the only
// version that the API speaks.
func (c *certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.get(), nil },
	}
}

// get returns the pair to use now.
func (c *certificate) get() *tls.Certificate {
	c.look()
	return c.current.Load()
}

// notAfter is when the certificate in use ends.
func (c *certificate) notAfter() time.Time { return c.current.Load().Leaf.NotAfter }

// look reads the files when it is time, unless another handshake does: that
// one's result is for the next.
func (c *certificate) look() {
	now := c.now().UnixNano()
	if now-c.checked.Load() < int64(certificateCheck) || !c.mu.TryLock() {
		return
	}
	defer c.mu.Unlock()
	c.checked.Store(now)
	cert, key, err := c.read()
	if err != nil {
		if !c.lost {
			c.log.Error("the TLS certificate cannot be read, the old one stays in use", "error", err)
		}
		c.lost = true
		return
	}
	c.lost = false
	sum := digest(cert, key)
	if sum == c.seen {
		return
	}
	c.seen = sum
	pair, err := parsePair(cert, key)
	if err != nil {
		c.log.Error("the new TLS certificate cannot be used, the old one stays in use",
			"cert", c.certFile, "key", c.keyFile, "error", err)
		return
	}
	c.current.Store(pair)
	c.log.Info("the TLS certificate was replaced", "cert", c.certFile, "not_after", c.notAfter())
}

func (c *certificate) read() (cert, key []byte, err error) {
	if cert, err = readBounded(c.certFile, certificateBytes); err != nil {
		return nil, nil, fmt.Errorf("--tls-cert: %w", err)
	}
	if key, err = readBounded(c.keyFile, certificateBytes); err != nil {
		return nil, nil, fmt.Errorf("--tls-key: %w", err)
	}
	return cert, key, nil
}

// parsePair makes a pair that has its Leaf.
func parsePair(cert, key []byte) (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	if pair.Leaf == nil {
		return nil, errors.New("no certificate")
	}
	return &pair, nil
}

// digest tells two contents apart, so that the key is not kept as text.
func digest(cert, key []byte) [sha256.Size]byte {
	a, b := sha256.Sum256(cert), sha256.Sum256(key)
	return sha256.Sum256(bytes.Join([][]byte{a[:], b[:]}, nil))
}

// readBounded reads a whole file that may not be larger than limit.
func readBounded(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is larger than %s", name, bytesText(limit))
	}
	return b, err
}
