package raftstore

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The CA's files in a directory of certificates. A node's are named after it.
const (
	caName     = "ca"
	certSuffix = ".pem"
	keySuffix  = "-key.pem"
)

// CertOptions say what MakeCerts makes.
type CertOptions struct {
	// Dir gets the files. It is made if it is not there. Where it has a CA, that
	// one signs.
	Dir string
	// Nodes are the ids of the nodes to make certificates for.
	Nodes []string
	// Hosts are names and addresses that the certificates are valid for beside
	// their nodes' ids. Nodes do not need them; other tools may.
	Hosts []string
	// Valid and CAValid are how long a node's certificate and a new CA's are good.
	// Default one year and ten. No certificate outlives its CA.
	Valid, CAValid time.Duration
	// Force replaces certificates of nodes that are there. A CA is never replaced.
	Force bool
	// Now is the time that validity counts from.
	Now time.Time
}

// MadeCert is a certificate that MakeCerts wrote.
type MadeCert struct {
	NodeID    string // empty for the CA
	Cert, Key string // its files
	NotAfter  time.Time
}

// MakeCerts writes a CA and node certificates: ECDSA on P-256, in PEM.
//
//	DIR/ca.pem      DIR/ca-key.pem      for whoever adds nodes, and nobody else
//	DIR/n1.pem      DIR/n1-key.pem      for node n1, with ca.pem
//
// It refuses to replace anything before it has written anything, and returns what
// it made, also beside an error. Every file appears whole or not at all, and keys
// can be read by their owner alone.
func MakeCerts(o CertOptions) ([]MadeCert, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("raftstore: make certificates: %w", err)
	}
	var made []MadeCert
	ca, isNew, err := o.authority()
	if err != nil {
		return nil, err
	}
	if isNew {
		m, err := o.write("", ca.leaf.Raw, ca.key, ca.leaf.NotAfter)
		if err != nil {
			return nil, err
		}
		made = append(made, m)
	}
	for _, id := range o.Nodes {
		m, err := o.node(ca, id)
		if err != nil {
			return made, err
		}
		made = append(made, m)
	}
	return made, nil
}

// check refuses contradictions and what would have to be replaced.
func (o *CertOptions) check() error {
	if o.Valid == 0 {
		o.Valid = 365 * 24 * time.Hour
	}
	if o.CAValid == 0 {
		o.CAValid = 10 * 365 * 24 * time.Hour
	}
	if o.Valid < 0 || o.CAValid < 0 {
		return errors.New("raftstore: certificates are valid for a positive time")
	}
	if len(o.Nodes) == 0 {
		return errors.New("raftstore: no node to make a certificate for")
	}
	seen := make(map[string]bool)
	for _, id := range o.Nodes {
		if err := ValidNodeID(id); err != nil {
			return err
		}
		if id == caName || strings.HasSuffix(id+certSuffix, keySuffix) {
			return fmt.Errorf("raftstore: node %q would have the files of another: give it another id", id)
		}
		if seen[id] {
			return fmt.Errorf("raftstore: node %q is named twice", id)
		}
		seen[id] = true
	}
	for _, host := range o.Hosts {
		if host == "" || strings.HasSuffix(strings.ToLower(host), nodeDomain) || strings.ContainsAny(host, " /:*") && !isIP(host) {
			return fmt.Errorf("raftstore: %q is no host name and no address that a certificate could be for", host)
		}
	}
	if o.Force {
		return nil
	}
	for _, id := range o.Nodes {
		for _, suffix := range []string{certSuffix, keySuffix} {
			if there(o.path(id, suffix)) {
				return fmt.Errorf("raftstore: %s is there, and nothing was written: --force replaces it", o.path(id, suffix))
			}
		}
	}
	return nil
}

func isIP(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

func (o *CertOptions) path(name, suffix string) string { return filepath.Join(o.Dir, name+suffix) }

func there(name string) bool {
	_, err := os.Lstat(name)
	return !errors.Is(err, fs.ErrNotExist)
}

// authority is a CA that can sign.
type authority struct {
	leaf *x509.Certificate
	key  *ecdsa.PrivateKey
}

// authority reads the directory's CA, or makes one if there is none.
func (o *CertOptions) authority() (ca authority, isNew bool, err error) {
	certFile, keyFile := o.path(caName, certSuffix), o.path(caName, keySuffix)
	switch cert, key := there(certFile), there(keyFile); {
	case !cert && !key:
		ca, err = o.newAuthority()
		return ca, true, err
	case !cert || !key:
		return ca, false, fmt.Errorf("raftstore: %s and %s belong together, and one is not there: bring it back to add nodes, or give another directory for a new CA", certFile, keyFile)
	}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return ca, false, fmt.Errorf("raftstore: the CA of %s: %w", o.Dir, err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	switch {
	case !ok:
		return ca, false, fmt.Errorf("raftstore: %s is no ECDSA key", keyFile)
	case !pair.Leaf.IsCA:
		return ca, false, fmt.Errorf("raftstore: %s is no CA's certificate", certFile)
	case !o.Now.Before(pair.Leaf.NotAfter):
		return ca, false, fmt.Errorf("raftstore: the CA of %s ended on %s: make a new one in another directory", o.Dir, pair.Leaf.NotAfter.UTC().Format(time.DateOnly))
	}
	return authority{pair.Leaf, key}, false, nil
}

func (o *CertOptions) newAuthority() (authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return authority{}, err
	}
	template := &x509.Certificate{
		// The name tells two CAs apart to who looks at what is refused.
		Subject:               pkix.Name{CommonName: "harepost cluster CA " + strings.ToLower(rand.Text()[:8])},
		NotBefore:             o.Now.Add(-clockSkew),
		NotAfter:              o.Now.Add(o.CAValid),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	leaf, err := sign(template, template, key, key)
	return authority{leaf, key}, err
}

// clockSkew is how far behind ours the clock of a node may be that gets a
// certificate at once.
const clockSkew = time.Hour

// node makes the certificate of a node.
func (o *CertOptions) node(ca authority, id string) (MadeCert, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return MadeCert{}, err
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: id},
		DNSNames:    []string{id + nodeDomain, id},
		NotBefore:   o.Now.Add(-clockSkew),
		NotAfter:    o.Now.Add(o.Valid),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if template.NotAfter.After(ca.leaf.NotAfter) {
		template.NotAfter = ca.leaf.NotAfter
	}
	for _, host := range o.Hosts {
		if ip, err := netip.ParseAddr(host); err == nil {
			template.IPAddresses = append(template.IPAddresses, ip.AsSlice())
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	leaf, err := sign(template, ca.leaf, key, ca.key)
	if err != nil {
		return MadeCert{}, err
	}
	return o.write(id, leaf.Raw, key, leaf.NotAfter)
}

// sign makes a certificate of template for key. Its serial number is drawn.
func sign(template, parent *x509.Certificate, key, by *ecdsa.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
	if err != nil {
		return nil, fmt.Errorf("raftstore: sign a certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}

// write writes the files of a node, or of the CA if id is empty: the key first,
// so that a certificate that is there has one.
func (o *CertOptions) write(id string, cert []byte, key *ecdsa.PrivateKey, end time.Time) (MadeCert, error) {
	name, replace := id, o.Force
	if id == "" {
		name, replace = caName, false
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return MadeCert{}, fmt.Errorf("raftstore: the key of %s: %w", name, err)
	}
	m := MadeCert{NodeID: id, Cert: o.path(name, certSuffix), Key: o.path(name, keySuffix), NotAfter: end}
	if err := writePEM(m.Key, "PRIVATE KEY", private, 0o600, replace); err != nil {
		return MadeCert{}, err
	}
	if err := writePEM(m.Cert, "CERTIFICATE", cert, 0o644, replace); err != nil {
		return MadeCert{}, err
	}
	return m, nil
}

// writePEM writes a file that appears whole or not at all. Without replace it
// has to be new.
func writePEM(name, kind string, der []byte, mode fs.FileMode, replace bool) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("raftstore: write %s: %w", name, err)
		}
	}()
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already where it was renamed
	err = pem.Encode(f, &pem.Block{Type: kind, Bytes: der})
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if replace {
		return os.Rename(f.Name(), name)
	}
	return os.Link(f.Name(), name) // which fails where there is something
}
