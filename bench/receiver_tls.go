package bench

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
	"sync"
	"time"
)

// An authority signs certificates for the addresses of a receiver, on demand: no
// certificate could name a hundred thousand of them. It lives in memory and ends
// with the process.
type authority struct {
	cert *x509.Certificate
	pem  []byte
	key  *ecdsa.PrivateKey // of the authority and of all certificates

	mu     sync.Mutex
	issued map[string]*tls.Certificate // by address, or name
}

const (
	// maxIssued bounds the certificates kept; beyond it all are made anew.
	maxIssued = 4096
	// certificateLife is longer than any run.
	certificateLife = 30 * 24 * time.Hour
)

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("bench: receiver: make a key: %w", err)
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "harepost bench"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(certificateLife),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("bench: receiver: make an authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("bench: receiver: make an authority: %w", err)
	}
	return &authority{
		cert: cert, key: key, issued: make(map[string]*tls.Certificate),
		pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
	}, nil
}

func (a *authority) config() *tls.Config {
	return &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if hello.ServerName != "" {
			return a.wildcard()
		}
		return a.certificate(hello.Conn.LocalAddr().(*net.TCPAddr).IP)
	}}
}

// wildcard is the certificate of all hosts that have a name.
func (a *authority) wildcard() (*tls.Certificate, error) {
	const name = "*." + receiverDomain
	return a.issue(name, x509.Certificate{DNSNames: []string{name}})
}

// certificate is the one for an address.
func (a *authority) certificate(ip net.IP) (*tls.Certificate, error) {
	return a.issue(string(ip), x509.Certificate{IPAddresses: []net.IP{ip}})
}

// issue signs a certificate, unless it is kept from before under its key.
func (a *authority) issue(key string, template x509.Certificate) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.issued[key]; c != nil {
		return c, nil
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = a.cert.NotBefore, a.cert.NotAfter
	template.KeyUsage, template.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	der, err := x509.CreateCertificate(rand.Reader, &template, a.cert, &a.key.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("bench: receiver: make a certificate for %x: %w", key, err)
	}
	if len(a.issued) >= maxIssued {
		clear(a.issued)
	}
	c := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: a.key}
	a.issued[key] = c
	return c, nil
}
